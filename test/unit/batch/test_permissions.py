"""What an account may not do is found with one call where the cluster's rules say enough."""

from __future__ import annotations

from typing import Any

import pytest
from byok8s.batch import KubeClient
from byok8s.batch.permissions import Action, forbidden
from byok8s.exceptions import ClusterError
from support.fakeapi import Api, Asked, Says, refusal

WANTED = [
    Action("create", "pods"),
    Action("get", "pods", "log"),
    Action("patch", "leases", group="coordination.k8s.io"),
]


def rule(verbs: str, groups: str, kinds: str, **more: Any) -> dict[str, Any]:
    return {
        "verbs": verbs.split(),
        "apiGroups": groups.split(","),
        "resources": kinds.split(),
        **more,
    }


def answer(api: Api, rules: list[dict[str, Any]], allowed: bool = False) -> None:
    def say(asked: Asked) -> Says:
        if asked.path.endswith("selfsubjectrulesreviews"):
            assert asked.body["spec"] == {"namespace": "lab"}
            return Says({"status": {"resourceRules": rules, "incomplete": True}}, 201)
        return Says({"status": {"allowed": allowed}}, 201)

    api.answer = say


FULL = [
    [rule("*", "*", "*")],
    [
        rule("create get", "", "pods"),
        rule("get", "", "pods/log"),
        rule("patch", "coordination.k8s.io", "leases"),
    ],
    [rule("create", "", "pods"), rule("get", "", "*/log"), rule("*", "coordination.k8s.io", "*")],
]


@pytest.mark.parametrize("rules", FULL)
def test_rules_that_allow_all_cost_one_call(
    api: Api, client: KubeClient, rules: list[dict[str, Any]]
) -> None:
    answer(api, rules)
    assert forbidden(client, WANTED) == []
    assert len(api.asked) == 1


LACKING = [
    ([], "create pods, get pods/log, patch leases"),
    ([rule("create", "", "pods"), rule("patch", "", "leases")], "get pods/log, patch leases"),
    ([rule("*", "*", "pods")], "get pods/log, patch leases"),
    (
        [rule("create patch get", "*", "pods pods/log leases", resourceNames=["one"])],
        "create pods, get pods/log, patch leases",
    ),
]


@pytest.mark.parametrize(("rules", "missing"), LACKING)
def test_what_the_rules_do_not_name_is_asked_for(
    api: Api, client: KubeClient, rules: list[dict[str, Any]], missing: str
) -> None:
    answer(api, rules)
    assert ", ".join(map(str, forbidden(client, WANTED))) == missing
    assert len(api.asked) == 1 + len(missing.split(", "))
    answer(api, rules, allowed=True)  # an authorizer that lists no rules
    assert forbidden(client, WANTED) == []


def test_without_the_review_of_rules_each_action_is_asked_for(api: Api, client: KubeClient) -> None:
    def say(asked: Asked) -> Says:
        if asked.path.endswith("selfsubjectrulesreviews"):
            return refusal(403, "Forbidden", "no")
        attributes = asked.body["spec"]["resourceAttributes"]
        assert attributes["namespace"] == "lab"
        return Says({"status": {"allowed": attributes["verb"] != "get"}}, 201)

    api.answer = say
    assert forbidden(client, WANTED) == [Action("get", "pods", "log")]


def test_a_cluster_that_does_not_know_us_is_told(api: Api, client: KubeClient) -> None:
    api.in_turn(refusal(401, "Unauthorized", "who?"))
    with pytest.raises(ClusterError, match="does not accept the credentials"):
        forbidden(client, WANTED)
