"""What a run tells its user to do by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from byok8s.batch.pods import RunIdentity
from byok8s.run.story import _removal


def test_the_command_for_what_is_left_names_context_and_namespace() -> None:
    session: Any = SimpleNamespace(
        client=SimpleNamespace(context="lab", namespace="me"), run=RunIdentity("flow-1", "ada")
    )
    assert _removal(session) == (
        "kubectl --context=lab --namespace=me delete pods,secrets,configmaps "
        "--selector=byok8s.io/run=flow-1"
    )
