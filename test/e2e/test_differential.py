"""The same rules run in three ways, which must not differ in anything that lasts.

The Snakefile is differential/Snakefile. The ways: as byok8s runs it by default, with the formatted
commands sent to the pods; with Snakemake in each pod; and with Snakemake alone, which runs the
jobs on this machine. The runs are made once, for all tests.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.project import Done, Project, bucket_keys, objects_left

WAYS = ("default", "in-pods", "snakemake")  # also the prefixes in the bucket
SNAKEFILE = Path(__file__).parent / "differential" / "Snakefile"
GIVEN = {
    "given/plain.txt": "plain\n",
    "given/table.txt": "a\tb\n1\t2\n",
    "given/with space.txt": "space\n",
    "scripts/upper.sh": "tr a-z A-Z\n",
    "scripts/beside.txt": "beside the Snakefile\n",
    "flow.json": '{"workflow_target": ["all", "failures"]}',
    "params.json": '{"colour": "blue", "nested": {"list": [1, "two", null], "key": true}}',
}
Change = tuple[str, str, str]  # a file, and what stands in the place of what in it
CHANGES: tuple[Change, ...] = (
    ("Snakefile", 'text="a b"', 'text="other"'),  # params
    ("Snakefile", "echo protected >", "echo  protected >"),  # code
    ("Snakefile", 'for letter in "ab"]', 'for letter in "a"]'),  # which inputs
    ("given/with space.txt", "space", "other"),  # an input's content
    ("params.json", "blue", "red"),  # a value that goes into a command
)


@dataclass
class Way:
    """What one way has left behind. Where a text named its prefix, it says PREFIX instead."""

    done: Done
    objects: dict[str, bytes]
    records: dict[str, dict[str, Any]]
    again: list[str]  # what would run again when nothing has changed: rules with reasons
    changed: list[str]  # the same after CHANGES

    def failures(self) -> dict[str, str]:
        """Why jobs failed, by rule: what is told of them last."""
        return dict(re.findall(r"^Failed: (\w+)[^:]*: (.*)$", self.done.out, re.MULTILINE))


def run(project: Project, name: str, *options: str) -> Done:
    """`byok8s run` in one of the ways, into the prefix of its name."""
    server, keys = project.s3.meta, project.s3._request_signer._credentials
    env = {
        "DIFFERENTIAL_SECRET": "not so secret",
        "AWS_ENDPOINT_URL": server.endpoint_url,
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        "WITHOUT_SNAKEMAKE": "0" if name == "in-pods" else "1",
    }
    where = ("--local",) if name == "snakemake" else (f"--context={project.context}",)
    bucket = f"{project.bucket}/{name}"
    return project.byok8s("flow", "params", "-b", bucket, *where, *options, **env)


def write(project: Project, *changes: Change) -> None:
    """The project as it is given, with changes."""
    files = {**GIVEN, "Snakefile": SNAKEFILE.read_text()}
    for name, old, new in changes:
        assert old in files[name]
        files[name] = files[name].replace(old, new)
    project.write(files)


def plan(project: Project, name: str) -> list[str]:
    """What would run, and why."""
    done = run(project, name, "--dry-run")
    assert done.code == 0, done.text
    text = neutral(project, name, done.out.encode()).decode()
    found = re.findall(r"^\w*(?:rule|checkpoint) (\w+):$(.*?)^$", text, re.MULTILINE | re.DOTALL)
    # Snakemake's lists are in no order
    return sorted(f"{rule}: {_reason(fields)}" for rule, fields in found)


def _reason(fields: str) -> str:
    said = re.search(r"^ *reason: (.*)$", fields, re.MULTILINE)
    return " ".join(sorted(re.split(r"[,:\s]+", said[1].strip()))) if said else ""


def neutral(project: Project, name: str, text: bytes) -> bytes:
    return text.replace(f"{project.bucket}/{name}".encode(), b"PREFIX")


def look(project: Project, name: str) -> tuple[dict[str, bytes], dict[str, dict[str, Any]]]:
    """The user's objects of a way, and its records."""
    objects, records = {}, {}
    for key in sorted(bucket_keys(project.s3, project.bucket, ours=True)):
        prefix, _, inner = key.partition("/")
        if prefix != name or (inner.startswith(".byok8s/") and "/metadata/" not in inner):
            continue
        body = project.s3.get_object(Bucket=project.bucket, Key=key)["Body"].read()
        if inner.startswith(".byok8s/"):
            records |= dict(map(json.loads, neutral(project, name, body).splitlines()))
        else:
            objects[inner] = neutral(project, name, body)
    return objects, records


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory, s3: Any, cluster: Any) -> Iterator[Any]:
    """All three, by name."""
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    s3.create_bucket(Bucket=bucket)
    project = Project(tmp_path_factory.mktemp("differential"), bucket, s3, cluster.context)
    try:
        yield {name: _made(project, name) for name in WAYS}
    finally:
        for key in bucket_keys(s3, bucket, ours=True):
            s3.delete_object(Bucket=bucket, Key=key)
        s3.delete_bucket(Bucket=bucket)


def _made(project: Project, name: str) -> Way:
    write(project)
    done = run(project, name, "--keep-going")
    objects, records = look(project, name)
    again = plan(project, name)
    write(project, *CHANGES)
    return Way(done, objects, records, again, plan(project, name))


def each(ways: dict[str, Way], of: Callable[[Way], Any]) -> list[Any]:
    return [of(ways[name]) for name in WAYS]


def same(ways: dict[str, Way], of: Callable[[Way], Any]) -> Any:
    """What all ways have in common; fails where they differ."""
    first, second, third = each(ways, of)
    assert second == first
    assert third == first
    return first


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
    # a job's hash has its prefix in it, which tells the ways apart
    apart = ("starttime", "endtime", "job_hash")

    def comparable(way: Way) -> dict[str, dict[str, Any]]:
        records = {
            output: {name: value for name, value in record.items() if name not in apart}
            for output, record in way.records.items()
            if record
        }
        # the folder for temporary files is only known where the job runs
        records["s3://PREFIX/made/resources.txt"].pop("shellcmd")
        return records

    records = same(ways, comparable)
    assert len(records) > 50
    assert all(record["rule"] and not record["incomplete"] for record in records.values())


def test_the_same_runs_again(ways: dict[str, Way]) -> None:
    failed = {"failures", *(rule for rule in _rules() if rule.startswith("fails_"))}
    again = same(ways, lambda way: way.again)
    assert {line.split(":")[0] for line in again} == failed
    changed = same(ways, lambda way: way.changed)
    rules = {line.split(":")[0] for line in changed} - failed
    assert rules == {"all", "params", "protected", "functions", "quoted", "config_values"}


def _rules() -> list[str]:
    return re.findall(r"^(?:rule|checkpoint) (\w+):", SNAKEFILE.read_text(), re.MULTILINE)


def test_the_same_failures(ways: dict[str, Way]) -> None:
    assert same(ways, lambda way: way.done.code) == 1
    default, in_pods, alone = each(ways, Way.failures)
    rules = {rule for rule in _rules() if rule.startswith("fails_")} | {"retried"}
    assert set(default) == set(in_pods) == rules
    codes = {
        "fails_with_exit": 7,
        "fails_in_pipe": 5,
        "fails_unset": 1,
        "fails_by_signal": 139,
        "fails_partly": 1,
    }
    for rule, code in codes.items():
        said = f"the command exited with code {code}"
        assert default[rule] == in_pods[rule] == said
        assert alone[rule] == f"{said} (on this machine)"
    for way in (ways["default"], ways["in-pods"]):  # the rule's own log goes before the output
        assert re.search(r"Failed: fails_with_exit: .*\n.*\n    last words\n  the", way.done.out)
    assert default["fails_missing"] == "the command did not make default/failed/missing.txt"
    assert "failed/empty.txt empty" in default["fails_empty"]
    assert "sha256" in default["fails_checksum"]
