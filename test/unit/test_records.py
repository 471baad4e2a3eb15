"""Provenance records: batched, the newest wins, damage is passed over."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from byok8s.workflow import persistence
from byok8s.workflow.persistence import RecordLog
from byok8s.workflow.records import BucketSegments
from support.memory import MemoryBucket


class Segments:
    """A SegmentStore in memory."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.parts: dict[int, str] = {}
        self.writes = 0
        self.fails = 0
        self.compacted: str | None = None

    def read(self) -> Iterator[str]:
        yield from self.texts

    @property
    def own(self) -> str:
        return "".join(text for _, text in sorted(self.parts.items()))

    def write(self, number: int, text: str) -> None:
        if self.fails:
            self.fails -= 1
            raise OSError("no answer")
        self.writes += 1
        self.parts[number] = text

    def compact(self, text: str) -> None:
        self.compacted = text


def lines(text: str) -> dict[str, object]:
    return dict(json.loads(line) for line in text.splitlines())


def test_the_newest_segment_wins_and_damaged_lines_are_passed_over() -> None:
    old = '["a", {"rule": "old"}]\n["b", {"rule": "b"}]\n'
    new = '["a", {"rule": "new"}]\n["b", null]\n["c", {"ru'
    log = RecordLog(Segments(old, new))
    log.load()
    assert log.get("a") == {"rule": "new"}
    assert log.get("b") is None
    assert log.get("c") is None


def test_many_records_are_few_writes() -> None:
    segments = Segments()
    log = RecordLog(segments)
    for number in range(1000):
        log.put(str(number), {"rule": "x"})
    log.close()
    assert len(lines(segments.own)) == 1000
    assert segments.writes <= 1000 // persistence.FLUSH_RECORDS + 1


def test_a_long_run_writes_each_record_a_few_times_only() -> None:
    class Counting(Segments):
        letters = 0

        def write(self, number: int, text: str) -> None:
            super().write(number, text)
            self.letters += len(text)

    segments = Counting()
    log = RecordLog(segments)
    total = 10 * persistence.SEGMENT_RECORDS
    for number in range(total):
        log.put(str(number), {"rule": "x"})
    log.put("0", {"rule": "again"})
    log.close()
    found = lines(segments.own)
    assert len(found) == total
    assert found["0"] == {"rule": "again"}, "the newest segment is the last"
    batches = persistence.SEGMENT_RECORDS // persistence.FLUSH_RECORDS
    assert segments.letters < (batches + 2) * len(segments.own)


def test_a_run_without_changes_writes_nothing() -> None:
    segments = Segments('["a", {"rule": "x"}]\n')
    log = RecordLog(segments)
    log.load()
    log.close()
    assert segments.writes == 0
    assert segments.compacted is None


def test_many_segments_are_compacted_without_what_was_forgotten() -> None:
    texts = [f'["{n}", {{"rule": "x"}}]\n' for n in range(persistence.COMPACT_SEGMENTS)]
    segments = Segments(*texts, '["0", null]\n')
    log = RecordLog(segments)
    log.load()
    log.close()
    assert segments.compacted is not None
    assert sorted(lines(segments.compacted), key=int) == [
        str(n) for n in range(1, persistence.COMPACT_SEGMENTS)
    ]


def test_a_write_that_fails_is_made_good_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistence, "FLUSH_SECONDS", 0.01)
    segments = Segments()
    segments.fails = 2
    log = RecordLog(segments)
    log.put("a", {"rule": "x"})
    log.close()
    assert lines(segments.own) == {"a": {"rule": "x"}}
    assert log.problem is None


def test_what_could_not_be_written_at_all_is_told() -> None:
    segments = Segments()
    segments.fails = 1000
    log = RecordLog(segments)
    log.put("a", {"rule": "x"})
    log.close()
    assert "no answer" in str(log.problem)


def test_segments_in_a_bucket_are_read_oldest_first_and_compacted() -> None:
    bucket = MemoryBucket()
    first = BucketSegments(bucket.objects, "pre/.byok8s/metadata/")
    for number in range(3):
        first.write(number, f"first {number}\n")
    first.write(2, "first, the last\n")
    second = BucketSegments(bucket.objects, "pre/.byok8s/metadata/")
    second.write(0, "second\n")
    third = BucketSegments(bucket.objects, "pre/.byok8s/metadata/")
    told = ["first 0\n", "first 1\n", "first, the last\n", "second\n"]
    assert list(third.read()) == told
    third.write(0, "third\n")
    third.compact("all\n")
    assert list(BucketSegments(bucket.objects, "pre/.byok8s/metadata/").read()) == [
        "third\n",
        "all\n",
    ]
