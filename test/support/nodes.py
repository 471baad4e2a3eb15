"""Nodes that only the API server knows: what happens on them, a test says."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from byok8s.batch import ApiError, KubeClient


@contextmanager
def node_without_kubelet(client: KubeClient, name: str) -> Iterator[None]:
    """A Node that nobody reports for, and on which nothing else is put."""
    body = {"metadata": {"name": name}, "spec": {"unschedulable": True}}
    client.create("/api/v1/nodes", body)
    say_ready(client, name)
    try:
        yield
    finally:
        with suppress(ApiError):
            client.delete(f"/api/v1/nodes/{name}")


def say_ready(client: KubeClient, name: str) -> None:
    """What a kubelet says of its node now and then."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    ready = {"type": "Ready", "status": "True", "reason": "Test", "lastHeartbeatTime": now}
    client.patch(f"/api/v1/nodes/{name}/status", {"status": {"conditions": [ready]}})


@contextmanager
def healthy_node(client: KubeClient, name: str) -> Iterator[None]:
    """A Node that is reported ready all the time.

    Where all nodes are silent, Kubernetes takes itself for the one that is cut off, and leaves the
    pods of all of them alone.
    """
    over = threading.Event()

    def report() -> None:
        while not over.wait(5.0):
            with suppress(ApiError):
                say_ready(client, name)

    with node_without_kubelet(client, name):
        reporter = threading.Thread(target=report, daemon=True)
        reporter.start()
        try:
            yield
        finally:
            over.set()
            reporter.join()


def put_on(name: str, pod: dict[str, Any], **unreachable: int) -> None:
    """Past the scheduler, onto the node; `unreachable` says how long it stays there then."""
    pod["spec"]["nodeName"] = name
    kinds = ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")
    tolerated = {"operator": "Exists", "effect": "NoExecute", **unreachable}
    pod["spec"]["tolerations"] = [{"key": key, **tolerated} for key in kinds]
