"""Measuring in peace: nobody else at work on the machine or in the cluster."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Self

import cpu
from byok8s.batch import ApiError, KubeClient
from byok8s.cluster.native.layout import Layout
from byok8s.exceptions import ClusterError

_SECONDS = 3.0


def wait_until_quiet(client: KubeClient, share: float = 0.25, patience: float = 600.0) -> bool:
    """Wait until nobody's pods live and less than `share` of the machine is busy for 3 s.

    False when that did not come about within `patience` seconds.
    """
    until = time.monotonic() + patience
    while time.monotonic() < until:
        busy, capacity = cpu.machine()
        time.sleep(_SECONDS)
        busy_after, capacity_after = cpu.machine()
        idle = busy_after - busy < share * (capacity_after - capacity)
        if idle and not strangers(client, ""):
            return True
    return False


def wait_until_swept(client: KubeClient, layout: Layout, patience: float = 90.0) -> None:
    """Wait until the kubelet has removed what pods that are gone have left on the node.

    It does once a minute, at some 4 s of CPU for 50 pods, which the next run would pay for.
    """
    left = layout.root / "containerd/io.containerd.grpc.v1.cri/sandboxes"
    until = time.monotonic() + patience
    while left.exists() and time.monotonic() < until:
        if len(list(left.iterdir())) <= len(client.get("/api/v1/pods")["items"]):
            return
        time.sleep(1.0)


@contextmanager
def own_namespace(client: KubeClient) -> Iterator[str]:
    """A namespace of its own; leaving waits until it is gone with all that was in it."""
    name = f"bench-{uuid.uuid4().hex[:8]}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    client.create("/api/v1/namespaces", body)
    try:
        # the official plugin's pods are refused before it is there
        _wait(client, f"/api/v1/namespaces/{name}/serviceaccounts/default", present=True)
        yield name
    finally:
        client.delete(f"/api/v1/namespaces/{name}")
        _wait(client, f"/api/v1/namespaces/{name}", present=False)


def _wait(client: KubeClient, path: str, *, present: bool) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        folder, _, name = path.rpartition("/")
        listing = client.get(folder, fieldSelector=f"metadata.name={name}")
        if bool(listing["items"]) == present:
            return
        time.sleep(0.3)
    raise ClusterError(f"{path} is {'not there' if present else 'still there'} after 2 min.")


def strangers(client: KubeClient, namespace: str) -> bool:
    """Whether pods that have not ended live outside the cluster's own namespace and this one."""
    fields = [f"metadata.namespace!={name}" for name in ("kube-system", namespace) if name]
    fields += [f"status.phase!={phase}" for phase in ("Succeeded", "Failed")]
    return bool(client.get("/api/v1/pods", fieldSelector=",".join(fields), limit=1)["items"])


class Lookout:
    """Calls `look` every so many seconds while its body runs."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self.look()

    def look(self) -> None:
        raise NotImplementedError


class Strangers(Lookout):
    """Looks every three seconds for pods of others; `seen` when there were some."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        super().__init__(_SECONDS)
        self.seen = False
        self._client = client
        self._namespace = namespace

    def look(self) -> None:
        with suppress(ApiError):
            self.seen = self.seen or strangers(self._client, self._namespace)
