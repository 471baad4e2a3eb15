"""What the account of a context may do in its namespace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from byok8s.batch.client import FIRST_PATIENCE, ApiError, KubeClient

REVIEWS = "/apis/authorization.k8s.io/v1"


@dataclass(frozen=True)
class Action:
    """A verb on a kind of object; str gives it as "get pods/log"."""

    verb: str
    resource: str
    subresource: str = ""
    group: str = ""

    @property
    def kind(self) -> str:
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource

    def __str__(self) -> str:
        return f"{self.verb} {self.kind}"


def forbidden(client: KubeClient, wanted: Iterable[Action]) -> list[Action]:
    """Those of the actions that the account may not do in the client's namespace.

    One SelfSubjectRulesReview answers for most accounts. Its list may be incomplete, as where an
    authorizer outside of the cluster decides: what it does not name is asked for one by one.
    Raises ClusterError when the cluster cannot be asked.
    """
    rules = _rules(client)
    unknown = [action for action in wanted if not any(_allows(rule, action) for rule in rules)]
    if not unknown:
        return []
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda action: _may(client, action), unknown))
    return [action for action, may in zip(unknown, answers, strict=True) if not may]


def _rules(client: KubeClient) -> list[Mapping[str, Any]]:
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": client.namespace},
    }
    try:
        answer = client.call(
            "POST", f"{REVIEWS}/selfsubjectrulesreviews", body=review, **FIRST_PATIENCE
        )
    except ApiError as error:
        if error.status in (403, 404):
            return []
        raise client.not_ready(error) from error
    rules: list[Mapping[str, Any]] = answer.get("status", {}).get("resourceRules") or []
    return rules


def _allows(rule: Mapping[str, Any], action: Action) -> bool:
    kinds = {"*", action.kind}
    if action.subresource:
        kinds.add(f"*/{action.subresource}")
    return (
        not rule.get("resourceNames")
        and not {"*", action.verb}.isdisjoint(rule.get("verbs") or ())
        and not {"*", action.group}.isdisjoint(rule.get("apiGroups") or ())
        and not kinds.isdisjoint(rule.get("resources") or ())
    )


def _may(client: KubeClient, action: Action) -> bool:
    """Ask for one action (SelfSubjectAccessReview)."""
    attributes = {
        "namespace": client.namespace,
        "verb": action.verb,
        "resource": action.resource,
        "group": action.group,
        "subresource": action.subresource,
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    try:
        answer = client.call(
            "POST", f"{REVIEWS}/selfsubjectaccessreviews", body=review, **FIRST_PATIENCE
        )
    except ApiError as error:
        raise client.not_ready(error) from error
    return bool(answer.get("status", {}).get("allowed"))
