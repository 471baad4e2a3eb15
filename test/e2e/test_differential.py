"""The same rules run in four ways, which must not differ in anything that lasts.

The ways: as byok8s runs it by default, with the formatted commands sent to the pods; so, with a pod
for each job; with Snakemake in each pod; and with Snakemake alone, which runs the jobs on this
machine. differential/Snakefile has a rule for each thing that the pods do without Snakemake;
differential/others has a shell of its own, and what Snakemake runs anyway. The runs are made once,
for all tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.differential import (
    Change,
    Way,
    comparable,
    differential,
    each,
    rules_of,
    same,
)
from support.project import objects_left

FOLDER = Path(__file__).parent / "differential"
SNAKEFILE = (FOLDER / "Snakefile").read_text()
GIVEN = {
    "given/plain.txt": "plain\n",
    "given/table.txt": "a\tb\n1\t2\n",
    "given/with space.txt": "space\n",
    "scripts/upper.sh": "tr a-z A-Z\n",
    "scripts/beside.txt": "beside the Snakefile\n",
    "flow.json": '{"workflow_target": ["all", "failures"]}',
    "params.json": '{"colour": "blue", "nested": {"list": [1, "two", null], "key": true}}',
    "Snakefile": SNAKEFILE,
}
CHANGES: tuple[Change, ...] = (
    ("Snakefile", 'text="a b"', 'text="other"'),  # params
    ("Snakefile", "echo protected >", "echo  protected >"),  # code
    ("Snakefile", 'for letter in "ab"]', 'for letter in "a"]'),  # which inputs
    ("given/with space.txt", "space", "other"),  # an input's content
    ("params.json", "blue", "red"),  # a value that goes into a command
)


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory, s3: Any, cluster: Any) -> Iterator[Any]:
    """All of them, by name."""
    folder = tmp_path_factory.mktemp("differential")
    with differential(folder, s3, cluster.context, GIVEN, CHANGES) as made:
        yield made


def test_the_same_objects(ways: dict[str, Way], cluster: Any) -> None:
    names = same(ways, lambda way: sorted(way.objects))
    assert "made/message.txt" in names and "made/folder/deep/er/b" in names
    assert "made/temp.txt" not in names, "temp"
    assert [name for name in names if name.startswith("failed/")] == [], "half an output"
    assert objects_left(cluster) == []


def test_the_same_bytes_also_of_logs(ways: dict[str, Way]) -> None:
    measured = "made/measured.tsv"  # of which only the form is the same
    common = same(ways, lambda way: {k: v for k, v in way.objects.items() if k != measured})
    assert common["made/params.txt"].startswith(b"a b 1 0.1 True None x y z y z value {")
    assert common["logs/out.log"] == b"said\n" and b"/nowhere" in common["logs/err.log"]
    assert common["logs/unwritten.log"] == b""
    assert common["logs/failed/exit.log"] == b"last words\n"
    header, values = zip(*each(ways, lambda way: way.objects[measured].splitlines()), strict=True)
    assert len(set(header)) == 1 and header[0].startswith(b"s\th:m:s\tmax_rss")
    assert {len(line.split(b"\t")) for line in values} == {len(header[0].split(b"\t"))}


def test_the_same_records_but_for_the_times(ways: dict[str, Way]) -> None:
    def but_one(way: Way) -> dict[str, dict[str, Any]]:
        records = comparable(way)
        # the folder for temporary files is only known where the job runs
        records["s3://PREFIX/made/resources.txt"].pop("shellcmd")
        return records

    records = same(ways, but_one)
    assert len(records) > 50
    assert all(record["rule"] and not record["incomplete"] for record in records.values())


def test_the_same_runs_again(ways: dict[str, Way]) -> None:
    failed = {"failures", *(rule for rule in rules_of(SNAKEFILE) if rule.startswith("fails_"))}
    again = same(ways, lambda way: way.again)
    assert {line.split(":")[0] for line in again} == failed
    changed = same(ways, lambda way: way.changed)
    rules = {line.split(":")[0] for line in changed} - failed
    assert rules == {"all", "params", "protected", "functions", "quoted", "config_values"}


def test_the_same_failures(ways: dict[str, Way]) -> None:
    assert same(ways, lambda way: way.done.code) == 1
    default, apart, in_pods, alone = each(ways, Way.failures)
    rules = {rule for rule in rules_of(SNAKEFILE) if rule.startswith("fails_")} | {"retried"}
    assert set(default) == set(apart) == set(in_pods) == rules
    codes = {
        "fails_with_exit": 7,
        "fails_in_pipe": 5,
        "fails_unset": 1,
        "fails_by_signal": 139,
        "fails_partly": 1,
    }
    for rule, code in codes.items():
        said = f"the command exited with code {code}"
        assert default[rule] == apart[rule] == in_pods[rule] == said
        assert alone[rule] == f"{said} (on this machine)"
    for way in (
        ways["default"],
        ways["apart"],
        ways["in-pods"],
    ):  # the rule's own log goes before the output
        assert re.search(r"Failed: fails_with_exit: .*\n.*\n    last words\n  the", way.done.out)
    assert default["fails_missing"] == "the command did not make default/failed/missing.txt"
    assert "failed/empty.txt empty" in default["fails_empty"]
    assert "sha256" in default["fails_checksum"]


OTHERS = (FOLDER / "others").read_text()
OTHERS_GIVEN = GIVEN | {
    "scripts/functions.sh": 'greet() { echo hello "$@"; }\nfail() { return "$1"; }\n',
    "scripts/write.py": "print(snakemake.params.word, snakemake.rule,"
    " file=open(snakemake.output[0], 'w'))\nprint('log', file=open(snakemake.log[0], 'w'))\n",
    "scripts/fail.py": "raise SystemExit(3)\n",
    "Snakefile": OTHERS,
}
OTHERS_CHANGES: tuple[Change, ...] = (
    ("Snakefile", "echo preferred", "echo  preferred"),
    ("Snakefile", "factor=2", "factor=3"),
    ("Snakefile", "cat {input} > {output}; greet here", "cat {input} >{output}; greet here"),
    ("Snakefile", 'cat {input} > {output}"\n\nrule pipe', 'cat {input} >{output}"\n\nrule pipe'),
    ("scripts/write.py", "'log'", "'other'"),
)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory, s3: Any, cluster: Any) -> Iterator[Any]:
    """As `ways`, of the other Snakefile."""
    folder = tmp_path_factory.mktemp("others")
    with differential(folder, s3, cluster.context, OTHERS_GIVEN, OTHERS_CHANGES) as made:
        yield made


def test_others_leave_the_same_objects_and_records(others: dict[str, Way], cluster: Any) -> None:
    table = "logs/repeated.tsv"  # of which only the form is the same
    common = same(others, lambda way: {k: v for k, v in way.objects.items() if k != table})
    assert {len(lines) for lines in each(others, lambda w: w.objects[table].split(b"\n"))} == {4}
    assert common["made/prefixed.txt"].startswith(b"hello world /")
    assert common["made/source.txt"] == b"TEXT\n" and common["made/grouped.txt"].count(b"\n") == 2
    assert not [name for name in common if name.startswith(("failed/", "made/group-temp"))]

    def without_some(way: Way) -> dict[str, dict[str, Any]]:
        records = comparable(way)
        # names a file of Snakemake's own cache, another one in each run
        records["s3://PREFIX/made/source.txt"].pop("shellcmd")
        # temporary files of a group never leave its pod, and nothing is known of them
        records["s3://PREFIX/made/grouped.txt"].pop("input_checksums")
        # of a group that fails, Snakemake also records the jobs that never began
        records.pop("s3://PREFIX/failed/in-group.txt", None)
        return records

    assert len(same(others, without_some)) > 20
    assert objects_left(cluster) == []


def test_others_run_again_for_the_same_reasons(others: dict[str, Way]) -> None:
    failed = {"failures", "fails_after_it", *(r for r in rules_of(OTHERS) if "fails_in" in r)}
    assert {line.split(":")[0] for line in same(others, lambda way: way.again)} == failed
    changed = same(others, lambda way: way.changed)
    rules = {line.split(":")[0] for line in changed} - failed
    assert rules >= {"preferred", "used", "runs", "script", "here", "group_second", "after"}
    assert not rules & {"prefixed", "source", "beside", "reported", "number", "branched"}


def test_others_fail_the_same(others: dict[str, Way]) -> None:
    assert same(others, lambda way: way.done.code) == 1
    default, apart, in_pods, alone = each(others, Way.failures)
    assert default == apart == in_pods
    assert default["fails_in_function"] == "the command exited with code 6"
    assert default["fails_after_it+fails_in_group"] == "the command exited with code 9"
    assert alone["fails_in_group"] == "the command exited with code 9 (on this machine)"
    assert default["fails_in_script"] == "the command exited with code 3"
    assert set(alone) == {"fails_in_function", "fails_in_group", "fails_in_script"}
