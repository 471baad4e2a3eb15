"""Lists of objects, in pages: an answer of thousands is a burden to the API server and to us."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from byok8s.batch.client import ApiError, KubeClient

PAGE = 500


@dataclass(frozen=True)
class Listed:
    """All objects of a list; `asked` is the monotonic time just before it was asked for."""

    items: list[dict[str, Any]]
    version: str
    asked: float


def list_all(
    client: KubeClient, path: str, query: Mapping[str, Any] | None = None, **options: Any
) -> Listed:
    """All pages of a list; `options` are those of the client's call. Raises ApiError."""
    while True:
        asked = time.monotonic()
        items: list[dict[str, Any]] = []
        page: dict[str, Any] = {"limit": PAGE, **(query or {})}
        try:
            while True:
                answer = client.call("GET", path, query=page, **options)
                if "items" not in answer:  # an empty list would say that all pods are gone
                    raise ApiError(0, "NotKubernetes", f"'{path}' was answered without a list.")
                items.extend(answer["items"] or ())
                metadata = answer.get("metadata") or {}
                token = metadata.get("continue")
                if not token:
                    return Listed(items, metadata.get("resourceVersion", ""), asked)
                page["continue"] = token
        except ApiError as error:
            if error.status != 410 or "continue" not in page:
                raise
            # the pages we have are too old to go on with: once more from the first
