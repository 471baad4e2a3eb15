"""The chaos gate's judge: what it lets pass, and that it sees each thing that must not be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from chaos.faults import API, KINDS, LEADER, NODE, POD, S3
from chaos.judge import Execution, Lead, Record, Struck, judge
from chaos.suite import Verdict, table, totals

EXPECTED = {"out/a.txt": "digest of a", "out/b.txt": "digest of b"}
ONCE = Execution("out/a.txt", "pod-a", began=100, ended=102, stored=102.5)
AGAIN = Execution("out/a.txt", "pod-a2", began=106, ended=108, stored=108.5)
OTHER = Execution("out/b.txt", "pod-b", began=100, ended=101, stored=101.2)


def record_of(*executions: Execution, struck: tuple[Struck, ...] = ()) -> Record:
    """A run in which nothing is wrong but what these say."""
    return Record(
        seed=1,
        struck=list(struck),
        leads=[Lead(90, 130, 0)],
        executions=[*executions],
        outputs=dict(EXPECTED),
    )


def kinds(record: Record) -> list[str]:
    return [finding.kind for finding in judge(record, EXPECTED)]


def test_a_quiet_run_has_no_findings() -> None:
    assert kinds(record_of(ONCE, OTHER)) == []


def test_a_second_execution_for_no_reason_is_told_with_job_and_pods() -> None:
    (finding,) = judge(record_of(ONCE, AGAIN, OTHER), EXPECTED)
    assert finding.kind == "duplicate"
    for name in ("out/a.txt", "pod-a", "pod-a2"):
        assert name in finding.text


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind, (where, _) in KINDS.items()
        if where in (API, S3, LEADER) or (where == NODE and kind != "taint")
    ],
)
def test_what_disturbs_no_pod_excuses_no_second_execution(kind: str) -> None:
    record = record_of(ONCE, AGAIN, OTHER, struck=(Struck(kind, 100.5, 105),))
    assert kinds(record) == ["duplicate"]


def test_a_killed_leader_excuses_no_second_execution() -> None:
    record = record_of(ONCE, AGAIN, OTHER)
    record.leads = [Lead(90, 101, -9, killed=True), Lead(101.5, 130, 0)]
    assert kinds(record) == ["duplicate"]


@pytest.mark.parametrize("kind", [k for k, (where, _) in KINDS.items() if where == POD])
def test_a_pod_that_was_hit_excuses_only_what_ran_in_it(kind: str) -> None:
    cut_short = replace(ONCE, ended=None, stored=None)
    hit = Struck(kind, 101, 101, ("pod-a",))
    assert kinds(record_of(cut_short, AGAIN, OTHER, struck=(hit,))) == []
    elsewhere = Struck(kind, 101, 101, ("pod-b",))
    assert kinds(record_of(cut_short, AGAIN, OTHER, struck=(elsewhere,))) == ["duplicate"]


def test_a_hit_excuses_one_execution_and_not_a_third() -> None:
    cut_short = replace(ONCE, ended=None, stored=None)
    third = replace(AGAIN, pod="pod-a3", began=110, ended=112, stored=112.5)
    hit = Struck("evict", 101, 101, ("pod-a",))
    assert kinds(record_of(cut_short, AGAIN, third, OTHER, struck=(hit,))) == ["duplicate"]


def test_an_end_that_was_told_before_its_pod_was_hit_counts() -> None:
    late, soon = (Struck("delete", at, at, ("pod-a",)) for at in (110, 104))
    again = replace(AGAIN, began=112, ended=113, stored=113.5)
    assert kinds(record_of(ONCE, again, OTHER, struck=(late,))) == ["duplicate"]
    assert kinds(record_of(ONCE, again, OTHER, struck=(soon,))) == []
    deaf = Struck("api_gone", 101, 109)  # the leader could not hear of it
    assert kinds(record_of(ONCE, again, OTHER, struck=(late, deaf))) == []
    leaderless = record_of(ONCE, again, OTHER, struck=(late,))
    leaderless.leads = [Lead(90, 102, -9, killed=True), Lead(108, 130, 0)]
    assert kinds(leaderless) == []


def test_a_taint_excuses_what_ran_at_its_time() -> None:
    assert kinds(record_of(ONCE, AGAIN, OTHER, struck=(Struck("taint", 101, 103),))) == []
    before = Struck("taint", 80, 82)
    assert kinds(record_of(ONCE, AGAIN, OTHER, struck=(before,))) == ["duplicate"]
    after = Struck("taint", 120, 122)
    assert kinds(record_of(ONCE, AGAIN, OTHER, struck=(after,))) == ["duplicate"]


def test_two_pods_may_not_work_on_one_job_at_once() -> None:
    at_once = replace(AGAIN, began=101.5)
    evicted = Struck("evict", 101, 101, ("pod-a",))
    assert kinds(record_of(ONCE, at_once, OTHER, struck=(evicted,))) == ["together"]
    forgotten = replace(evicted, kind="delete_now")
    assert kinds(record_of(ONCE, at_once, OTHER, struck=(forgotten,))) == []


def test_a_job_that_never_ran_is_told() -> None:
    assert kinds(record_of(ONCE)) == ["never"]


def test_outputs_are_compared() -> None:
    record = record_of(ONCE, OTHER)
    record.outputs["out/b.txt"] = "another digest"
    del record.outputs["out/a.txt"]
    assert kinds(record) == ["output", "output"]


def test_what_is_left_behind_is_told() -> None:
    record = record_of(ONCE, OTHER)
    record.objects = ["pods/flow-1"]
    record.outputs["out/a.txt.part"] = "digest"
    assert kinds(record) == ["orphan", "orphan"]


@pytest.mark.parametrize(
    "leads",
    [
        [],
        [Lead(90, 130, 1)],
        [Lead(90, 130, -9, killed=True)],
        [Lead(90, 95, 3, refused=True), Lead(96, 130, 3)],
    ],
)
def test_the_last_leader_has_to_end_well(leads: list[Lead]) -> None:
    record = record_of(ONCE, OTHER)
    record.leads = leads
    assert kinds(record) == ["failed"]


def test_the_table_counts_by_kind_of_fault() -> None:
    wrong = record_of(ONCE, AGAIN, OTHER, struck=(Struck("watch", 101, 101),))
    right = replace(wrong, seed=2, executions=[ONCE, OTHER], seconds=40.0)
    verdicts = [Verdict(record, judge(record, EXPECTED)) for record in (wrong, right)]
    rows = [row for row in table(verdicts).splitlines() if row.startswith("| watches")]
    # the same moment in both records: as a fault of the node, it struck once and met two runs
    assert rows == ["| watches and followed logs cut | 1 | 2 | 1 | 0 | 0 | 0 | 20 |"]
    assert totals(verdicts).startswith("2 leaders, of which 0 were killed")
    assert totals(verdicts).endswith("5 commands, of which 1 once more")
    assert "--seeds 1" in str(verdicts[0]) and "duplicate" in str(verdicts[0])


def test_a_command_of_a_pod_that_lives_on_after_its_deletion_is_nobodys_doing() -> None:
    ghost = replace(AGAIN, pod="pod-ghost", began=100.1)
    deleted = Struck("delete_now", 99, 99, ("pod-ghost",))
    assert kinds(record_of(ONCE, ghost, OTHER, struck=(deleted,))) == []
    later = replace(deleted, at=101, until=101)
    assert "duplicate" in kinds(record_of(ONCE, ghost, OTHER, struck=(later,)))
    told = replace(deleted, kind="delete")
    assert "duplicate" in kinds(record_of(ONCE, ghost, OTHER, struck=(told,)))
