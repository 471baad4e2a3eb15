"""One leader per run: a second is refused, a dead one replaced, whoever loses the run told."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from threading import Event
from typing import Any

import pytest
from byok8s.batch import KubeClient, Lease, RunIdentity, RunIsLed
from byok8s.batch import lease as module
from byok8s.batch.lease import CANCEL, LEADER, Leader, started_epoch
from byok8s.settings import state_folder
from support.fakeapi import Api
from support.fakestore import Store

RUN = RunIdentity("flow-1", "ada")


@pytest.fixture
def store(api: Api) -> Store:
    return Store.behind(api)


@pytest.fixture
def make(store: Store, client: KubeClient) -> Iterator[Callable[[], Lease]]:
    made: list[Lease] = []

    def make() -> Lease:
        made.append(Lease(client, RUN, {"workflow": "flow.json"}))
        return made[-1]

    yield make
    for lease in made:
        lease.end()


def record(store: Store) -> dict[str, Any]:
    return store.items["configmaps", "flow-1"]


def led_by(store: Store, **changes: Any) -> Leader:
    """Have the run led by a process of another machine."""
    now = time.time()
    leader = replace(Leader("other", "eve", "mars", 7, now - 60, now), **changes)
    data = {LEADER: json.dumps(asdict(leader)), "started": "20250131-235959"}
    store.put("configmaps", {"metadata": {"name": "flow-1"}, "data": data})
    return leader


def test_a_leader_says_who_it_is(store: Store, make: Callable[[], Lease]) -> None:
    lease = make()
    assert not lease.held
    lease.acquire()
    leader = Leader.of(record(store)["data"])
    assert leader
    assert (leader.user, leader.host, leader.pid) == ("ada", socket.gethostname(), os.getpid())
    assert abs(leader.renewed - time.time()) < 2
    assert record(store)["data"]["workflow"] == "flow.json"
    assert lease.held and lease.before is None
    assert lease.uid == record(store)["metadata"]["uid"]
    started = started_epoch(lease.started)
    assert started and abs(started - time.time()) < 2


def test_a_second_leader_is_refused_and_told_who_leads(make: Callable[[], Lease]) -> None:
    make().acquire()
    with pytest.raises(RunIsLed) as caught:
        make().acquire()
    assert caught.value.exit_code == 3
    said = str(caught.value)
    host = socket.gethostname()
    assert f"led by ada on {host} (process {os.getpid()}), since 20" in said
    assert "byok8s cancel flow-1" in said


def test_a_living_leader_elsewhere_is_believed(store: Store, make: Callable[[], Lease]) -> None:
    led_by(store)
    with pytest.raises(RunIsLed, match=r"eve on mars \(process 7\)"):
        make().acquire()


def test_an_expired_lease_is_taken_over(store: Store, make: Callable[[], Lease]) -> None:
    old = led_by(store, renewed=time.time() - module.LEASE_SECONDS - 1)
    store.items["configmaps", "flow-1"]["data"][CANCEL] = "eve on mars"
    uid = record(store)["metadata"]["uid"]
    lease = make()
    lease.acquire()
    assert lease.before == old
    assert (lease.uid, lease.started) == (uid, "20250131-235959")  # the same run goes on
    assert CANCEL not in record(store)["data"]


def test_a_run_that_was_left_is_free_at_once(store: Store, make: Callable[[], Lease]) -> None:
    first = make()
    first.acquire()
    first.release()
    second = make()
    second.acquire()
    assert second.before and second.before.released


def test_a_leader_that_was_killed_here_is_dead_at_once(
    store: Store, make: Callable[[], Lease]
) -> None:
    led_by(store, host=socket.gethostname())
    with pytest.raises(RunIsLed):  # it left no sign here: it may be in a container
        make().acquire()
    sign = state_folder() / "leaders/other"
    sign.parent.mkdir(parents=True, exist_ok=True)
    sign.touch()  # what the kernel leaves of it
    make().acquire()
    assert not sign.exists()


def test_a_record_without_a_leader_is_free(store: Store, make: Callable[[], Lease]) -> None:
    store.put("configmaps", {"metadata": {"name": "flow-1"}})
    lease = make()
    lease.acquire()
    assert lease.uid == record(store)["metadata"]["uid"] and lease.started


def test_a_creation_whose_answer_was_lost_is_ours(
    store: Store, api: Api, make: Callable[[], Lease]
) -> None:
    answers = iter([True])

    def lose_first_creation(asked: Any) -> Any:
        says = store.answer(asked)
        says.cut = asked.method == "POST" and next(answers, False)
        return says

    api.answer = lose_first_creation
    lease = make()
    lease.acquire()
    assert lease.held and lease.before is None


def test_the_lease_is_renewed(
    store: Store, make: Callable[[], Lease], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.01)
    lease = make()
    lease.acquire()
    before = record(store)["metadata"]["resourceVersion"]
    until = time.monotonic() + 5
    while int(record(store)["metadata"]["resourceVersion"]) < int(before) + 3:
        assert time.monotonic() < until
        time.sleep(0.01)


def told(lease: Lease) -> tuple[Event, list[str]]:
    happened, words = Event(), list[str]()

    def tell(text: str) -> None:
        words.append(text)
        happened.set()

    lease.on_lost = lease.on_cancel = tell
    return happened, words


@pytest.mark.parametrize("what", ["taken", "removed", "made anew", "cancelled"])
def test_a_leader_learns_what_others_do_to_its_run(
    store: Store, make: Callable[[], Lease], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.05)
    lease = make()
    lease.acquire()
    happened, words = told(lease)
    if what == "removed":
        store.remove("configmaps", "flow-1")
    elif what == "cancelled":
        data = {**record(store)["data"], CANCEL: "eve on mars"}
        store.put("configmaps", {**record(store), "data": data})
    else:
        if what == "made anew":
            store.remove("configmaps", "flow-1")
        led_by(store)
    assert happened.wait(5)
    assert (
        words[0]
        == {
            "taken": "The run 'flow-1' was taken over by eve on mars (process 7).",
            "made anew": "The run 'flow-1' was taken over by eve on mars (process 7).",
            "removed": "The run 'flow-1' was removed by somebody else.",
            "cancelled": "eve on mars",
        }[what]
    )


def test_a_leader_survives_an_api_that_is_away(
    store: Store, api: Api, make: Callable[[], Lease], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.01)
    lease = make()
    lease.acquire()
    happened, _ = told(lease)
    from support.fakeapi import refusal

    api.answer = lambda _: refusal(503, "ServiceUnavailable", "away")
    time.sleep(0.1)
    api.answer = store.answer
    before = int(record(store)["metadata"]["resourceVersion"])
    until = time.monotonic() + 5
    while int(record(store)["metadata"]["resourceVersion"]) == before:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert not happened.is_set()


def test_times_are_the_servers(client: KubeClient, store: Store) -> None:
    client._date = ("Fri, 31 Jan 2025 23:59:59 GMT", time.time() - 10)
    assert abs(client.server_time() - (1738367999 + 10)) < 1
    client._date = ("no date", time.time())
    assert abs(client.server_time() - time.time()) < 1
