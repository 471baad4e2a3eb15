"""Ends that only a real cluster can bring about, and the sentence for each (docs/causes.md).

What test_batch.py shows of ends is not repeated here.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from byok8s.batch import (
    BatchSystem,
    Budget,
    Cause,
    History,
    KubeClient,
    Limits,
    Placement,
    PodRequest,
    RetryPolicy,
    RunIdentity,
    Update,
    create,
)
from byok8s.batch import system as batch_system
from byok8s.batch.nodes import quantity
from byok8s.batch.placement import Volume
from byok8s.cluster import ClusterInfo
from byok8s.settings import KubeSettings
from support.nodes import node_without_kubelet, put_on
from support.webhook import webhook

Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def namespace(cluster: ClusterInfo) -> Iterator[KubeClient]:
    """A client in a namespace of the tests' own, which enforces Pod Security "restricted"."""
    name = f"causes-{uuid.uuid4().hex[:6]}"
    client = KubeClient.load(KubeSettings(context=cluster.context, namespace=name))
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    client.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    until(lambda: client.get(f"/api/v1/namespaces/{name}/serviceaccounts")["items"])
    yield client
    client.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def batch(namespace: KubeClient) -> Iterator[BatchSystem]:
    system = BatchSystem(namespace, RunIdentity(f"run-{uuid.uuid4().hex[:6]}", "Jane Doe"))
    system.start()
    yield system
    system.shutdown()


@pytest.fixture
def request_of(cluster: ClusterInfo) -> Callable[..., PodRequest]:
    def make(script: str, **more: Any) -> PodRequest:
        assert cluster.worker_image
        command = ("bash", "-c", script)
        made = PodRequest("job", image=cluster.worker_image, command=command, cpu=0.05)
        return replace(made, **more)

    return make


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], None]:
    """Has a pod made that byok8s would not make by itself."""

    def change_with(change: Change) -> None:
        def make(*args: Any, **kwargs: Any) -> dict[str, Any]:
            pod = manifest(*args, **kwargs)
            change(pod)
            return pod

        manifest = batch_system.manifest
        monkeypatch.setattr(batch_system, "manifest", make)

    return change_with


def until(condition: Callable[[], Any], within: float = 30) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.1)


def wait_for(batch: BatchSystem, *states: str, within: float = 60) -> Update:
    """The next update with one of these states."""
    deadline = time.monotonic() + within
    while (left := deadline - time.monotonic()) > 0:
        told = batch.updates(left)
        if told and told.state in states:
            return told
        assert not told or told.state not in ("succeeded", "failed"), told
    raise AssertionError(f"none of {states} in {within} s")


def node_of(client: KubeClient) -> dict[str, Any]:
    (node,) = client.get("/api/v1/nodes")["items"]
    return dict(node)


@contextmanager
def existing(client: KubeClient, path: str, body: dict[str, Any]) -> Iterator[None]:
    """An object while the body runs."""
    client.create(path, body)
    yield
    client.delete(f"{path}/{body['metadata']['name']}", {"gracePeriodSeconds": 0})


def test_preempted_by_a_pod_of_higher_priority(
    namespace: KubeClient,
    batch: BatchSystem,
    request_of: Callable[..., PodRequest],
    changed: Callable[[Change], None],
):
    name = f"first-{uuid.uuid4().hex[:6]}"
    changed(lambda pod: pod["spec"].update(priorityClassName=name) if is_rival(pod) else None)
    # of which the node has room for one
    request = request_of("sleep 100", cpu=0.6 * allocatable_cpu(namespace))
    batch.issue(request)
    node = wait_for(batch, "running").node
    with existing(namespace, "/apis/scheduling.k8s.io/v1/priorityclasses", priority(name)):
        batch.issue(replace(request, id="rival"))
        told = wait_for(batch, "failed")
        batch.kill(["rival"], deadline=10)
    assert (told.id, told.cause, told.disruption) == ("job", Cause.PREEMPTED, True)
    assert told.message == (
        f"The pod on node {node} was stopped: a pod of higher priority took its place."
    )


def is_rival(pod: dict[str, Any]) -> bool:
    return bool(pod["metadata"]["annotations"]["byok8s.io/id"] == "rival")


def priority(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "value": 1000}


def allocatable_cpu(client: KubeClient) -> float:
    return quantity(node_of(client)["status"]["allocatable"]["cpu"])


def test_a_node_that_is_tainted_noexecute(
    namespace: KubeClient, batch: BatchSystem, request_of: Callable[..., PodRequest]
):
    batch.issue(request_of("sleep 100"))
    node = wait_for(batch, "running").node
    with tainted(namespace, f"/api/v1/nodes/{node}"):
        told = wait_for(batch, "failed")
    assert (told.cause, told.disruption) == (Cause.NODE_LOST, True)
    assert told.message == (
        f"The pod on node {node} was stopped: its node became unreachable or was tainted."
    )


@contextmanager
def tainted(client: KubeClient, path: str) -> Iterator[None]:
    """A node that nothing may run on; afterwards the cluster's own pods are back."""
    before = client.get(path)["spec"].get("taints")
    taint = {"key": "byok8s.io/test", "effect": "NoExecute"}
    client.patch(path, {"spec": {"taints": [*(before or ()), taint]}})
    try:
        yield
    finally:
        client.patch(path, {"spec": {"taints": before}})
        dns = "/apis/apps/v1/namespaces/kube-system/deployments"
        until(lambda: all(map(is_available, client.get(dns)["items"])), 60)


def is_available(deployment: dict[str, Any]) -> bool:
    status = deployment["status"]
    return bool(status.get("availableReplicas", 0) == deployment["spec"]["replicas"])


def test_case_14_a_node_that_is_deleted_costs_no_retry(
    namespace: KubeClient,
    batch: BatchSystem,
    request_of: Callable[..., PodRequest],
    changed: Callable[[Change], None],
):
    name = f"removed-{uuid.uuid4().hex[:6]}"
    changed(lambda pod: put_on(name, pod) if pod_attempt(pod) == 1 else None)
    with node_without_kubelet(namespace, name):
        request = request_of("true")
        batch.issue(request)
        until(lambda: job_pods(namespace))
    told = wait_for(batch, "failed", within=150)
    assert (told.cause, told.disruption) == (Cause.NODE_LOST, True)
    assert told.message == f"The pod on node {name} was stopped: its node is gone."
    decision = RetryPolicy(retries=0).decide(told, request, History())
    assert decision.retry and decision.budget == Budget.DISRUPTIONS and not decision.charged
    batch.issue(decision.next_request(request))
    assert wait_for(batch, "succeeded").attempt == 2


def test_a_node_that_falls_silent_for_good(
    namespace: KubeClient,
    request_of: Callable[..., PodRequest],
    changed: Callable[[Change], None],
):
    name = f"silent-{uuid.uuid4().hex[:6]}"
    changed(lambda pod: put_on(name, pod, tolerationSeconds=1))
    identity = RunIdentity(f"run-{uuid.uuid4().hex[:6]}", "Jane Doe")
    with (
        node_without_kubelet(namespace, name),
        BatchSystem(namespace, identity, limits=Limits(terminating=5)) as batch,
    ):
        batch.issue(request_of("true"))
        told = wait_for(batch, "failed", within=150)
        for pod in job_pods(namespace):  # whose end nobody will confirm
            path = f"/api/v1/namespaces/{namespace.namespace}/pods/{pod['metadata']['name']}"
            namespace.delete(path, {"gracePeriodSeconds": 0})
    assert (told.cause, told.disruption) == (Cause.NODE_LOST, True)
    assert told.message == (
        f"The pod was deleted, but its node {name} does not confirm that it ended; if the node is "
        "lost, have it mended or removed (kubectl delete node)."
    )


def pod_attempt(pod: dict[str, Any]) -> int:
    return int(pod["metadata"]["labels"]["byok8s.io/attempt"])


def job_pods(client: KubeClient) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = client.get(f"/api/v1/namespaces/{client.namespace}/pods")["items"]
    return items


def test_a_node_that_does_not_accept_the_pod(
    namespace: KubeClient,
    batch: BatchSystem,
    request_of: Callable[..., PodRequest],
    changed: Callable[[Change], None],
):
    # past the scheduler, as when two of them fill a node at the same moment
    node = node_of(namespace)["metadata"]["name"]

    def misplace(pod: dict[str, Any]) -> None:
        pod["spec"]["nodeName"] = node
        pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "1000"

    changed(misplace)
    batch.issue(request_of("true"))
    told = wait_for(batch, "failed")
    assert (told.cause, told.disruption) == (Cause.NODE_REFUSED, True)
    assert told.message.startswith(f"The node {node} did not accept the pod: ")
    assert "Node didn't have enough resource: cpu" in told.message


def test_create_refused_by_pod_security_and_limit_range(
    namespace: KubeClient,
    batch: BatchSystem,
    request_of: Callable[..., PodRequest],
    changed: Callable[[Change], None],
):
    largest = {"type": "Container", "max": {"memory": "100M"}}
    limit_range = {"metadata": {"name": "small"}, "spec": {"limits": [largest]}}
    path = f"/api/v1/namespaces/{namespace.namespace}/limitranges"
    with existing(namespace, path, limit_range):
        batch.issue(request_of("true", memory_mb=500))
        told = wait_for(batch, "failed")
    assert (told.cause, told.disruption) == (Cause.CREATE_REFUSED, False)
    assert "maximum memory usage per Container is 100M, but limit is 500M" in told.message
    changed(lambda pod: pod["spec"].update(hostNetwork=True))
    batch.issue(request_of("true", attempt=2))
    told = wait_for(batch, "failed")
    assert told.cause == Cause.CREATE_REFUSED
    assert told.message.startswith("The API server refused the pod: ")
    assert 'violates PodSecurity "restricted:latest": host namespaces' in told.message


def test_create_refused_by_an_admission_webhook_or_waiting_for_one_that_is_down(
    namespace: KubeClient,
    batch: BatchSystem,
    request_of: Callable[..., PodRequest],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    monkeypatch.setattr(create, "PATIENCE_SECONDS", 1.0)  # before it is told
    with webhook(namespace, tmp_path) as hook:
        hook.refusal = lambda pod: "no pods on Fridays" if id_of(pod) == "bad" else None
        batch.issue(request_of("true", id="bad"))
        told = wait_for(batch, "failed")
        assert (told.cause, told.disruption) == (Cause.CREATE_REFUSED, False)
        assert told.message == (
            'The API server refused the pod: admission webhook "check.byok8s.example" denied the '
            "request: no pods on Fridays"
        )
        batch.issue(request_of("true", id="good"))  # the rest goes on
        assert wait_for(batch, "succeeded").id == "good"
        hook.down = True
        batch.issue(request_of("true", id="late"))
        told = wait_for(batch, "waiting")
        assert told.message.startswith(
            "The pod cannot be made now, and is tried again (--wait-limit api=TIME): "
            'Internal error occurred: failed calling webhook "check.byok8s.example"'
        )
        hook.down = False
        assert wait_for(batch, "succeeded").id == "late"


def id_of(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["annotations"]["byok8s.io/id"])


@pytest.mark.parametrize(
    ("placement", "said"),
    [
        (
            Placement(node_selector=(("byok8s.example/no", "such"),)),
            "1 node(s) didn't match Pod's node affinity/selector",
        ),
        (
            Placement(volumes=(Volume("pvc", "absent", "/data"),)),
            'persistentvolumeclaim "absent" not found',
        ),
    ],
    ids=["label", "claim"],
)
def test_no_node_may_take_the_pod(
    namespace: KubeClient, request_of: Callable[..., PodRequest], placement: Placement, said: str
):
    run = RunIdentity(f"run-{uuid.uuid4().hex[:6]}", "Jane Doe")
    with BatchSystem(namespace, run, limits=Limits(no_node=3)) as batch:
        batch.issue(request_of("true", placement=placement))
        waits = wait_for(batch, "waiting")
        ends = wait_for(batch, "failed")
    assert (ends.cause, ends.disruption) == (Cause.UNSCHEDULABLE, False)
    assert ends.message == waits.message and not waits.for_room
    assert waits.message.startswith(
        "No node may take the pod, however idle it is; correct the node selector, the toleration "
        "or the volume, or add such a node: 0/1 nodes are available: "
    )
    assert said in waits.message


def test_case_11_a_registry_that_refuses_and_one_that_is_slow(
    namespace: KubeClient, request_of: Callable[..., PodRequest]
):
    """A pull that takes long is no trouble yet; the limits count from the first refusal."""
    asked: list[float] = []

    class Registry(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(time.monotonic())
            time.sleep(10)
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="private"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    image = f"127.0.0.1:{server.server_port}/private/tool:1"
    run = RunIdentity(f"run-{uuid.uuid4().hex[:6]}", "Jane Doe")
    with BatchSystem(namespace, run, limits=Limits(image=3, image_absent=3)) as batch:
        batch.issue(request_of("true", image=image))
        waits = wait_for(batch, "waiting")
        assert time.monotonic() - asked[0] > 9, "nothing is wrong as long as the pull goes on"
        ends = wait_for(batch, "failed")
    server.shutdown()
    server.server_close()
    assert (ends.cause, ends.disruption) == (Cause.IMAGE_PULL, False)
    assert ends.message == waits.message
    said = f"The image '{image}' cannot be pulled; check its name and the registry's credentials: "
    assert ends.message.startswith(said)
    assert re.search(r"401 Unauthorized|authorization", ends.message)
