"""The run's ConfigMap, which owns everything else, and its Secret."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Mapping
from typing import Any

from byok8s.batch.client import ApiError, KubeClient
from byok8s.batch.pods import RunIdentity
from byok8s.exceptions import Byok8sError


class RunRecord:
    """Makes and removes the two objects, both named after the run."""

    def __init__(self, client: KubeClient, run: RunIdentity) -> None:
        self._client = client
        self._run = run
        self._base = f"/api/v1/namespaces/{client.namespace}"
        self.owner: dict[str, Any] = {}  # the owner reference for pods and the Secret
        self.secret: str | None = None
        self._files: set[str] = set()

    def create(self, secret_files: Mapping[str, str]) -> None:
        """Make both, or find the ConfigMap of an earlier leader of the same run.

        Raises ApiError.
        """
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": self._metadata()}
        path = f"{self._base}/configmaps"
        try:
            made = self._client.create(path, body)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            made = self._client.get(f"{path}/{self._run.name}")
        self.owner = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": self._run.name,
            "uid": made["metadata"]["uid"],
        }
        if secret_files:
            self.put_secret(secret_files)

    def put_secret(self, files: Mapping[str, str]) -> None:
        """Make the Secret hold `files`; mounted copies follow within about a minute."""
        data: dict[str, str | None] = {
            name: base64.b64encode(text.encode()).decode() for name, text in files.items()
        }
        metadata = {**self._metadata(), "ownerReferences": [self.owner]}
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "type": "Opaque",
            "data": data,
        }
        path = f"{self._base}/secrets"
        try:
            self._client.create(path, body)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            obsolete = dict.fromkeys(self._files - data.keys())  # null removes
            self._client.patch(f"{path}/{self._run.name}", {"data": {**obsolete, **data}})
        self._files = set(files)
        self.secret = self._run.name

    def delete(self, *, keep_config_map: bool, patience: float) -> list[str]:
        """Remove the Secret and, unless kept, the ConfigMap; returns what could not be removed.

        With the ConfigMap the cluster removes whatever it owns, even if we stop here.
        """
        kinds = ["secrets"] if self.secret else []
        if not keep_config_map and self.owner:
            kinds.insert(0, "configmaps")
        return [f"{kind[:-1]}/{self._run.name}" for kind in kinds if not self._gone(kind, patience)]

    def _gone(self, kind: str, patience: float) -> bool:
        with contextlib.suppress(Byok8sError):
            try:
                self._client.call(
                    "DELETE",
                    f"{self._base}/{kind}/{self._run.name}",
                    body={"propagationPolicy": "Background"},
                    patience=patience,
                    timeout=max(1.0, patience),
                )
            except ApiError as error:
                if error.status != 404:
                    raise
            return True
        return False

    def _metadata(self) -> dict[str, Any]:
        return {"name": self._run.name, "labels": self._run.labels}
