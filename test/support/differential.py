"""The same rules run in four ways, and what each of them leaves behind."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.project import Done, Project, bucket_keys, own_bucket

WAYS = ("default", "apart", "in-pods", "snakemake")  # also the prefixes in the bucket
Change = tuple[str, str, str]  # a file, and what stands in the place of what in it


@dataclass
class Way:
    """What one way has left behind. Where a text named its prefix, it says PREFIX instead."""

    done: Done
    objects: dict[str, bytes]
    records: dict[str, dict[str, Any]]
    again: list[str]  # what would run again when nothing has changed: rules with reasons
    changed: list[str]  # the same after the changes

    def failures(self) -> dict[str, str]:
        """Why jobs failed, by rule: what is told of them last."""
        return dict(re.findall(r"^Failed: ([\w+]+)[^:]*: (.*)$", self.done.out, re.MULTILINE))


@dataclass
class Differential:
    """A workflow that is run by default, with a pod for each job, with Snakemake in each pod, and
    by Snakemake alone.

    `given` are files here.
    """

    project: Project
    given: Mapping[str, str]
    changes: Sequence[Change]

    def ways(self) -> dict[str, Way]:
        return {name: self._way(name) for name in WAYS}

    def _way(self, name: str) -> Way:
        self._write()
        done = self._run(name, "--keep-going")
        objects, records = self._look(name)
        again = self._plan(name)
        self._write(*self.changes)
        return Way(done, objects, records, again, self._plan(name))

    def _run(self, name: str, *options: str) -> Done:
        """`byok8s run` in one of the ways, into the prefix of its name."""
        project = self.project
        server, keys = project.s3.meta, project.s3._request_signer._credentials
        env = {
            "DIFFERENTIAL_SECRET": "not so secret",
            "AWS_ENDPOINT_URL": server.endpoint_url,
            "AWS_ACCESS_KEY_ID": keys.access_key,
            "AWS_SECRET_ACCESS_KEY": keys.secret_key,
            "WITHOUT_SNAKEMAKE": "0" if name == "in-pods" else "1",
        }
        where = ("--local",) if name == "snakemake" else (f"--context={project.context}",)
        options += ("--no-bundle",) if name == "apart" else ()
        bucket = f"{project.bucket}/{name}"
        return project.byok8s("flow", "params", "-b", bucket, *where, *options, **env)

    def _write(self, *changes: Change) -> None:
        """The project as it is given, with changes."""
        files = dict(self.given)
        for name, old, new in changes:
            assert old in files[name]
            files[name] = files[name].replace(old, new)
        self.project.write(files)

    def _plan(self, name: str) -> list[str]:
        """What would run, and why."""
        done = self._run(name, "--dry-run")
        assert done.code == 0, done.text
        text = self._neutral(name, done.out.encode()).decode()
        # those of a group are indented
        pattern = r"^ *\w*(?:rule|checkpoint) (\w+):$(.*?)^$"
        found = re.findall(pattern, text, re.MULTILINE | re.DOTALL)
        # Snakemake's lists are in no order
        return sorted(f"{rule}: {_reason(fields)}" for rule, fields in found)

    def _neutral(self, name: str, text: bytes) -> bytes:
        return text.replace(f"{self.project.bucket}/{name}".encode(), b"PREFIX")

    def _look(self, name: str) -> tuple[dict[str, bytes], dict[str, dict[str, Any]]]:
        """The user's objects of a way, and its records."""
        project, objects, records = self.project, {}, {}
        for key in sorted(bucket_keys(project.s3, project.bucket, ours=True)):
            prefix, _, inner = key.partition("/")
            if prefix != name or (inner.startswith(".byok8s/") and "/metadata/" not in inner):
                continue
            body = project.s3.get_object(Bucket=project.bucket, Key=key)["Body"].read()
            if inner.startswith(".byok8s/"):
                lines = self._neutral(name, body).splitlines()
                records |= dict(map(json.loads, lines))
            else:
                objects[inner] = self._neutral(name, body)
        return objects, records


def _reason(fields: str) -> str:
    said = re.search(r"^ *reason: (.*)$", fields, re.MULTILINE)
    return " ".join(sorted(re.split(r"[,:\s]+", said[1].strip()))) if said else ""


@contextmanager
def differential(
    folder: Path,
    s3: Any,
    context: str,
    given: Mapping[str, str],
    changes: Sequence[Change],
) -> Iterator[dict[str, Way]]:
    """All ways, by name, in a bucket of their own."""
    with own_bucket(s3, f"test-{uuid.uuid4().hex[:12]}") as bucket:
        project = Project(folder, bucket, s3, context)
        yield Differential(project, given, changes).ways()


def each(ways: dict[str, Way], of: Callable[[Way], Any]) -> list[Any]:
    return [of(ways[name]) for name in WAYS]


def same(ways: dict[str, Way], of: Callable[[Way], Any]) -> Any:
    """What all ways have in common; fails where they differ."""
    first, *others = each(ways, of)
    for other in others:
        assert other == first, _apart(other, first)
    return first


def _apart(one: Any, other: Any) -> Any:
    """Where two things differ, as short as it goes."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
        return {key: _apart(one.get(key), other.get(key)) for key in keys}
    if isinstance(one, list) and isinstance(other, list):
        return [x for x in one if x not in other], [x for x in other if x not in one]
    return one, other


def comparable(way: Way) -> dict[str, dict[str, Any]]:
    """A way's records, but for the times, and a job's hash, which has its prefix in it."""
    apart = ("starttime", "endtime", "job_hash")
    return {
        output: {name: value for name, value in record.items() if name not in apart}
        for output, record in way.records.items()
        if record
    }


def rules_of(snakefile: str) -> list[str]:
    return re.findall(r"^(?:rule|checkpoint) (\w+):", snakefile, re.MULTILINE)
