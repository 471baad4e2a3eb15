"""What a real node does to running pods when it is short of something or lost, told as JSON.

Runs in a private machine (see the script of that name), by test_hardships.py: the kubelet is given
limits that it is beyond at once, killed, or made to evict what it runs, on a node of its own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from byok8s import cluster
from byok8s.batch import (
    BatchSystem,
    History,
    KubeClient,
    Limits,
    PodRequest,
    RetryPolicy,
    RunIdentity,
    Update,
)
from byok8s.batch import system as batch_system
from byok8s.cluster import ClusterInfo
from byok8s.cluster.native import components, processes
from byok8s.cluster.native.layout import Layout
from byok8s.progress import PlainReporter
from byok8s.settings import KubeSettings
from support.nodes import healthy_node

NAME = "hard"


def create() -> ClusterInfo:
    cluster.create(NAME, "native", PlainReporter(sys.stderr))
    found = cluster.find_by_context(f"byok8s-{NAME}")
    assert found is not None
    return found


@contextmanager
def kubelet_with(**settings: Any) -> Iterator[None]:
    """Have the kubelet run with other settings for a while."""
    path = Layout.of(NAME).config / "kubelet.json"
    before = path.read_text()
    restart_kubelet(json.dumps(json.loads(before) | settings))
    yield
    restart_kubelet(before)


def restart_kubelet(configuration: str) -> None:
    layout = Layout.of(NAME)
    (layout.config / "kubelet.json").write_text(configuration)
    processes.stop([processes.leaders(layout.root)["kubelet"]], layout.root, 10.0)
    processes.start(layout.root, components._kubelet(layout))


def kubelet_pid() -> int:
    return processes.leaders(Layout.of(NAME).root)["kubelet"].pid


class Lab:
    """A batch system, and what it tells of one job at a time."""

    def __init__(self, info: ClusterInfo) -> None:
        assert info.worker_image
        self.client = KubeClient.load(KubeSettings(context=info.context))
        command = ("bash", "-c", "sleep 1000")
        self.request = PodRequest("job", image=info.worker_image, command=command, cpu=0.05)

    @contextmanager
    def running(
        self, run: str, request: PodRequest | None = None, **limits: float
    ) -> Iterator[BatchSystem]:
        identity, limit = RunIdentity(run, "jane"), Limits(**limits)
        with BatchSystem(self.client, identity, limits=limit) as batch:
            batch.issue(request or self.request)
            wait_for(batch, "running")
            yield batch

    def tell(self, update: Update) -> dict[str, Any]:
        """The end of a job, and what follows from it where no retry is allowed."""
        decision = RetryPolicy(retries=0).decide(update, self.request, History())
        return {
            "cause": update.cause,
            "disruption": update.disruption,
            "message": update.message.replace(update.node or "?", "NODE"),
            "budget": decision.budget,
            "retry": decision.retry,
        }


def wait_for(batch: BatchSystem, state: str, within: float = 180.0) -> Update:
    deadline = time.monotonic() + within
    while (left := deadline - time.monotonic()) > 0:
        news = batch.updates(left)
        if news and news.state == state:
            return news
    raise AssertionError(f"no job was {state} in {within} s")


def short_of_memory(lab: Lab) -> dict[str, Any]:
    """The node is short of memory and evicts what it runs."""
    with lab.running("memory") as batch, kubelet_with(evictionHard={"memory.available": "99%"}):
        return lab.tell(wait_for(batch, "failed"))


def short_of_disk(lab: Lab) -> dict[str, Any]:
    """The pod fills the node's disk, as far as the node lets it, and is evicted."""
    room = os.statvfs(Layout.of(NAME).root)
    left = room.f_bavail * room.f_frsize - 400_000_000
    command = ("bash", "-c", "sleep 20; head -c 1200000000 /dev/zero > /work/large; sleep 1000")
    with (
        lab.running("disk", replace(lab.request, command=command)) as batch,
        kubelet_with(evictionHard={"nodefs.available": str(left)}),
    ):
        return lab.tell(wait_for(batch, "failed"))


def refused(lab: Lab) -> dict[str, Any]:
    """The node is short of disk from its start and takes back no pod."""
    with lab.running("refused") as batch, kubelet_with(evictionHard={"nodefs.available": "99%"}):
        return lab.tell(wait_for(batch, "failed"))


def lost(lab: Lab) -> dict[str, Any]:
    """The kubelet of a running pod says nothing any more; later it is back."""
    manifest = batch_system.manifest

    def soon_given_up(*args: Any, **kwargs: Any) -> dict[str, Any]:
        pod = manifest(*args, **kwargs)
        kind = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}
        names = ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")
        pod["spec"]["tolerations"] = [{"key": name, **kind} for name in names]
        return pod

    batch_system.manifest = soon_given_up
    try:
        with healthy_node(lab.client, "other"), lab.running("lost", terminating=5.0) as batch:
            pid = kubelet_pid()
            os.kill(pid, signal.SIGSTOP)
            told = lab.tell(wait_for(batch, "failed"))
            batch.issue(replace(lab.request, attempt=2, command=("true",)))
            os.kill(pid, signal.SIGCONT)
            told["again"] = wait_for(batch, "succeeded").attempt
    finally:
        batch_system.manifest = manifest
    return told


def critical(lab: Lab) -> dict[str, Any]:
    """A pod that the system needs is put on the node, and the kubelet makes room for it."""
    (node,) = lab.client.get("/api/v1/nodes")["items"]
    path = "/api/v1/namespaces/kube-system/pods"
    container = {
        "name": "c",
        "image": lab.request.image,
        "command": ["true"],
        "resources": {"requests": {"cpu": node["status"]["allocatable"]["cpu"]}},
    }
    pod = {
        "metadata": {"name": "critical"},
        "spec": {
            "nodeName": node["metadata"]["name"],
            "priorityClassName": "system-node-critical",
            "restartPolicy": "Never",
            "containers": [container],
        },
    }
    with lab.running("critical") as batch:
        lab.client.create(path, pod)
        told = lab.tell(wait_for(batch, "failed"))
    lab.client.delete(f"{path}/critical", {"gracePeriodSeconds": 0})
    return told


HARDSHIPS: dict[str, Callable[[Lab], dict[str, Any]]] = {
    "lost": lost,
    "critical": critical,
    "memory": short_of_memory,
    "disk": short_of_disk,
    "refused": refused,
}


def main() -> None:
    Path(os.environ["KUBECONFIG"]).parent.mkdir(parents=True)
    Path(os.environ["XDG_STATE_HOME"]).mkdir()
    lab = Lab(create())
    told = {}
    for name, hardship in HARDSHIPS.items():
        told[name] = hardship(lab)
        print(name, told[name], file=sys.stderr)
    cluster.delete(NAME, None, PlainReporter(sys.stderr))
    print(json.dumps(told))


if __name__ == "__main__":
    main()
