"""What is known of the nodes, and what follows when it is not."""

from __future__ import annotations

from byok8s.batch import KubeClient
from byok8s.batch.nodes import Nodes
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
