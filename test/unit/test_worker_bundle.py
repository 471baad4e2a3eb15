"""Several jobs in one pod: their order, their reports, and what goes back to the leader."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from byok8s.worker import bundle as worker
from byok8s.worker import job as around
from byok8s.worker.spec import NEWS, BundleJob, BundleSpec, Command, File, JobSpec, Result
from byok8s.worker.transfer import Transfers
from byok8s.workflow import sources
from support.memory import MemoryBucket


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryBucket:
    project = tmp_path / "project"
    project.mkdir()
    (project / "Snakefile").write_text("rule a:\n")
    archive = sources.pack([project / "Snakefile"], [], project)
    monkeypatch.setattr(worker, "SCRATCH", tmp_path / "scratch")
    monkeypatch.setattr(around, "TERMINATION_LOG", str(tmp_path / "termination"))
    (tmp_path / "scratch").mkdir()
    (tmp_path / "work").mkdir()
    made = MemoryBucket(sources=archive.data)
    made.archive = archive
    return made


def job(bucket: MemoryBucket, id: str, text: str, **fields: Any) -> BundleJob:
    """A job that makes out/ID."""
    command = Command(text, 1, (), (File(f"out/{id}", f"out/{id}"),), ())
    archive = bucket.archive
    spec = JobSpec(
        "sources", archive.sha256, archive.workdir, (), f"log/{id}", "r", command=command
    )
    return BundleJob(id, f"rule {id}", spec, **fields)


def run(
    bucket: MemoryBucket,
    tmp_path: Path,
    jobs: list[BundleJob],
    meanwhile: Callable[[], object] = lambda: None,
    **fields: Any,
) -> int:
    given = {"mail": "mail/", "result_key": "report", "linger": 0.3, **fields}
    spec = BundleSpec(jobs=tuple(jobs), **given)
    transfers = Transfers(bucket)  # type: ignore[arg-type]
    bundle = worker.Bundle(transfers, BundleSpec.loads(spec.dumps()), tmp_path / "work")
    timer = threading.Timer(0.1, meanwhile)
    timer.start()
    code = bundle.run()
    timer.join()
    return code


def news(text: bytes) -> list[dict[str, Any]]:
    lines = [line for line in text.splitlines() if line.startswith(NEWS)]
    return [json.loads(line.removeprefix(NEWS)) for line in lines]


def ends(text: bytes) -> dict[str, Result]:
    told = [item for item in news(text) if "done" in item]
    return {item["done"]: Result.loads(json.dumps(item["result"])) for item in told}


def test_each_job_has_a_folder_a_log_and_a_report(
    bucket: MemoryBucket, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    text = "ls out Snakefile; echo {0} > out/{0}; test ! -e ../*/out/other"
    jobs = [job(bucket, id, text.format(id)) for id in ("a", "b", "c")]
    assert run(bucket, tmp_path, jobs) == 0
    output = capfdbinary.readouterr().out
    assert {id: result.exit_code for id, result in ends(output).items()} == dict.fromkeys("abc", 0)
    assert bucket.content()["out/b"] == b"b\n"
    assert bucket.content()["log/b"] == b"Snakefile\n\nout:\n"
    assert b"[rule c] Snakefile\n" in output
    assert not list((tmp_path / "work").iterdir())
    assert not list((tmp_path / "scratch").iterdir())


def test_the_sources_are_fetched_once_and_jobs_cost_one_put_each(
    bucket: MemoryBucket, tmp_path: Path
) -> None:
    jobs = [job(bucket, str(n), f"echo {n} > out/{n}") for n in range(20)]
    run(bucket, tmp_path, jobs, linger=0.0)
    assert bucket.calls["put"] == 21  # and the report, which is too long for the message
    # one for the sources, the rest looks for mail
    assert bucket.calls["get"] < 20


def test_one_that_fails_touches_no_other(
    bucket: MemoryBucket, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    jobs = [
        job(bucket, "bad", "echo half > out/bad; echo why; exit 7"),
        job(bucket, "late", "sleep 30; touch out/late", seconds=1),
        job(bucket, "empty", "true"),
        job(bucket, "good", "touch out/good"),
    ]
    assert run(bucket, tmp_path, jobs) == 0
    told = ends(capfdbinary.readouterr().out)
    assert (told["bad"].command_exit, told["bad"].tail) == (7, "why")
    assert "longer than its limit of 1 s" in told["late"].error
    assert told["empty"].error == "the command did not make out/empty"
    assert told["good"].exit_code == 0
    assert {"out/good", "log/bad"} <= set(bucket.content())
    assert "out/bad" not in bucket.content()


def test_a_benchmark_is_of_the_job_alone(bucket: MemoryBucket, tmp_path: Path) -> None:
    first, second = (
        job(bucket, id, f"sleep 0.{n}; touch out/{id}") for n, id in ((6, "a"), (1, "b"))
    )
    jobs = []
    for one in (first, second):
        assert one.spec.command is not None
        table = File(f"bench/{one.id}", f"bench/{one.id}")
        command = one.spec.command.changed(benchmark=table)
        jobs.append(one.changed(spec=one.spec.changed(command=command)))
    run(bucket, tmp_path, jobs)
    lines = {id: bucket.content()[f"bench/{id}"].decode().splitlines() for id in "ab"}
    seconds = {id: float(rows[1].split("\t")[0]) for id, rows in lines.items()}
    assert seconds["a"] > 0.3 and seconds["b"] < seconds["a"], "without the wait for its turn"


def test_what_waits_behind_a_long_job_goes_back(
    bucket: MemoryBucket, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    jobs = [job(bucket, "long", "sleep 1.5; touch out/long")]
    jobs += [job(bucket, str(n), f"touch out/{n}") for n in range(8)]
    assert run(bucket, tmp_path, jobs, patience=0.3) == 0
    output = capfdbinary.readouterr().out
    [returned] = [set(item["returned"]) for item in news(output) if "returned" in item]
    assert len(returned) >= 4  # one or two may have been ready before the long one
    assert set(ends(output)) == {"long", *"01234567"} - returned
    assert not {f"out/{id}" for id in returned} & set(bucket.content())


def test_more_work_comes_by_mail(
    bucket: MemoryBucket, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    def send() -> None:
        for number, id in enumerate("xy", start=1):
            mail = [job(bucket, id, f"touch out/{id}")]
            bucket.objects.put_bytes(f"mail/{number}", json.dumps(mail, default=vars).encode())
            time.sleep(0.2)

    assert run(bucket, tmp_path, [job(bucket, "a", "touch out/a")], send, linger=1.0) == 0
    output = capfdbinary.readouterr().out
    assert set(ends(output)) == set("axy")
    assert news(output)[-1] == {"closing": 2}


def test_the_report_tells_of_every_job(bucket: MemoryBucket, tmp_path: Path) -> None:
    jobs = [job(bucket, str(n), f"touch out/{n}") for n in range(30)]
    run(bucket, tmp_path, jobs)
    assert (tmp_path / "termination").read_text() == "key:report"
    told = json.loads(bucket.content()["report"])["results"]
    assert {Result.loads(json.dumps(told[str(n)])).exit_code for n in range(30)} == {0}


def test_a_signal_ends_the_command_and_the_bundle_and_is_not_the_jobs_failure(
    bucket: MemoryBucket, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    jobs = [job(bucket, id, f"sleep 60; touch out/{id}") for id in "ab"]
    spec = BundleSpec("mail/", "report", tuple(jobs))
    bundle = worker.Bundle(Transfers(bucket), spec, tmp_path / "work")  # type: ignore[arg-type]
    threading.Timer(0.5, bundle.stop).start()
    began = time.monotonic()
    assert bundle.run() == 143
    assert time.monotonic() - began < 5
    assert not {"out/a", "out/b"} & set(bucket.content())
    while bundle._active and time.monotonic() - began < 5:  # the jobs' threads come to an end
        time.sleep(0.01)
    assert ends(capfdbinary.readouterr().out) == {}


def test_one_that_is_ended_while_it_waits_for_more_leaves_nothing_in_the_bucket(
    bucket: MemoryBucket, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """As at the end of a run, where nobody would take it away."""
    jobs = tuple(job(bucket, str(n), f"touch out/{n}") for n in range(30))
    spec = BundleSpec("mail/", "report", jobs)
    bundle = worker.Bundle(Transfers(bucket), spec, tmp_path / "work")  # type: ignore[arg-type]

    def stop_when_idle() -> None:
        while bundle._active or len(bundle._results) < 30:
            time.sleep(0.01)
        bundle.stop()

    threading.Thread(target=stop_when_idle, daemon=True).start()
    assert bundle.run() == 143
    assert len(ends(capfdbinary.readouterr().out)) == 30
    assert "report" not in bucket.content()
    assert json.loads((tmp_path / "termination").read_text()) == {"results": {}}


def test_a_store_that_fails_is_told_of_by_the_job(
    bucket: MemoryBucket, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    bad = job(bucket, "other", "touch out/other")
    spec = JobSpec.of({**json.loads(bad.spec.dumps()), "sources_sha256": "other"})
    run(bucket, tmp_path, [BundleJob("other", "rule a", spec)])
    assert "not what was uploaded" in ends(capfdbinary.readouterr().out)["other"].error


def test_a_store_that_is_away_is_not_the_jobs_failure(
    bucket: MemoryBucket, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    bucket.away = 2  # for the sources, and for the look after more jobs
    run(bucket, tmp_path, [job(bucket, "a", "touch out/a")], linger=0.0)
    told = ends(capfdbinary.readouterr().out)["a"]
    assert told.storage_away
    assert told.error.startswith("The job could not begin: Could not read s3://memory/sources")
