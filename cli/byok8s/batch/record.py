"""The run's ConfigMap, which owns everything else, and its Secret."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Mapping
from typing import Any

from byok8s.batch.client import ApiError, KubeClient
from byok8s.batch.lease import Lease
from byok8s.batch.pods import RunIdentity
from byok8s.exceptions import Byok8sError

SecretFiles = Mapping[str, str | bytes]


class RunRecord:
    """Makes and removes the two objects, both named after the run. The lease makes the first."""

    def __init__(self, client: KubeClient, run: RunIdentity, lease: Lease) -> None:
        self._client = client
        self._run = run
        self._lease = lease
        self._base = f"/api/v1/namespaces/{client.namespace}"
        self.secret: str | None = None
        self._files: set[str] = set()

    @property
    def owner(self) -> dict[str, Any]:
        """The owner reference for pods and the Secret."""
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": self._run.name,
            "uid": self._lease.uid,
        }

    def create(self, secret_files: SecretFiles) -> None:
        """Make both, or take over those of a dead leader of the same run.

        Raises RunIsLed and ApiError.
        """
        if not self._lease.held:
            self._lease.acquire()
        if secret_files:
            self.put_secret(secret_files)

    def put_secret(self, files: SecretFiles) -> None:
        """Make the Secret hold `files`; mounted copies follow within about a minute."""
        data: dict[str, str | None] = {
            name: base64.b64encode(data if isinstance(data, bytes) else data.encode()).decode()
            for name, data in files.items()
        }
        owners = {"ownerReferences": [self.owner]}
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self._run.name, "labels": self._run.labels, **owners},
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
            # an owner that is gone would take the Secret along
            change = {"metadata": owners, "data": {**obsolete, **data}}
            self._client.patch(f"{path}/{self._run.name}", change)
        self._files = set(files)
        self.secret = self._run.name

    def delete(self, *, keep_config_map: bool, patience: float) -> list[str]:
        """Remove the Secret and, unless kept, the ConfigMap; returns what could not be removed.

        With the ConfigMap the cluster removes whatever it owns, even if we stop here.
        """
        kinds = ["secrets"] if self.secret or self._lease.before else []
        if not keep_config_map and self._lease.uid:
            kinds.insert(0, "configmaps")
        self._lease.stop()
        remaining = remove(self._client, self._run.name, kinds, patience)
        if keep_config_map and self._lease.uid:
            with contextlib.suppress(Byok8sError):
                self._lease.release()
        self._lease.end()
        return remaining


def remove(client: KubeClient, run: str, kinds: list[str], patience: float) -> list[str]:
    """Delete the run's objects of these kinds; returns the names of those that may remain."""
    return [f"{kind[:-1]}/{run}" for kind in kinds if not _gone(client, run, kind, patience)]


def _gone(client: KubeClient, run: str, kind: str, patience: float) -> bool:
    with contextlib.suppress(Byok8sError):
        try:
            client.call(
                "DELETE",
                f"/api/v1/namespaces/{client.namespace}/{kind}/{run}",
                body={"propagationPolicy": "Background"},
                patience=patience,
                timeout=max(1.0, patience),
            )
        except ApiError as error:
            if error.status != 404:
                raise
        return True
    return False
