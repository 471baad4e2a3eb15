"""What is known of the nodes, and what follows when it is not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from byok8s.batch import KubeClient, PodRequest
from byok8s.batch.nodes import Nodes
from byok8s.batch.placement import Placement
from support.fakeapi import Api, Asked, Says, refusal


def node(memory: str) -> dict[str, object]:
    return {"spec": {}, "status": {"allocatable": {"memory": memory, "cpu": "2"}}}


def test_a_pod_gets_the_largest_nodes_memory_less_what_other_pods_need(
    api: Api, client: KubeClient
):
    def answer(asked: Asked) -> Says:
        nodes = [node("4G"), node("64G"), node("8G")]
        return Says({"items": nodes, "groups": []}) if "kube-system" not in asked.path else Says()

    api.answer = answer
    nodes = Nodes(client)
    assert nodes.most_memory_mb() == 57600
    count = len(api.asked)
    assert nodes.most_memory_mb() == 57600
    assert len(api.asked) == count  # it is not asked for again so soon


def test_who_may_not_look_at_nodes_knows_nothing(api: Api, client: KubeClient):
    api.answer = lambda _: refusal(403, "Forbidden", "nodes is forbidden")
    assert Nodes(client).most_memory_mb() is None


def cluster(*nodes: dict[str, Any], groups: tuple[str, ...] = (), autoscaler: bool = False) -> Any:
    """An API server with these nodes and API groups, and perhaps a Cluster Autoscaler."""

    def answer(asked: Asked) -> Says:
        if asked.path == "/api/v1/nodes":
            return Says({"items": nodes})
        if asked.path == "/apis":
            return Says({"groups": [{"name": name} for name in groups]})
        return Says() if autoscaler else refusal(404, "NotFound", "not found")

    return answer


def large(provider: str = "", **devices: str) -> dict[str, Any]:
    amounts = {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti", **devices}
    return {"spec": {"providerID": provider}, "status": {"allocatable": amounts}}


def asks(**amounts: Any) -> PodRequest:
    return PodRequest("a", image="x", command=("true",), **amounts)


TOO_MUCH = [
    (asks(cpu=2000), "it asks for 2000 CPUs and the largest node has 64; ask for less (threads)"),
    (asks(memory_mb=5_000_000), "it asks for 5000000 MB of memory and the largest node has 274878"),
    (asks(disk_mb=2_000_000), "it asks for 2000000 MB of disk and the largest node has 1099512"),
    (
        asks(placement=Placement(gpus=1)),
        "it asks for 1 GPUs (nvidia.com/gpu) and the largest node has 0; ask for less (gpu)",
    ),
    (asks(placement=Placement(gpus=3, gpu_manufacturer="amd")), "the largest node has 2"),
]


@pytest.mark.parametrize(("request_", "words"), TOO_MUCH)
def test_case_4_what_no_node_has_is_refused(
    api: Api, client: KubeClient, request_: PodRequest, words: str
):
    api.answer = cluster(large(), large(**{"amd.com/gpu": "2"}))
    told = Nodes(client).never_fits(request_)
    assert told and told.startswith("No node is large enough for the pod: ") and words in told


def test_what_only_different_nodes_have_is_refused(api: Api, client: KubeClient):
    fast = {"cpu": "8", "memory": "16G", "nvidia.com/gpu": "1"}
    api.answer = cluster(large(), {"spec": {}, "status": {"allocatable": fast}})
    nodes = Nodes(client)
    assert nodes.never_fits(asks(cpu=8, memory_mb=16_000, placement=Placement(gpus=1))) is None
    told = nodes.never_fits(asks(cpu=32, memory_mb=1000, placement=Placement(gpus=1)))
    assert told and "it asks for 32 CPUs, 1000 MB of memory, 1 GPUs (nvidia.com/gpu)" in told
    assert "and no node has all of that" in told


@pytest.mark.parametrize(
    "answer",
    [
        cluster(large("aws:///eu-west-1a/i-1")),
        cluster(large(), groups=("karpenter.sh",)),
        cluster(large(), autoscaler=True),
        cluster(),
        lambda _: refusal(403, "Forbidden", "nodes is forbidden"),
    ],
)
def test_where_nodes_may_come_or_are_not_known_nothing_is_refused(
    api: Api, client: KubeClient, answer: Any
):
    api.answer = answer
    for request_, _ in TOO_MUCH:
        assert Nodes(client).never_fits(request_) is None


def test_what_one_node_has_is_not_refused(api: Api, client: KubeClient):
    api.answer = cluster(large(**{"nvidia.com/gpu": "8"}))
    request_ = asks(cpu=60, memory_mb=200_000, placement=Placement(gpus=8))
    assert Nodes(client).never_fits(request_) is None


def test_the_nodes_are_asked_for_once_however_many_want_to_know(api: Api, client: KubeClient):
    api.answer = cluster(large())
    nodes = Nodes(client)
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda _: nodes.never_fits(asks(cpu=100)), range(8)))
    assert all(told)
    assert len(api.asked) == 3


@pytest.mark.parametrize(
    ("sizes", "asked", "least"),
    [
        (("2",), 0.95, 0.668),  # two fit, and no third one
        (("4",), 0.95, 0.801),
        (("2", "4", "64"), 0.95, 0.942),  # on none of them one more
        (("2",), 3.0, 3.0),  # on none at all
    ],
)
def test_the_least_cpu_with_which_no_more_pods_fit(
    api: Api, client: KubeClient, sizes: tuple[str, ...], asked: float, least: float
):
    def sized(cpu: str) -> dict[str, Any]:
        return {"spec": {}, "status": {"allocatable": {"cpu": cpu, "memory": "64G"}}}

    api.answer = cluster(*map(sized, sizes))
    nodes = Nodes(client)
    nodes.refresh()
    request = PodRequest("a", "image", ("true",), cpu=asked)
    found = nodes.least_cpu(request)
    assert found == pytest.approx(least, abs=0.0006)
    assert [int(float(cpu) / found) for cpu in sizes] == [int(float(cpu) / asked) for cpu in sizes]


def test_where_nodes_may_come_all_is_asked_for(api: Api, client: KubeClient):
    api.answer = cluster(node("4G"), autoscaler=True)
    nodes = Nodes(client)
    nodes.refresh()
    assert nodes.least_cpu(PodRequest("a", "image", ("true",), cpu=0.95)) == 0.95
