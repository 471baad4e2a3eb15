"""Refused, doubtful and postponed creations."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from byok8s.batch import Cause, KubeClient, Limits, PodRequest, Update, create
from byok8s.batch.book import Book, Job
from byok8s.batch.create import Creators, quota_is_full
from byok8s.batch.nodes import quantity
from byok8s.batch.pace import TokenBucket
from support.fakeapi import Api, Asked, Says, refusal

FULL = (
    'pods "x" is forbidden: exceeded quota: lab, requested: pods=1,requests.cpu=500m, '
    "used: pods=3,requests.cpu=2, limited: pods=3,requests.cpu=2"
)
TOO_LARGE = (
    'pods "x" is forbidden: exceeded quota: lab, requested: requests.cpu=4, '
    "used: requests.cpu=0, limited: requests.cpu=2"
)


@pytest.fixture
def book() -> Book:
    return Book("run", Limits())


@pytest.fixture
def creators(client: KubeClient, book: Book) -> Iterator[Creators]:
    def build(job: Job) -> dict[str, Any]:
        return {"metadata": {"name": job.pod, "ownerReferences": [{"uid": "u-1"}]}}

    made = Creators(client, book, build, bucket=TokenBucket(0, 1), threads=2, max_pods=3000)
    made.start()
    yield made
    made.stop(1)


def issue(book: Book, creators: Creators, *ids: str) -> None:
    for job_id in ids:
        job = book.add(PodRequest(job_id, image="x", command=("true",)))
        assert job
        creators.put(job)


def next_news(book: Book) -> Update:
    return book.updates.get(timeout=5)


def until(condition: Any) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (403, 'violates PodSecurity "restricted:latest": privileged'),
        (422, 'Pod "x" is invalid: spec.containers[0].image: Required value'),
        (400, 'admission webhook "no.example.org" denied the request: no'),
        (403, TOO_LARGE),
        (404, 'namespaces "lab" not found'),
    ],
)
def test_a_refused_pod_fails_its_job_with_the_servers_sentence(
    api: Api, book: Book, creators: Creators, status: int, message: str
):
    api.in_turn(refusal(status, "No", message), Says())
    issue(book, creators, "bad")
    told = next_news(book)
    assert (told.id, told.state, told.cause) == ("bad", "failed", Cause.CREATE_REFUSED)
    assert message in told.message
    issue(book, creators, "good")  # the rest goes on
    until(lambda: book.live_pods() == 1)


def existing(uid: str, job_id: str) -> Says:
    annotations = {"byok8s.io/id": job_id}
    return Says({"metadata": {"ownerReferences": [{"uid": uid}], "annotations": annotations}})


def test_a_create_whose_answer_was_lost_finds_its_own_pod(api: Api, book: Book, creators: Creators):
    made: list[str] = []

    def answer(asked: Asked) -> Says:
        if asked.method == "GET":
            return existing("u-1", "job")
        if asked.body["metadata"]["name"] in made:
            return refusal(409, "AlreadyExists", "already exists")
        made.append(asked.body["metadata"]["name"])
        return Says(cut=True)

    api.answer = answer
    issue(book, creators, "job")
    until(lambda: book.live_pods() == 1)
    assert len(made) == 1 and book.updates.empty()


@pytest.mark.parametrize(("uid", "job_id"), [("u-2", "job"), ("u-1", "other")])
def test_a_pod_of_somebody_else_is_not_taken(
    api: Api, book: Book, creators: Creators, uid: str, job_id: str
):
    taken = refusal(409, "AlreadyExists", "already exists")
    api.answer = lambda asked: existing(uid, job_id) if asked.method == "GET" else taken
    issue(book, creators, "job")
    assert next_news(book).cause == Cause.CREATE_REFUSED


def test_a_conflict_at_a_quota_is_tried_again(api: Api, book: Book, creators: Creators):
    api.in_turn(refusal(409, "Conflict", "Operation cannot be fulfilled on resourcequotas"), Says())
    issue(book, creators, "job")
    until(lambda: book.live_pods() == 1)


def test_a_full_quota_makes_jobs_wait(api: Api, book: Book, creators: Creators):
    api.answer = lambda _: refusal(403, "Forbidden", FULL)
    issue(book, creators, "one")
    told = next_news(book)
    assert (told.state, told.cause) == ("waiting", Cause.CREATE_REFUSED)
    assert "exceeded quota: lab" in told.message
    issue(book, creators, "two", "three")
    time.sleep(0.1)
    assert len(api.asked) == 1  # who comes later does not even ask
    api.answer = lambda _: Says()
    creators.unpark()  # as when a pod ends; each success lets one more try
    until(lambda: book.live_pods() == 3)
    assert sorted(book.issued()) == ["one", "three", "two"]


def test_a_server_that_fails_is_told_of_and_asked_again(
    api: Api, book: Book, creators: Creators, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(create, "PATIENCE_SECONDS", 0.0)
    away = 'failed calling webhook "check.example.org": connection refused'
    api.in_turn(refusal(500, "InternalError", away), Says())
    issue(book, creators, "job")
    told = next_news(book)
    assert (told.state, told.cause) == ("waiting", Cause.CREATE_REFUSED)
    assert away in told.message and "tried again (--wait-limit api=TIME)" in told.message
    until(lambda: book.live_pods() == 1)
    assert book.waits() == {} and book.updates.empty()


def test_a_server_that_fails_for_longer_than_the_limit_fails_the_job(
    api: Api, client: KubeClient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(create, "PATIENCE_SECONDS", 0.0)
    book = Book("run", Limits(api=0.1))
    creators = Creators(client, book, lambda _: {}, bucket=TokenBucket(0, 1), threads=1, max_pods=9)
    creators.start()
    api.answer = lambda _: refusal(503, "Unavailable", "the server is overloaded")
    issue(book, creators, "one")
    assert [next_news(book).state, next_news(book).state] == ["waiting", "failed"]
    monkeypatch.setattr(create, "RETRY_SECONDS", 2.0)
    issue(book, creators, "two")  # by the steward, between two tries
    assert next_news(book).state == "waiting"
    until(book.expire)
    told = next_news(book)
    assert (told.state, told.message) == (
        "failed",
        "The API server refused the pod: the server is overloaded",
    )
    until(lambda: not book.exists(book.find("two")))
    assert book.updates.empty()
    creators.stop(1)


def test_a_pod_that_is_made_after_its_job_was_given_up_is_deleted(
    api: Api, client: KubeClient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(create, "PATIENCE_SECONDS", 0.0)
    book = Book("run", Limits(api=60.0))
    creators = Creators(client, book, lambda _: {}, bucket=TokenBucket(0, 1), threads=1, max_pods=9)

    def answer(asked: Asked) -> Says:
        if asked.method == "POST" and len(api.asked) == 1:
            return refusal(503, "Unavailable", "the server is overloaded")
        if asked.method == "POST":
            book._limits = Limits(api=0.0)
            assert book.expire()
        return Says()

    api.answer = answer
    creators.start()
    issue(book, creators, "job")
    until(lambda: [asked.method for asked in api.asked] == ["POST", "POST", "DELETE"])
    assert [next_news(book).state, next_news(book).state] == ["waiting", "failed"]
    assert book.updates.empty()
    creators.stop(1)


def test_a_killed_job_that_was_not_made_yet_is_never_made(api: Api, book: Book, creators: Creators):
    api.answer = lambda _: refusal(403, "Forbidden", FULL)
    issue(book, creators, "one")
    next_news(book)
    book.kill(["one"])
    creators.unpark()
    until(lambda: not book.issued())
    assert [asked.method for asked in api.asked] == ["POST"]


def test_a_job_killed_while_it_is_made_is_deleted(api: Api, book: Book, creators: Creators):
    def answer(asked: Asked) -> Says:
        if asked.method == "POST":
            book.kill(["job"])
        return Says()

    api.answer = answer
    issue(book, creators, "job")
    until(lambda: [asked.method for asked in api.asked] == ["POST", "DELETE"])


def test_no_more_than_the_largest_number_of_live_pods(api: Api, client: KubeClient, book: Book):
    def slowly(_: Asked) -> Says:
        time.sleep(0.05)  # long enough for every thread to be at the gate
        return Says()

    api.answer = slowly
    creators = Creators(client, book, lambda _: {}, bucket=TokenBucket(0, 1), threads=4, max_pods=2)
    creators.start()
    issue(book, creators, *"abcdef")
    until(lambda: book.live_pods() >= 2)
    time.sleep(0.2)
    assert book.live_pods() == 2 == len(api.asked)
    creators.stop(1)
    assert not any(thread.is_alive() for thread in creators._threads)


def test_the_pace():
    bucket, stop = TokenBucket(rate=50, burst=5), threading.Event()
    began = time.monotonic()
    assert all(bucket.take(stop) for _ in range(15))
    assert 0.15 <= time.monotonic() - began < 0.6
    threading.Timer(0.05, stop.set).start()
    slow = TokenBucket(rate=0.1, burst=1)
    assert slow.take(stop) and not slow.take(stop)


@pytest.mark.parametrize(
    ("message", "full"), [(FULL, True), (TOO_LARGE, False), ("forbidden: whatever", False)]
)
def test_a_quota_is_full_when_the_pod_would_fit_an_empty_one(message: str, full: bool):
    assert quota_is_full(message) is full


@pytest.mark.parametrize(
    ("text", "number"),
    [("500m", 0.5), ("2", 2), ("1Gi", 2**30), ("1e3", 1000), ("25178432Ki", 25178432 * 1024)],
)
def test_quantities(text: str, number: float):
    assert quantity(text) == pytest.approx(number)


def test_case_4_what_no_node_has_fails_without_a_pod(api: Api, book: Book, client: KubeClient):
    api.answer = lambda _: Says()
    made = Creators(
        client,
        book,
        lambda job: {"metadata": {"name": job.pod}},
        bucket=TokenBucket(0, 1),
        threads=1,
        max_pods=3000,
        never_fits=lambda request: "No node is large enough." if request.cpu > 100 else None,
    )
    made.start()
    large = book.add(PodRequest("large", image="x", command=("true",), cpu=2000))
    small = book.add(PodRequest("small", image="x", command=("true",)))
    assert large and small
    made.put(large)
    made.put(small)
    told = next_news(book)
    assert (told.id, told.state, told.cause) == ("large", "failed", Cause.UNSCHEDULABLE)
    until(lambda: book.live_pods() == 1)
    made.stop(1)
    assert [asked.body["metadata"]["name"] for asked in api.asked] == [small.pod]
    assert book.issued() == ["small"]


def test_a_pod_that_cannot_be_built_fails_its_job_and_the_rest_goes_on(
    api: Api, client: KubeClient, book: Book
):
    def build(job: Job) -> dict[str, Any]:
        if job.request.id == "bad":
            raise AttributeError("'int' object has no attribute 'replace'")
        return {"metadata": {"name": job.pod, "ownerReferences": [{"uid": "u-1"}]}}

    made = Creators(client, book, build, bucket=TokenBucket(0, 1), threads=1, max_pods=3000)
    made.start()
    issue(book, made, "bad", "good")
    told = next_news(book)
    assert (told.id, told.state, told.cause) == ("bad", "failed", Cause.CREATE_REFUSED)
    assert "no attribute 'replace'" in told.message
    until(lambda: book.find("good").acknowledged)
    made.stop(1)


def test_a_server_is_left_in_peace_for_as_long_as_it_asks(
    api: Api, book: Book, creators: Creators, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(create, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(create, "RETRY_SECONDS", 0.01)
    api.in_turn(refusal(429, "TooManyRequests", "slow down", Retry_After="2"), Says())
    issue(book, creators, "a")
    assert next_news(book).state == "waiting"  # told at once, not after those seconds
    began = time.monotonic()
    until(lambda: book.find("a").acknowledged)
    assert time.monotonic() - began > 1.5
