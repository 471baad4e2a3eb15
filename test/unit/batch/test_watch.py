"""The watch goes on whatever happens to its connection, and lists anew when it must."""

from __future__ import annotations

import time
from collections.abc import Iterator
from queue import Queue
from typing import Any

import pytest
from byok8s.batch import ApiError, KubeClient
from byok8s.batch.watch import PodWatch
from support.fakeapi import Api, Asked, Says, pod, pod_list, refusal


class Watched:
    """A watch of the fake server and what it told."""

    def __init__(self, client: KubeClient) -> None:
        self.told: Queue[tuple[str, Any]] = Queue()
        self.watch = PodWatch(
            client,
            "run=x",
            lambda pods, _: self.told.put(("LIST", [p["metadata"]["name"] for p in pods])),
            lambda kind, pod: self.told.put((kind, pod["metadata"]["name"])),
        )

    def next(self) -> tuple[str, Any]:
        return self.told.get(timeout=5)


@pytest.fixture
def watched(client: KubeClient) -> Iterator[Watched]:
    watched = Watched(client)
    yield watched
    watched.watch.stop()


def script(api: Api, lists: list[Says], watches: list[Says]) -> None:
    """Answer lists and watches in turn; the last list is given for ever, then watches hang."""

    def answer(asked: Asked) -> Says:
        if "watch" in asked.query:
            if not watches:
                time.sleep(60)
            return watches.pop(0)
        return lists.pop(0) if len(lists) > 1 else lists[0]

    api.answer = answer


def event(kind: str, name: str, version: int) -> dict[str, Any]:
    return {"type": kind, "object": pod(name, version)}


def watches_asked(api: Api) -> list[Asked]:
    return [asked for asked in api.asked if "watch" in asked.query]


def test_a_list_then_events_from_its_version(api: Api, watched: Watched):
    lines = [event("ADDED", "b", 12), {"type": "BOOKMARK", "object": pod("", 15)}]
    script(api, [pod_list(11, pod("a"))], [Says(lines=lines, cut=True)])
    watched.watch.start()
    assert [watched.next(), watched.next()] == [("LIST", ["a"]), ("ADDED", "b")]
    assert watched.next()[0] == "LIST"  # after the cut
    first = watches_asked(api)[0].query
    assert (first["resourceVersion"], first["labelSelector"]) == ("11", "run=x")
    assert first["allowWatchBookmarks"] == "true"


def test_the_version_is_the_last_one_delivered(api: Api, watched: Watched):
    bookmark = {"type": "BOOKMARK", "object": pod("", 15)}
    script(api, [pod_list(11)], [Says(lines=[event("ADDED", "b", 12), bookmark])])
    watched.watch._list()
    watched.watch._watch()
    assert watched.watch.version == "15"


@pytest.mark.parametrize(
    "trouble",
    [
        Says(cut=True),
        Says(lines=[event("ADDED", "b", 12)], cut=True),
        Says(lines=[{"type": "ERROR", "object": {"code": 410, "reason": "Expired"}}]),
        Says("not JSON at all\n"),
        refusal(410, "Expired", "too old resource version"),
        refusal(500, "InternalError", "etcdserver: leader changed"),
        refusal(403, "Forbidden", "for a moment"),
    ],
)
def test_after_any_trouble_it_lists_and_watches_on(api: Api, watched: Watched, trouble: Says):
    script(api, [pod_list(11), pod_list(20)], [trouble, Says(lines=[event("DELETED", "c", 21)])])
    watched.watch.start()
    told = [watched.next()]
    while told[-1] != ("DELETED", "c"):
        told.append(watched.next())
    assert told.count(("LIST", [])) == 2
    assert watches_asked(api)[1].query["resourceVersion"] == "20"


def test_lists_are_paged_and_begun_again_when_too_old(api: Api, watched: Watched):
    script(
        api,
        [
            pod_list(11, pod("a"), more="page-2"),
            refusal(410, "Expired", "the continue token is too old"),
            pod_list(12, pod("a"), more="page-2"),
            pod_list(12, pod("b")),
        ],
        [],
    )
    watched.watch.start()
    assert watched.next() == ("LIST", ["a", "b"])
    assert watched.watch.version == "12"
    assert [asked.query.get("continue") for asked in api.asked[:4]] == [
        None, "page-2", None, "page-2",
    ]  # fmt: skip


def test_a_watch_waits_as_long_as_the_server_asks(api: Api, watched: Watched):
    script(
        api,
        [pod_list(11)],
        [refusal(429, "TooManyRequests", "later", Retry_After="1"), Says(lines=[])],
    )
    began = time.monotonic()
    watched.watch.start()
    assert [watched.next(), watched.next()] == [("LIST", []), ("LIST", [])]
    assert 1.0 <= time.monotonic() - began < 2.0


def test_a_first_list_that_is_refused_is_an_error(api: Api, watched: Watched):
    script(api, [refusal(403, "Forbidden", "pods is forbidden")], [])
    with pytest.raises(ApiError, match="pods is forbidden"):
        watched.watch.start()


def test_stop_ends_a_silent_watch_at_once(api: Api, watched: Watched):
    def one_and_silence() -> Iterator[Any]:
        yield event("ADDED", "a", 12)
        time.sleep(60)

    script(api, [pod_list(11)], [Says(lines=one_and_silence())])
    watched.watch.start()
    assert [watched.next(), watched.next()] == [("LIST", []), ("ADDED", "a")]
    watched.watch.stop()
    watched.watch._thread.join(1)
    assert not watched.watch._thread.is_alive()


@pytest.mark.parametrize(
    "line", [7, [], "<html>", {}, {"type": "ADDED"}, {"type": "ADDED", "object": 5}]
)
def test_an_event_that_is_none_ends_the_watch_and_not_the_thread(
    api: Api, watched: Watched, line: Any
):
    script(api, [pod_list(11), pod_list(12, pod("a"))], [Says(lines=[line])])
    watched.watch.start()
    assert [watched.next(), watched.next()] == [("LIST", []), ("LIST", ["a"])]


def test_an_answer_that_is_no_list_does_not_say_that_all_pods_are_gone(api: Api, watched: Watched):
    nothing = Says({"kind": "Status", "status": "Success"})
    script(api, [pod_list(11, pod("a")), nothing, pod_list(12, pod("a"))], [Says(lines=[])])
    watched.watch.start()
    assert [watched.next(), watched.next()] == [("LIST", ["a"]), ("LIST", ["a"])]
