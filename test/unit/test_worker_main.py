"""The worker: sources in, one command, its end reported."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from byok8s.worker import __main__ as worker
from byok8s.worker.spec import TERMINATION_LIMIT, JobSpec, Result
from byok8s.workflow import sources


class Body:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def bytes(self) -> bytes:
        return self._data


class Store:
    """The two calls of an obstore store that the worker uses."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def get(self, key: str) -> Body:
        return Body(self.objects[key])

    def put(self, key: str, data: bytes | Path) -> None:
        self.objects[key] = data.read_bytes() if isinstance(data, Path) else data


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(worker, "SCRATCH", tmp_path)
    monkeypatch.setattr(worker, "TERMINATION_LOG", str(tmp_path / "termination"))
    monkeypatch.setattr(worker, "ENVIRONMENT_FILE", str(tmp_path / "environment"))
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


def test_a_long_spec_is_read_from_the_bucket(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = spec(store, tmp_path, "pass")
    store.objects["spec"] = sent.dumps().encode()
    monkeypatch.setenv("BYOK8S_JOB", "key:spec")
    assert worker.load_spec(store) == sent


def test_sources_other_than_the_leaders_are_refused(store: Store, tmp_path: Path) -> None:
    job = spec(store, tmp_path, "pass")
    store.objects["sources"] += b"x"
    with pytest.raises(ValueError, match="not what was uploaded"):
        worker.unpack_sources(store, job)


def test_a_job_sees_its_sources_and_its_output_is_kept(
    store: Store, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    job = spec(store, tmp_path, "print(open('Snakefile').read()); print('last')")
    worker.unpack_sources(store, job)
    result = worker.run(job)
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
    result = worker.run(spec(store, tmp_path, code, rule_logs=("a.log", "missing.log")))
    assert (result.exit_code, result.tail) == (5, "in the log")


def test_a_killed_command_is_128_and_the_signal(store: Store, tmp_path: Path) -> None:
    result = worker.run(spec(store, tmp_path, "import os; os.kill(os.getpid(), 9)"))
    assert result.exit_code == 137


def test_the_job_gets_the_users_variables_and_not_the_spec(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BYOK8S_JOB", "{}")
    (tmp_path / "environment").write_text(json.dumps({"LAB_TOKEN": "t0k3n"}))
    code = "import os; print(os.environ['LAB_TOKEN'], 'BYOK8S_JOB' in os.environ)"
    worker.run(spec(store, tmp_path, code))
    assert (tmp_path / "byok8s.log").read_text() == "t0k3n False\n"


def test_a_result_that_is_too_long_goes_to_the_bucket(store: Store, tmp_path: Path) -> None:
    job = spec(store, tmp_path, "pass")
    many = [(f"folder/{n}", n, 1.5, hashlib.md5(b"x").hexdigest()) for n in range(200)]
    worker.report(store, job, Result(0, stored=many))
    text = (tmp_path / "termination").read_text()
    assert text == "key:result"
    assert Result.loads(store.objects["result"].decode()).stored == many


def test_the_longest_tail_fits_the_termination_message(store: Store, tmp_path: Path) -> None:
    worker.report(store, spec(store, tmp_path, "pass"), Result(1, tail="ü\n" * 9000))
    text = (tmp_path / "termination").read_text()
    assert len(text.encode()) <= TERMINATION_LIMIT
    assert Result.loads(text).tail.endswith("ü")


def test_noise_around_a_failed_command_is_left_out(store: Store, tmp_path: Path) -> None:
    tail = "Building DAG of jobs...\nmy words\nRuleException:\nElapsed time: 0:00:01\n"
    worker.report(store, spec(store, tmp_path, "pass"), Result(1, tail=tail))
    assert Result.loads((tmp_path / "termination").read_text()).tail == "my words"
