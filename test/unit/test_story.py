"""How a leader holds a run, and what it tells its user to do by hand."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from byok8s.batch import ApiError, RunIdentity, RunIsLed
from byok8s.batch.lease import Leader
from byok8s.exceptions import ClusterError, Interrupted, WorkflowFailed
from byok8s.run.leading import Leading, removal, run_name
from byok8s.settings import S3Location
from byok8s.workflow.inherited import Left, Stock

LEADER = Leader("token", "ada", "mars", 7, 0.0, 100.0)
REMOVAL = "byok8s clean flow-1 --context=lab --k8s-namespace=me"


class FakeSession:
    """A session with jobs; keeps what was done with it."""

    def __init__(self, running: int = 2, waiting: int = 1, remains: tuple[str, ...] = ()) -> None:
        self.client = SimpleNamespace(context="lab", namespace="me", server_time=lambda: 160.0)
        self.run = RunIdentity("flow-1", "ada")
        self.lease = SimpleNamespace(before=None, uid="uid", on_lost=None, on_cancel=None)
        self.stock = Stock()
        self.refusal: Exception | None = None
        self.jobs = running, waiting
        self.remaining = list(remains)
        self.done: list[str] = []
        self.on_open: Any = None

    def take_over(self) -> None:
        if self.refusal:
            raise self.refusal

    def live_pods(self) -> tuple[int, int]:
        return self.jobs

    def close(self, deadline: float) -> list[str]:
        assert deadline < 10
        self.done.append("closed")
        return self.remaining

    def leave(self) -> None:
        self.done.append("left")

    def abandon(self) -> None:
        self.done.append("abandoned")


class FakeInterrupts:
    def __init__(self) -> None:
        self.why: list[str] = []

    def arm(self) -> None: ...

    def stop(self, why: str) -> None:
        self.why.append(why)


class Listener:
    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)

    warn = note


def leading(session: Any, *, keep: bool = False) -> tuple[Leading, Any, Listener]:
    listener, interrupts = Listener(), FakeInterrupts()
    made = Leading(session, listener, keep=keep)  # type: ignore[arg-type]
    if not session.refusal:
        made.begin(interrupts)  # type: ignore[arg-type]
    return made, interrupts, listener


def test_the_command_for_what_is_left_names_context_and_namespace() -> None:
    session: Any = FakeSession()
    assert removal(session) == REMOVAL


def test_a_runs_name_depends_on_the_workflow_and_the_prefix_alone() -> None:
    name = run_name("workflow-alpha", S3Location("mybucket"))
    assert re.fullmatch(r"workflow-alpha-[0-9a-f]{8}", name)
    assert name == run_name("workflow-alpha", S3Location("mybucket"))
    others = [
        run_name("workflow-alpha", S3Location("mybucket", "p")),
        run_name("workflow-alpha", S3Location("bucket-2")),
        run_name("workflow_alpha", S3Location("mybucket")),
    ]
    assert len({name, *others}) == 4
    for workflow in ("", "Ünïcode " * 9, "-" * 50):
        RunIdentity(run_name(workflow, S3Location("mybucket")), "ada")


def test_an_interrupted_run_says_what_was_stopped() -> None:
    session = FakeSession()
    error = leading(session)[0].interrupted()
    assert isinstance(error, Interrupted)
    assert str(error) == (
        "Interrupted: stopped 2 running and 1 waiting pods; nothing of the run is left in the "
        "cluster."
    )
    assert session.done == ["closed"]


def test_an_interrupted_run_without_jobs() -> None:
    error = leading(FakeSession(0, 0))[0].interrupted()
    assert str(error) == "Interrupted; nothing of the run is left in the cluster."


def test_what_could_not_be_stopped_is_told_with_the_command() -> None:
    pod = "pod/x (deleted; its node n has not confirmed it)"
    error = leading(FakeSession(remains=(pod,)))[0].interrupted()
    assert f"could not remove {pod} in time; remove with: {REMOVAL}" in str(error)


def test_an_interrupted_run_may_be_kept() -> None:
    session = FakeSession()
    made, _, _ = leading(session, keep=True)
    assert made.stopping == "leaving the run's pods as they are"
    error = made.interrupted()
    assert isinstance(error, Interrupted) and session.done == ["left"]
    assert str(error).startswith("Interrupted: left 2 running and 1 waiting pods in the cluster")
    assert str(error).endswith(REMOVAL)


def test_what_an_unreachable_api_server_kept_is_removed_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    answers: list[Any] = [[], ["secret/flow-1"], ApiError(0, "Unreachable", "no answer")]

    def remove_run(client: Any, run: str, deadline: float) -> list[str]:
        asked.append(run)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    monkeypatch.setattr("byok8s.batch.runs.remove_run", remove_run)
    told = []
    for _ in range(3):
        made, _, listener = leading(FakeSession(remains=("configmap/flow-1", "pod/x")))
        made.end()
        told.append(listener.told[1:])
        assert listener.told[0].startswith("The API server does not answer")
    assert told == [
        [],
        [f"Could not remove secret/flow-1 in time; remove with: {REMOVAL}"],
        [f"Could not remove objects of the run (no answer) in time; remove with: {REMOVAL}"],
    ]
    made, _, listener = leading(FakeSession(remains=("pod/x (deleted)",)))
    made.end()  # the node's word may never come: nobody waits for it
    assert len(asked) == 3
    assert listener.told == [f"Could not remove pod/x (deleted) in time; remove with: {REMOVAL}"]


def test_a_run_to_be_kept_without_jobs_leaves_nothing() -> None:
    session = FakeSession(0, 0)
    leading(session, keep=True)[0].interrupted()
    assert session.done == ["closed"]


def test_a_cancelled_run_is_removed_also_when_it_was_to_be_kept() -> None:
    session = FakeSession()
    made, interrupts, _ = leading(session, keep=True)
    session.lease.on_cancel("eve on mars")
    assert interrupts.why == ["eve on mars cancels the run: removing the run's pods"]
    made.interrupted()
    assert session.done == ["closed"]


def test_who_loses_the_run_touches_nothing() -> None:
    session = FakeSession()
    made, interrupts, _ = leading(session)
    session.lease.on_lost("The run 'flow-1' was taken over by eve on mars (process 7).")
    assert interrupts.why == ["The run 'flow-1' was taken over by eve on mars (process 7)"]
    error = made.interrupted()
    made.end()
    assert isinstance(error, WorkflowFailed)
    assert "taken over by eve" in str(error) and "touched nothing" in str(error)
    assert set(session.done) == {"abandoned"}


def test_a_run_that_goes_on_says_so() -> None:
    session = FakeSession()
    session.lease.before = LEADER
    session.stock.alone |= {"a": Left("", "x"), "b": Left("", "x")}
    _, _, listener = leading(session)
    assert listener.told == [
        "Going on with flow-1, which lost its leader (ada on mars (process 7)) 1 m 00 s ago; "
        "2 jobs of it still have a pod"
    ]


def test_a_second_ctrl_c_says_what_remains() -> None:
    session = FakeSession()
    made, _, _ = leading(session)
    text = "may be left in the cluster; remove them with: "
    assert made.remains() == f"Its pods, Secret and ConfigMap {text}{REMOVAL}"
    made.interrupted()
    assert made.remains().startswith("2 running and 1 waiting pods, with their Secret and Conf")
    session.lease.uid = ""
    assert made.remains() == ""


@pytest.mark.parametrize(
    "refusal", [RunIsLed("flow-1", LEADER, 110.0), ApiError(403, "Forbidden", "quota is full")]
)
def test_a_run_that_cannot_be_led_is_told_before_anything_is_submitted(refusal: Exception) -> None:
    session = FakeSession()
    session.refusal = refusal
    made, _, _ = leading(session)
    with pytest.raises(ClusterError, match=r"is led by ada on mars|quota is full") as caught:
        made.begin(FakeInterrupts())  # type: ignore[arg-type]
    assert caught.value.exit_code == 3
