"""A `shell:` rule without Snakemake: inputs, the command as Snakemake runs it, outputs."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from byok8s.worker import job, lean
from byok8s.worker.names import WORKDIR
from byok8s.worker.process import Ran, execute
from byok8s.worker.spec import STAGING_FAILED, Command, File, JobSpec, Result
from byok8s.worker.transfer import Transfers
from support.memory import MemoryBucket


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket(**{"p/in.txt": b"hello\n"})


def command(text: str, **fields: object) -> Command:
    parts: dict[str, object] = {
        "inputs": (File("p/in.txt", "local/in.txt"),),
        "outputs": (File("p/deep/out.txt", "local/deep/out.txt"),),
        "logs": (),
    }
    return Command(text, 2, **(parts | fields))  # type: ignore[arg-type]


def run(bucket: MemoryBucket, made: Command, folder: Path) -> Result:
    (folder / "work").mkdir(exist_ok=True)
    spec = JobSpec("", "", "work", (), "log", "result", command=made)

    def run_command(command: Command, place: Path) -> Ran:
        variables = lean.environment(command, folder)
        return execute(lean.shell_arguments(command, place), place, variables, folder / "log")

    return lean.run(JobSpec.loads(spec.dumps()), made, folder, Transfers(bucket), run_command)  # type: ignore[arg-type]


def test_inputs_command_outputs(bucket: MemoryBucket, tmp_path: Path) -> None:
    made = command(
        "cat local/in.txt > local/deep/out.txt; echo $OMP_NUM_THREADS >> local/deep/out.txt"
    )
    result = run(bucket, made, tmp_path)
    assert (result.exit_code, result.error) == (0, "")
    assert bucket.content()["p/deep/out.txt"] == b"hello\n2\n"
    assert [(key, size) for key, size, _, _ in result.stored] == [("p/deep/out.txt", 8)]


def test_one_get_per_input_and_one_put_per_output(bucket: MemoryBucket, tmp_path: Path) -> None:
    run(bucket, command("cp local/in.txt local/deep/out.txt"), tmp_path)
    assert dict(bucket.calls) == {"get": 1, "put": 1}


@pytest.mark.parametrize(
    "text", ["false; true", "false | true", "echo $UNSET_VARIABLE"], ids=["-e", "pipefail", "-u"]
)
def test_bash_is_strict(bucket: MemoryBucket, tmp_path: Path, text: str) -> None:
    result = run(bucket, command(text), tmp_path)
    assert result.exit_code != 0
    assert "p/deep/out.txt" not in bucket.content()


def test_the_shell_may_be_another_and_not_strict(bucket: MemoryBucket, tmp_path: Path) -> None:
    text = "false; echo $0 $UNSET_VARIABLE > local/deep/out.txt"
    result = run(bucket, command(text, shell="sh", strict=False), tmp_path)
    assert result.exit_code == 0
    assert bucket.content()["p/deep/out.txt"].decode() == f"{shutil.which('sh')}\n"


def test_a_folder_for_temporary_files_of_the_rules_own(
    bucket: MemoryBucket, tmp_path: Path
) -> None:
    made = command("mktemp > local/deep/out.txt; test $TMPDIR = $TEMP", tmpdir="own/tmp")
    assert run(bucket, made, tmp_path).exit_code == 0
    assert bucket.content()["p/deep/out.txt"].startswith(b"own/tmp/tmp.")


def test_the_working_directory_is_put_into_commands_and_their_files(
    bucket: MemoryBucket, tmp_path: Path
) -> None:
    texts = (("x/script.sh", f"echo {WORKDIR}; cat $1\n"),)
    text = f"cd /; sh {WORKDIR}/x/script.sh {WORKDIR}/local/in.txt > {WORKDIR}/local/deep/out.txt"
    assert run(bucket, command(text, texts=texts), tmp_path).exit_code == 0
    assert bucket.content()["p/deep/out.txt"].decode() == f"{tmp_path}/work\nhello\n"


def test_the_commands_exit_code_and_output_are_told(bucket: MemoryBucket, tmp_path: Path) -> None:
    result = run(bucket, command("echo last words; exit 7"), tmp_path)
    assert (result.exit_code, result.command_exit, result.tail) == (7, 7, "last words\n")


def test_a_failed_commands_log_is_kept_and_its_output_is_not(
    bucket: MemoryBucket, tmp_path: Path
) -> None:
    made = command(
        "echo why > local/x.log; echo half > local/deep/out.txt; exit 1",
        logs=(File("p/x.log", "local/x.log"),),
    )
    run(bucket, made, tmp_path)
    assert bucket.content() == {"p/in.txt": b"hello\n", "p/x.log": b"why\n"}


def test_a_log_that_was_not_written_is_empty(bucket: MemoryBucket, tmp_path: Path) -> None:
    made = command("touch local/deep/out.txt", logs=(File("p/x.log", "local/x.log"),))
    run(bucket, made, tmp_path)
    assert bucket.content()["p/x.log"] == b""


def test_touch_makes_the_output(bucket: MemoryBucket, tmp_path: Path) -> None:
    made = command("true", outputs=(File("p/.done", "local/.done", touch=True),))
    assert run(bucket, made, tmp_path).exit_code == 0
    assert bucket.content()["p/.done"] == b""


def test_a_missing_output_is_named(bucket: MemoryBucket, tmp_path: Path) -> None:
    result = run(bucket, command("true"), tmp_path)
    assert result.exit_code == STAGING_FAILED
    assert result.error == "the command did not make p/deep/out.txt"


def test_a_folder_where_a_file_was_declared_is_named(bucket: MemoryBucket, tmp_path: Path) -> None:
    result = run(bucket, command("mkdir local/deep/out.txt"), tmp_path)
    assert "directory()" in result.error
    assert list(bucket.content()) == ["p/in.txt"]


def test_a_missing_input_is_named(bucket: MemoryBucket, tmp_path: Path) -> None:
    result = run(bucket, command("true", inputs=(File("p/gone", "gone"),)), tmp_path)
    assert result.exit_code == STAGING_FAILED
    assert "s3://memory/p/gone" in result.error


def test_a_store_that_is_away_is_not_the_jobs_failure(bucket: MemoryBucket, tmp_path: Path) -> None:
    bucket.away = 1
    result = run(bucket, command("true"), tmp_path)
    assert (result.exit_code, result.storage_away) == (STAGING_FAILED, True)
    assert result.error == (
        "Could not read s3://memory/p/in.txt: the S3 server at http://s3:1 cannot be reached or "
        "does not answer."
    )


def test_outputs_are_kept_for_a_store_that_is_away(bucket: MemoryBucket, tmp_path: Path) -> None:
    """For as long as the command took: after that, to run it again elsewhere is no worse."""
    folder = File("p/folder", "local/folder", folder=True)
    made = command(
        "sleep 1.2; cp local/in.txt local/deep/out.txt; mkdir local/folder; touch local/folder/a",
        outputs=(File("p/deep/out.txt", "local/deep/out.txt"), folder),
    )
    seen = lean.prepare

    def then_away(*args: object) -> int:
        size = seen(*args)  # type: ignore[arg-type]
        bucket.away = 1
        return size

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lean, "prepare", then_away)
        result = run(bucket, made, tmp_path)
        assert (result.exit_code, result.storage_away) == (0, False)
        assert {"p/deep/out.txt", "p/folder/a"} <= set(bucket.content())
        quick = command("cp local/in.txt local/deep/out.txt")
        patch.setattr(lean, "LONGEST_KEEP", 0.0)
        result = run(bucket, quick, tmp_path)
    assert (result.exit_code, result.storage_away) == (STAGING_FAILED, True)
    assert "Could not write s3://memory/p/deep/out.txt" in result.error


def test_a_failed_command_is_told_though_its_log_cannot_be_kept(
    bucket: MemoryBucket, tmp_path: Path
) -> None:
    made = command("exit 7", inputs=(), logs=(File("p/x.log", "local/x.log"),))
    bucket.away = 10
    result = run(bucket, made, tmp_path)
    assert (result.exit_code, result.command_exit, result.storage_away) == (7, 7, False)


def test_the_command_is_what_snakemake_runs() -> None:
    arguments = lean.shell_arguments(command("echo 'it''s' \"$0\""), Path())
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == f"its {shutil.which('bash')}\n"


@pytest.mark.parametrize(
    ("promise", "text", "said"),
    [
        ({"non_empty": True}, ": > local/out", "left p/out empty"),
        ({"non_empty": True}, "echo x > local/out", ""),
        ({"checksum": "md5:401b30e3b8b5d629635a5c613cdb7919"}, "echo x > local/out", ""),
        ({"checksum": "md5:401b30e3b8b5d629635a5c613cdb7919"}, "echo y > local/out", "the md5 00"),
    ],
)
def test_what_a_rule_ensures_is_checked(
    bucket: MemoryBucket, tmp_path: Path, promise: dict[str, str], text: str, said: str
) -> None:
    made = command(text, outputs=(File("p/out", "local/out", **promise),))  # type: ignore[arg-type]
    result = run(bucket, made, tmp_path)
    assert said in result.error and bool(result.error) is bool(said)
    assert result.exit_code == (STAGING_FAILED if said else 0)
    assert ("p/out" in bucket.content()) is not bool(said), "what is wrong is not stored"


def test_times_and_bytes_are_told(bucket: MemoryBucket, tmp_path: Path) -> None:
    text = "cat local/in.txt local/in.txt > local/deep/out.txt; sleep 0.2"
    result = run(bucket, command(text), tmp_path)
    assert (result.bytes_in, result.bytes_out) == (6, 12)
    parts = (result.fetch_seconds, result.command_seconds, result.store_seconds)
    assert result.command_seconds > 0.19 and min(parts) >= 0
    assert sum(parts) == pytest.approx(result.seconds, abs=0.002)


def test_a_benchmark_is_stored_with_the_outputs(bucket: MemoryBucket, tmp_path: Path) -> None:
    made = command("echo x > local/deep/out.txt", benchmark=File("p/b/x.tsv", "local/b/x.tsv"))
    (tmp_path / "work").mkdir()
    spec = JobSpec("", "", "work", (), "log", "result", command=made)

    def run_command(command: Command, place: Path) -> Ran:
        assert command.benchmark is not None
        table = place / command.benchmark.path
        arguments = lean.shell_arguments(command, place)
        return execute(arguments, place, {}, tmp_path / "log", benchmark=table)

    transfers = Transfers(bucket)  # type: ignore[arg-type]
    result = lean.run(JobSpec.loads(spec.dumps()), made, tmp_path, transfers, run_command)
    assert [key for key, *_ in result.stored] == ["p/deep/out.txt", "p/b/x.tsv"]
    assert bucket.content()["p/b/x.tsv"].startswith(b"s\th:m:s\tmax_rss")


def test_a_long_jobs_log_is_in_the_bucket_meanwhile(
    bucket: MemoryBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "LOG_SECONDS", 0.05)
    spec = JobSpec("", "", "work", (), "log", "result")
    meanwhile = job.log_kept_meanwhile(bucket, spec, tmp_path / "log")
    with meanwhile, open(tmp_path / "log", "wb", buffering=0) as log:
        time.sleep(0.2)
        assert bucket.calls["put"] == 0, "there is nothing to keep yet"
        log.write(b"so far\n")
        _until(lambda: bucket.content().get("log") == b"so far\n")
        time.sleep(0.2)
        assert bucket.calls["put"] == 1, "once for what is new"


def test_a_short_jobs_log_is_not_put_meanwhile(bucket: MemoryBucket, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"all\n")
    with job.log_kept_meanwhile(bucket, JobSpec("", "", ".", (), "log", "r"), tmp_path / "log"):
        pass
    assert bucket.calls["put"] == 0


def _until(true: Callable[[], bool]) -> None:
    for _ in range(200):
        if true():
            return
        time.sleep(0.05)
    raise TimeoutError
