"""The worker: sources in, one command, its end reported."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from byok8s.worker import __main__ as worker
from byok8s.worker import job as around
from byok8s.worker import plain, process
from byok8s.worker.names import FILES_VARIABLE, S3_VARIABLE, TERMINATION_LIMIT
from byok8s.worker.spec import STAGING_FAILED, Bucket, JobSpec, Result
from byok8s.workflow import sources
from byok8s.workflow.storage import _workflow_errors
from obstore.exceptions import GenericError
from snakemake_interface_common.exceptions import WorkflowError
from support.memory import MemoryBucket


class Body:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def bytes(self) -> bytes:
        return self._data


class Store:
    """The two calls of an obstore store that the worker uses."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.config = {"bucket": "lab"}
        self.away = False

    def get(self, key: str) -> Body:
        self._answer()
        return Body(self.objects[key])

    def _answer(self) -> None:
        if self.away:
            raise GenericError("Generic S3 error: HTTP error: error sending request")

    def put(self, key: str, data: bytes | Path) -> None:
        self._answer()
        self.objects[key] = data.read_bytes() if isinstance(data, Path) else data


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(worker, "SCRATCH", tmp_path)
    monkeypatch.setattr(worker, "LOG", tmp_path / "byok8s.log")
    monkeypatch.setattr(around, "TERMINATION_LOG", str(tmp_path / "termination"))
    monkeypatch.setattr(process, "ENVIRONMENT_FILE", str(tmp_path / "environment"))
    return Store()


def spec(store: Store, tmp_path: Path, code: str, **fields: Any) -> JobSpec:
    source = tmp_path / "project"
    source.mkdir(exist_ok=True)
    (source / "Snakefile").write_text("rule a:\n")
    archive = sources.pack([source / "Snakefile"], [], source)
    store.objects["sources"] = archive.data
    return JobSpec(
        sources_key="sources",
        sources_sha256=archive.sha256,
        workdir=archive.workdir,
        argv=("-c", code),
        log_key="log",
        result_key="result",
        **fields,
    )


def test_spec_and_result_travel_unchanged(store: Store, tmp_path: Path) -> None:
    sent = spec(store, tmp_path, "pass", rule_logs=("a.log",), facts={"asked": ["x"]})
    assert JobSpec.loads(sent.dumps()) == sent
    result = Result(3, command_exit=3, tail="Ünï", stored=[("k", 1, 2.5, "etag")])
    assert Result.loads(result.dumps()) == result


def test_a_long_spec_is_read_from_the_bucket(store: Store, tmp_path: Path) -> None:
    sent = spec(store, tmp_path, "pass")
    store.objects["spec"] = sent.dumps().encode()
    assert JobSpec.loads(around.load_text(store, "key:spec")) == sent


def test_sources_other_than_the_leaders_are_refused(store: Store, tmp_path: Path) -> None:
    job = spec(store, tmp_path, "pass")
    store.objects["sources"] += b"x"
    with pytest.raises(ValueError, match="not what was uploaded"):
        around.fetch_sources(store, job.sources_key, job.sources_sha256)


def test_small_sources_come_with_the_runs_secret(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = spec(store, tmp_path, "pass")
    archive = store.objects.pop("sources")
    mounted = tmp_path / "sources"
    monkeypatch.setattr(around, "SOURCES_FILE", str(mounted))
    mounted.write_bytes(archive)
    assert around.fetch_sources(store, job.sources_key, job.sources_sha256) == archive
    mounted.write_bytes(b"a later leader's")
    store.objects["sources"] = archive
    assert around.fetch_sources(store, job.sources_key, job.sources_sha256) == archive


def test_files_that_come_as_a_variable_are_written_for_this_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain, "SECRET_FOLDER", str(tmp_path))
    files = {"credentials": b"keys", "sources": b"\0\xff"}
    told = {name: b64encode(data).decode() for name, data in files.items()}
    monkeypatch.setenv(FILES_VARIABLE, json.dumps(told))
    around.write_files()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o400}
    assert FILES_VARIABLE not in os.environ, "no child is to have it"
    around.write_files()  # as in a pod that has them mounted


@pytest.mark.parametrize("lacks", ["secret", "work"])
def test_an_image_without_the_folders_is_told(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, lacks: str
) -> None:
    folder = tmp_path / "absent" if lacks == "secret" else tmp_path
    monkeypatch.setattr(plain, "SECRET_FOLDER", str(folder))
    if lacks == "work":  # for root there is no folder that cannot be written
        monkeypatch.setattr(plain.os, "access", lambda path, mode: False)
    monkeypatch.setenv(FILES_VARIABLE, '{"credentials": ""}')
    assert worker.main() == STAGING_FAILED
    result = Result.loads((tmp_path / "termination").read_text())
    assert result.error.startswith("The worker's image has not the folders that it needs; build")
    assert str(folder if lacks == "secret" else tmp_path / "work") in result.error
    assert result.error in capsys.readouterr().out


def test_the_jobs_own_aws_tools_find_the_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "credentials"
    keys.write_text("[default]\naws_access_key_id = A\naws_secret_access_key = B\n")
    monkeypatch.setattr(around, "CREDENTIALS_FILE", str(keys))
    authority = tmp_path / "ca.pem"
    authority.touch()
    monkeypatch.setattr(around, "CA_FILE", str(authority))
    monkeypatch.setenv(S3_VARIABLE, Bucket("lab", "http://s3:7070", "eu-west-1").dumps())
    monkeypatch.setenv("AWS_REGION", "of-a-template")
    around.open_pod()
    found = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    found.pop("AWS_EC2_METADATA_DISABLED")
    for name in found:
        monkeypatch.delenv(name)
    assert found == {
        "AWS_SHARED_CREDENTIALS_FILE": str(keys),
        "AWS_CA_BUNDLE": str(authority),
        "AWS_ENDPOINT_URL_S3": "http://s3:7070",
        "AWS_REGION": "of-a-template",
        "AWS_DEFAULT_REGION": "eu-west-1",
    }


def test_a_job_sees_its_sources_and_its_output_is_kept(
    store: Store, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    job = spec(store, tmp_path, "print(open('Snakefile').read()); print('last')")
    archive = around.fetch_sources(store, job.sources_key, job.sources_sha256)
    around.unpack(archive, Path(), job.workdir)
    result = worker.run_snakemake(job)
    assert (result.exit_code, result.tail) == (0, "")
    assert (tmp_path / "byok8s.log").read_bytes() == b"rule a:\n\nlast\n"
    assert capfdbinary.readouterr().out == b"rule a:\n\nlast\n"


@pytest.mark.parametrize(
    ("output", "code"),
    [
        ("Command 'x' returned non-zero exit status 3.", 3),
        ("Command 'x' died with <Signals.SIGKILL: 9>.", 137),
        ("exit status 1 first\nreturned non-zero exit status 2.\n", 2),
        ("nothing of the kind", None),
    ],
)
def test_the_commands_own_exit_code_is_found(output: str, code: int | None) -> None:
    assert worker.command_exit(output) == code


def test_a_failure_keeps_the_tail_of_the_rules_log(store: Store, tmp_path: Path) -> None:
    code = "open('a.log', 'w').write('in the log'); print('printed'); raise SystemExit(5)"
    result = worker.run_snakemake(spec(store, tmp_path, code, rule_logs=("a.log", "missing.log")))
    assert (result.exit_code, result.tail) == (5, "in the log")


def test_a_killed_command_is_128_and_the_signal(store: Store, tmp_path: Path) -> None:
    result = worker.run_snakemake(spec(store, tmp_path, "import os; os.kill(os.getpid(), 9)"))
    assert result.exit_code == 137


def test_the_job_gets_the_users_variables_and_not_the_spec(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BYOK8S_JOB", "{}")
    (tmp_path / "environment").write_text(json.dumps({"LAB_TOKEN": "t0k3n"}))
    code = "import os; print(os.environ['LAB_TOKEN'], 'BYOK8S_JOB' in os.environ)"
    worker.run_snakemake(spec(store, tmp_path, code))
    assert (tmp_path / "byok8s.log").read_text() == "t0k3n False\n"


def test_a_result_that_is_too_long_goes_to_the_bucket(store: Store, tmp_path: Path) -> None:
    job = spec(store, tmp_path, "pass")
    many = [(f"folder/{n}", n, 1.5, hashlib.md5(b"x").hexdigest()) for n in range(200)]
    around.report(store, job.result_key, Result(0, stored=many).dumps(), "")
    text = (tmp_path / "termination").read_text()
    assert text == "key:result"
    assert Result.loads(store.objects["result"].decode()).stored == many


def test_a_result_that_the_bucket_does_not_take_is_shortened(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = spec(store, tmp_path, "pass")
    monkeypatch.setattr(around, "LOG", tmp_path / "byok8s.log")
    monkeypatch.setattr(around, "REPORT_SECONDS", 0.0)
    store.away = True
    around.conclude(store, job, Result(0, stored=[(f"k{n}", n, 1.5, "e" * 32) for n in range(99)]))
    assert Result.loads((tmp_path / "termination").read_text()) == Result(0)


def test_a_pod_that_cannot_learn_what_to_do_says_so(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.away = True
    monkeypatch.setattr(worker, "open_pod", lambda: (store, None))
    for variable in ("BYOK8S_BUNDLE", "BYOK8S_JOB"):
        monkeypatch.setenv(variable, "key:spec")
        assert worker.main() == STAGING_FAILED
        told = Result.loads((tmp_path / "termination").read_text())
        assert told.storage_away and "Could not read s3://lab/spec" in told.error
        monkeypatch.delenv(variable)


def test_sources_that_cannot_be_had_are_not_the_jobs_failure(store: Store, tmp_path: Path) -> None:
    job = spec(store, tmp_path, "pass")
    store.away = True
    result = around.unpack_sources(store, job)
    assert result and result.storage_away and "sources could not be fetched" in result.error
    store.away = False
    store.objects["sources"] += b"x"
    result = around.unpack_sources(store, job)
    assert result and not result.storage_away and "not what was uploaded" in result.error


@pytest.mark.parametrize(
    ("end", "away"), [("raise SystemExit(1)", True), ("print('exit status 3')", False)]
)
def test_snakemake_in_the_pod_says_that_the_store_is_away(
    store: Store, tmp_path: Path, end: str, away: bool
) -> None:
    said = "Could not read s3://lab/x: no answer."
    name = "os.environ['BYOK8S_STORED'] + '.away'"
    code = f"import os; open({name}, 'w').write({said!r}); {end}"
    result = worker.run_snakemake(spec(store, tmp_path, code))
    assert result.storage_away is away and result.error == (said if away else "")
    failed = f"import os; open({name}, 'w').write('x'); print('returned non-zero exit status 3.')"
    result = worker.run_snakemake(spec(store, tmp_path, f"{failed}; raise SystemExit(1)"))
    assert (result.command_exit, result.storage_away) == (3, False)


def test_the_longest_tail_fits_the_termination_message(store: Store, tmp_path: Path) -> None:
    result = Result(1, tail="ü\n" * 9000)
    around.shorten(result)
    around.report(store, "result", result.dumps(), "")
    text = (tmp_path / "termination").read_text()
    assert len(text.encode()) <= TERMINATION_LIMIT
    assert Result.loads(text).tail.endswith("ü")


def test_noise_around_a_failed_command_is_left_out() -> None:
    tail = "Building DAG of jobs...\nmy words\nRuleException:\nElapsed time: 0:00:01\n"
    result = Result(1, tail=tail)
    around.shorten(result)
    assert result.tail == "my words"


def test_cpu_time_and_memory_of_the_command_are_measured(store: Store, tmp_path: Path) -> None:
    code = "b = bytearray(50_000_000); n = sum(range(3_000_000))"
    result = worker.run_snakemake(spec(store, tmp_path, code))
    assert 0.01 < result.cpu_seconds < 30
    assert result.peak_memory > 50_000_000


def test_a_command_that_is_late_is_ended_with_its_children(tmp_path: Path) -> None:
    command = ["bash", "-c", "trap '' TERM; sleep 60 & echo begun; wait; sleep 60"]
    process._KILL_AFTER_SECONDS = 0.2
    ran = process.execute(command, tmp_path, {}, tmp_path / "log", seconds=0.3)
    assert (ran.late, ran.exit_code, ran.tail) == (True, 137, "begun\n")


@pytest.mark.parametrize("text", ["low 0\noom_kill 3\n", "under_oom 0\noom_kill 3\n"])
def test_kills_for_want_of_memory_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "events").write_text(text)
    monkeypatch.setattr(process, "_OOM_COUNTS", (tmp_path / "absent", tmp_path / "events"))
    assert process.oom_kills() == 3


def test_the_storage_provider_leaves_word_that_the_store_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = MemoryBucket()
    away = tmp_path / "stored.away"
    for variable in (None, str(tmp_path / "stored")):
        if variable:
            monkeypatch.setenv("BYOK8S_STORED", variable)
        bucket.away = 1
        with pytest.raises(WorkflowError, match="cannot be reached"), _workflow_errors():
            bucket.objects.get_bytes("k")
        assert away.exists() is bool(variable)
    assert "Could not read s3://memory/k" in away.read_text()


@pytest.mark.parametrize("code", [0, 3])
def test_a_job_that_ended_well_is_told_early_where_that_is_asked(
    store: Store, tmp_path: Path, code: int, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    job = spec(store, tmp_path, f"print('no end', end=''); raise SystemExit({code})")
    result = worker.run_snakemake(job)
    around.conclude(store, job, result)
    assert "early" not in store.objects
    around.conclude(store, job.changed(early_key="early"), result)
    told = store.objects.get("early")
    assert (told and Result.loads(told.decode())) == (None if code else result)
    assert Result.loads((tmp_path / "termination").read_text()) == result
    assert capfdbinary.readouterr().out == b"no end\n"


@pytest.mark.parametrize("hangs", [True, False])
def test_a_pod_does_not_live_on_for_an_early_report(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    job = spec(store, tmp_path, "pass").changed(early_key="early")
    monkeypatch.setattr(around, "LOG", tmp_path / "none")
    monkeypatch.setattr(around, "EARLY_SECONDS", 0.05)
    monkeypatch.setattr(store, "put", lambda *_: time.sleep(5.0) if hangs else 1 / 0)
    began = time.monotonic()
    around.conclude(store, job, Result(0))
    assert time.monotonic() - began < 4.0
    assert Result.loads((tmp_path / "termination").read_text()) == Result(0)


def test_a_worker_leaves_with_all_that_it_said() -> None:
    code = "from byok8s.worker.process import leave; print('said', end=''); leave(3)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "said", "")


def test_garbage_is_looked_for_again_once_all_is_imported() -> None:
    code = "import gc, byok8s.worker.__main__; print(gc.isenabled())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
