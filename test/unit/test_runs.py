"""`byok8s runs`, `status`, `logs`, `cancel` and `clean`, on a fake API."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from byok8s.batch.lease import CANCEL, LEADER, Leader
from byok8s.batch.pods import ATTEMPT, ID, JOB, OWNER, RULE, RUN
from byok8s.command.root import root
from byok8s.exceptions import SettingsError
from byok8s.run import runs as module
from byok8s.run.logs import Logs
from byok8s.run.runs import parse_age
from byok8s.worker.spec import news
from click.testing import CliRunner, Result
from support.fakeapi import Api, kubeconfig, refusal, serve
from support.fakestore import Store

RUNNING = {"phase": "Running", "containerStatuses": [{"name": "job", "state": {"running": {}}}]}
MANAGED = {"app.kubernetes.io/managed-by": "byok8s"}


@pytest.fixture
def api() -> Iterator[Api]:
    with serve() as api:
        yield api


@pytest.fixture
def store(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    settings = kubeconfig(tmp_path / "config", api.url)
    monkeypatch.setenv("KUBECONFIG", str(settings.kubeconfig))
    return Store.behind(api)


def byok8s(*arguments: str) -> Result:
    return CliRunner().invoke(root, arguments, prog_name="byok8s")


def refused(code: int, *arguments: str) -> str:
    result = byok8s(*arguments)
    assert result.exit_code == code, result.output
    return result.output


def add_run(store: Store, name: str, ago: float = 0, **changes: Any) -> None:
    """A run whose leader gave its last sign of life some seconds ago."""
    now = time.time()
    fields = {"token": "t", "user": "ada", "host": "mars", "pid": 7}
    leader = Leader(**fields | {"since": now - ago - 60, "renewed": now - ago} | changes)
    data = {
        LEADER: json.dumps(asdict(leader)),
        "started": "20250131-235959",
        "workflow": "flow.json",
        "params": "params.json",
        "storage": "s3://mybucket/p",
    }
    labels = {**MANAGED, RUN: name, OWNER: "ada"}
    store.put("configmaps", {"metadata": {"name": name, "labels": labels}, "data": data})
    store.put("secrets", {"metadata": {"name": name, "labels": labels}})


def add_pod(store: Store, run: str, name: str, status: dict[str, Any], rule: str = "align") -> None:
    labels = {**MANAGED, RUN: run, RULE: rule, JOB: f"{rule}-sample-{name}", ATTEMPT: "1"}
    metadata = {"name": name, "labels": labels, "annotations": {ID: f"{rule}-{name}"}}
    pod = {"metadata": metadata, "spec": {"containers": [{"name": "job"}], "nodeName": "n-1"}}
    store.put("pods", {**pod, "status": status})


def test_runs_are_listed_with_the_state_of_their_leaders(store: Store) -> None:
    add_run(store, "flow-1")
    add_run(store, "flow-2", ago=330)
    add_run(store, "flow-3", ago=330, released=True)
    add_pod(store, "flow-2", "a", RUNNING)
    add_pod(store, "flow-2", "b", {"phase": "Pending"})
    add_pod(store, "flow-2", "c", {"phase": "Succeeded"})
    add_pod(store, "orphan", "d", RUNNING)
    result = byok8s("runs")
    assert result.exit_code == 0, result.output
    head, *rows = [line.rstrip() for line in result.output.splitlines()]
    assert head.split() == [
        "NAME", "OWNER", "STARTED", "(UTC)", "LEADER", "RUNNING", "WAITING", "ENDED",
    ]  # fmt: skip
    by_name = {row.split()[0]: row for row in rows}
    assert "2025-01-31 23:59" in by_name["flow-1"]
    assert "alive: ada on mars (process 7)" in by_name["flow-1"]
    assert "dead for 5 m" in by_name["flow-2"] and by_name["flow-2"].split()[-3:] == ["1"] * 3
    assert "left 5 m" in by_name["flow-3"]
    assert "none" in by_name["orphan"]


def test_no_run_is_said_so(store: Store) -> None:
    assert byok8s("runs").output == "There is no run in namespace 'lab' of context 'test'.\n"


def test_runs_of_all_namespaces_need_the_permission(store: Store, api: Api) -> None:
    add_run(store, "flow-1")
    assert byok8s("runs", "-A").output.splitlines()[1].split()[:2] == ["lab", "flow-1"]
    answer = api.answer
    api.answer = lambda asked: (
        refusal(403, "Forbidden", "no") if asked.path == "/api/v1/configmaps" else answer(asked)
    )
    assert "may not list all namespaces" in refused(3, "runs", "-A")


def test_status_shows_a_run_and_its_pods(store: Store) -> None:
    add_run(store, "flow-1", ago=330)
    waiting = {"state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}
    status = {"phase": "Pending", "containerStatuses": [{"name": "job", "image": "i:1", **waiting}]}
    add_pod(store, "flow-1", "a", RUNNING)
    add_pod(store, "flow-1", "b", status)
    for words in (["status"], ["status", "flow-1"]):
        text = byok8s(*words).output
        assert "Workflow   flow.json with params.json, files in s3://mybucket/p" in text
        assert "Pods       1 running and 1 waiting pods" in text
        assert "byok8s clean flow-1 removes it" in text
        assert "The image 'i:1' cannot be pulled" in text


def test_which_run_must_be_clear(store: Store) -> None:
    assert "There is no run in namespace 'lab'" in refused(2, "status")
    add_run(store, "flow-1")
    add_run(store, "flow-2")
    assert "name one of flow-1, flow-2" in refused(2, "status")
    assert "it has flow-1, flow-2" in refused(2, "status", "flow-3")


def test_clean_removes_a_dead_run_and_nothing_else(store: Store) -> None:
    add_run(store, "flow-1", ago=330)
    add_run(store, "flow-2", ago=330)
    add_pod(store, "flow-1", "a", RUNNING)
    add_pod(store, "flow-2", "b", RUNNING)
    result = byok8s("clean", "flow-1")
    assert result.output == "Removed flow-1: 1 running pod, its Secret and its ConfigMap.\n"
    kinds = ("configmaps", "secrets", "pods")
    assert [store.names(kind) for kind in kinds] == [["flow-2"], ["flow-2"], ["b"]]


def test_clean_never_removes_a_live_run_unless_forced(store: Store) -> None:
    add_run(store, "flow-1")
    told = "led by ada on mars (process 7); stop it with: byok8s cancel flow-1"
    assert told in refused(3, "clean", "flow-1")
    assert store.names("configmaps") == ["flow-1"]
    assert byok8s("clean", "flow-1", "--force").exit_code == 0
    assert store.names("configmaps") == []


def test_clean_of_several_asks_and_spares_the_living_and_the_young(store: Store) -> None:
    for name, ago in (("live", 0), ("young", 3600), ("old", 8 * 86400)):
        add_run(store, name, ago=ago)
    add_pod(store, "live", "a", RUNNING)
    assert "to remove old, young, add --yes" in refused(2, "clean", "--all")
    assert byok8s("clean", "--older-than=7d", "--yes").output.startswith("Removed old: no pod")
    assert store.names("configmaps") == ["live", "young"]
    assert byok8s("clean", "--all", "-y").output.startswith("Removed young")
    assert store.names("configmaps") == ["live"]
    assert byok8s("clean", "--all").output == "There is nothing to remove in namespace 'lab'.\n"


def test_bad_usage_of_clean(store: Store) -> None:
    for words in (["clean"], ["clean", "x", "--all"], ["clean", "--all", "--force"]):
        refused(2, *words)
    assert parse_age("7d") == 7 * 86400
    with pytest.raises(SettingsError, match="--older-than 'soon' is no time"):
        parse_age("soon")


def test_pods_that_do_not_go_are_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from byok8s.batch import runs

    add_run(store, "flow-1", ago=330)
    add_pod(store, "flow-1", "a", RUNNING)
    store.stuck.add("a")
    remove = runs.remove_run
    monkeypatch.setattr(runs, "remove_run", lambda client, run: remove(client, run, 0.5))
    assert "Could not remove pod/a of 'flow-1' in time" in refused(3, "clean", "flow-1")


def test_cancel_asks_the_leader_and_waits_for_it(
    store: Store, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_run(store, "flow-1")
    add_pod(store, "flow-1", "a", RUNNING)
    asked: list[str] = []

    def lead(request: Any) -> Any:
        says = store.answer(request)
        if request.method == "PATCH":
            asked.append(request.body["data"][CANCEL])
            store.remove("configmaps", "flow-1")
        return says

    api.answer = lead
    result = byok8s("cancel", "flow-1")
    assert "its leader, ada on mars (process 7), stopped 1 running pod" in result.output
    assert asked[0].endswith(f" on {socket.gethostname()}")


def test_cancel_of_a_leader_that_does_not_stop(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_SECONDS", 0.1)
    add_run(store, "flow-1")
    text = refused(3, "cancel", "flow-1")
    assert "was asked to stop and has not" in text and "byok8s clean flow-1 --force" in text


def test_cancel_removes_a_run_whose_leader_is_dead(store: Store) -> None:
    add_run(store, "flow-1", ago=330)
    assert byok8s("cancel", "flow-1").output.startswith("Removed flow-1")
    assert store.names("configmaps") == store.names("secrets") == []


class FakeObjects:
    def __init__(self, texts: dict[str, str]) -> None:
        self.texts = texts

    def list(self, prefix: str) -> dict[str, None]:
        return {key: None for key in self.texts if key.startswith(prefix)}

    def get_bytes(self, key: str) -> bytes:
        return self.texts[key].encode()


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> FakeObjects:
    prefix = "p/.byok8s/runs/flow-1/"
    objects = FakeObjects(
        {
            f"{prefix}20250131-235959/logs/align-a-1.log": "kept of a\n",
            f"{prefix}20250131-235959/logs/sort_all-x-2.log": "kept of x\n",
            f"{prefix}20250101-000000/logs/align-old-1.log": "older\n",
            f"{prefix}20250131-235959/jobs/align-a-1.json": "{}",
        }
    )
    monkeypatch.setattr(Logs, "_open_bucket", lambda self, run: (objects, prefix))
    return objects


def test_logs_of_pods_and_of_the_bucket(store: Store, kept: FakeObjects) -> None:
    add_run(store, "flow-1")
    add_pod(store, "flow-1", "a", RUNNING)
    add_pod(store, "flow-1", "b", RUNNING, rule="plot")
    told = news(result={}).decode()
    store.logs = {"a": f"pod a\n{told}", "b": f"{told}pod b{told[:-1]}\n"}
    whole = byok8s("logs", "flow-1").output
    assert "==> align-sample-a (running, pod a) <==\npod a\n" in whole
    assert f"==> plot-sample-b (running, pod b) <==\npod b{told[:-1]}\n" in whole
    assert "==> sort_all-x-2 (kept in the bucket) <==\nkept of x\n" in whole
    assert "kept of a" not in whole and "older" not in whole
    assert byok8s("logs", "flow-1", "plot").output.count("==>") == 1
    assert byok8s("logs", "flow-1", "align-sample-a").output.endswith("pod a\n")
    assert byok8s("logs", "flow-1", "sort_all").output.endswith("kept of x\n")
    assert "no log of 'nothing'" in refused(2, "logs", "flow-1", "nothing")


def test_logs_of_a_run_that_has_ended_come_from_the_bucket(store: Store, kept: FakeObjects) -> None:
    text = byok8s("logs", "flow-1", "-b", "mybucket/p").output
    assert "kept of a" in text and "kept of x" in text and "older" not in text


def test_logs_without_a_run_ask_for_the_bucket(store: Store) -> None:
    assert "with --s3-bucket" in refused(2, "logs", "flow-1")
    assert "has ended" in refused(2, "logs", "flow-1", "-f")


def test_logs_can_be_followed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from byok8s.run import logs

    monkeypatch.setattr(logs, "LOOK_AGAIN_SECONDS", 0.2)
    add_run(store, "flow-1")
    add_pod(store, "flow-1", "a", RUNNING)
    store.logs = {"a": f"one\n\n{news(beat=True).decode()}two"}
    from threading import Timer

    Timer(0.3, lambda: [store.remove(k, n) for k, n in list(store.items)]).start()
    assert byok8s("logs", "flow-1", "-f").output == (
        "[align-sample-a] one\n[align-sample-a] \n[align-sample-a] two\n"
    )
