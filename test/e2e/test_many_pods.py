"""Many pods at a time, on the real API server; their node has no kubelet, which the test plays."""

from __future__ import annotations

import statistics
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from byok8s.batch import BatchSystem, KubeClient, PodRequest, RunIdentity
from byok8s.batch import system as batch_system
from byok8s.cluster import ClusterInfo
from byok8s.settings import KubeSettings
from support.nodes import node_without_kubelet, put_on

COUNT = 1200


@pytest.fixture
def kubelet(cluster: ClusterInfo) -> Iterator[KubeClient]:
    """A client in a namespace of the test's own."""
    name = f"many-{uuid.uuid4().hex[:6]}"
    client = KubeClient.load(KubeSettings(context=cluster.context, namespace=name))
    client.create("/api/v1/namespaces", {"metadata": {"name": name}})
    yield client
    client.delete(f"/api/v1/namespaces/{name}")


def test_case_16_many_finished_pods_are_told_and_collected_within_a_minute(
    cluster: ClusterInfo, kubelet: KubeClient, monkeypatch: pytest.MonkeyPatch
):
    node = f"many-{uuid.uuid4().hex[:6]}"
    manifest = batch_system.manifest

    def on_our_node(*args: Any, **kwargs: Any) -> dict[str, Any]:
        pod = manifest(*args, **kwargs)
        put_on(node, pod)
        return pod

    monkeypatch.setattr(batch_system, "manifest", on_our_node)
    client = KubeClient.load(KubeSettings(context=cluster.context, namespace=kubelet.namespace))
    pods = f"/api/v1/namespaces/{kubelet.namespace}/pods"
    reported: dict[str, float] = {}

    def report_end(name: str) -> None:
        reported[name] = time.monotonic()
        kubelet.patch(f"{pods}/{name}/status", {"status": ended()})

    with (
        node_without_kubelet(kubelet, node),
        BatchSystem(client, RunIdentity("many", "jane"), rate=0) as batch,
    ):
        for i in range(COUNT):
            batch.issue(PodRequest(f"job-{i}", image="x", command=("true",), cpu=0.001))
        names = made(kubelet, pods)
        began = time.monotonic()
        threading.Thread(target=lambda: list(ThreadPoolExecutor(4).map(report_end, names))).start()
        delays = []
        for _ in range(COUNT):
            news = batch.updates(60)
            assert news and news.state == "succeeded"
            delays.append(time.monotonic() - reported.pop(news.pod))
        while kubelet.get(pods, limit=1)["items"]:
            assert time.monotonic() - began < 60
            time.sleep(0.2)
        assert time.monotonic() - began < 60
        assert batch.updates(0.5) is None
    calls = sum(client.calls.values())  # with those that are for the run as a whole
    cut = statistics.quantiles(delays, n=100)
    print(f"{calls / COUNT:.3f} calls each; delays {cut[49]:.3f} s, 99th {cut[98]:.3f} s")
    assert cut[49] < 0.3
    assert calls / COUNT <= 1.2, client.calls


def made(client: KubeClient, pods: str) -> list[str]:
    """The names of all pods, once all are there."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        items = client.get(pods)["items"]
        if len(items) == COUNT:
            return [item["metadata"]["name"] for item in items]
        time.sleep(1)
    pytest.fail("not all pods were made in two minutes")


def ended() -> dict[str, Any]:
    """A pod's status as a kubelet reports it when the command has succeeded."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    terminated = {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}
    container = {"name": "job", "image": "x", "imageID": "x", "ready": False, "restartCount": 0}
    state = {"state": {"terminated": terminated}, "lastState": {}}
    return {"phase": "Succeeded", "containerStatuses": [{**container, **state}]}
