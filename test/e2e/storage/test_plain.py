"""A pod's one job of the plainest kind, without what the worker imports; and all that is not so."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from byok8s.cluster import S3Server
from byok8s.worker import light, plain
from byok8s.worker.__main__ import _ran
from byok8s.worker.archive import packed
from byok8s.worker.names import FILES_VARIABLE, JOB_VARIABLE, S3_VARIABLE, WORKDIR
from byok8s.worker.plain import Done, Other
from byok8s.worker.spec import Bucket, Command, File, JobSpec, Result
from support.project import bucket_keys
from support.s3proxy import Fault, S3Proxy

SECRET = "MARKER-SECRET"


@dataclass
class Pod:
    """What a pod has, in folders of this machine."""

    folder: Path
    bucket: Bucket
    files: dict[str, bytes]
    command: Command

    def give(self, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
        """Its environment."""
        snakefile = self.folder / "Snakefile"
        snakefile.write_text("rule all:")
        self.files["sources"] = sources = packed({"flow/Snakefile": snakefile})
        fields = {"sources_key": "s", "sources_sha256": sha256(sources).hexdigest()}
        fields |= {"workdir": "flow", "argv": (), "log_key": "log", "result_key": "result"}
        spec = JobSpec(**{**fields, "command": self.command, **changes})
        told = {name: b64encode(data).decode() for name, data in self.files.items()}
        monkeypatch.setenv(JOB_VARIABLE, spec.dumps())
        monkeypatch.setenv(S3_VARIABLE, self.bucket.dumps())
        monkeypatch.setenv(FILES_VARIABLE, json.dumps(told))

    def go(self) -> Done:
        """All that `main` does; returns how the command went."""
        job, files, bucket = plain.told()
        arguments, variables = plain.prepare(job, files, bucket)
        done = plain.run(arguments, variables, job["workdir"])
        plain.conclude(job, bucket, done)
        return done

    @property
    def result(self) -> Result:
        return Result.loads((self.folder / "termination").read_text())


def shell(text: str, *outputs: File, **more: Any) -> Command:
    made = outputs or (File("k/out", "made/out"),)
    return Command(text, 1, (), made, **{"logs": (), **more})


@pytest.fixture
def pod(
    proxy: S3Proxy,
    server: S3Server,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Pod]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("secret", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(plain, "SECRET_FOLDER", str(tmp_path / "secret"))
    monkeypatch.setattr(plain, "LOG", str(tmp_path / "log"))
    monkeypatch.setattr(plain, "TERMINATION_LOG", str(tmp_path / "termination"))
    keys = f"aws_access_key_id = {server.access_key}\naws_secret_access_key = {server.secret_key}\n"
    files = {"credentials": f"[default]\n{keys}".encode()}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)}
    where = Bucket(bucket, proxy.endpoint_url, server.region)
    yield Pod(tmp_path, where, files, shell("echo 1 > made/out"))
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_job_is_done(
    pod: Pod, proxy: S3Proxy, client: Any, bucket: str, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    outputs = (File("k/out", "made/out"), File("k/deep/er", "deep/er"), File("t", "t", touch=True))
    pod.files["environment"] = json.dumps({"SECRET": SECRET}).encode()
    text = 'echo "$SECRET $OMP_NUM_THREADS $TMPDIR $AWS_REGION $PWD" > made/out; echo 2 > deep/er'
    pod.command = shell(
        f"{text}; echo said; echo told >&2; [ {WORKDIR} = $PWD ]; printf end",
        *outputs,
        logs=(File("l/rule.log", "l/rule.log"),),
    )
    pod.give(monkeypatch, early_key="early")
    pod.go()
    names = ["l/rule.log", "k/out", "k/deep/er", "t", "log", "early"]
    assert proxy.requests == [("PUT", name) for name in names]
    work = pod.folder / "work/flow"
    found = {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in names}
    region = pod.bucket.region
    assert found["k/out"].decode() == f"{SECRET} 1 /tmp {region} {work}\n"
    assert (found["k/deep/er"], found["t"], found["l/rule.log"]) == (b"2\n", b"", b"")
    assert found["log"] == b"said\ntold\nend" and capfd.readouterr().out == "said\ntold\nend\n"
    assert Result.loads(found["early"].decode()) == pod.result
    assert (work / "Snakefile").read_text() == "rule all:"
    rows = {key: (size, etag) for key, size, _, etag in pod.result.stored}
    for key in names[:4]:
        told = client.head_object(Bucket=bucket, Key=key)
        assert rows[key] == (told["ContentLength"], told["ETag"].strip('"'))
    assert pod.result.bytes_out == sum(size for size, _ in rows.values())
    assert pod.result.exit_code == 0 and 0 < pod.result.command_seconds < pod.result.seconds
    assert pod.result.peak_memory > 0
    assert {path.stat().st_mode & 0o777 for path in (pod.folder / "secret").iterdir()} == {0o400}
    assert FILES_VARIABLE not in os.environ, "no child is to have it"


def test_the_commands_environment_is_what_the_worker_gives(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Python ignores, a command does not find ignored; its standard input is empty."""
    pod.command = shell("env > made/out; (cat; grep SigIgn /proc/self/status) >> made/out")
    pod.give(monkeypatch)
    done = pod.go()
    assert done.exit_code == 0
    lines = (pod.folder / "work/flow/made/out").read_text().splitlines()
    names = {line.partition("=")[0] for line in lines}
    assert not names & {JOB_VARIABLE, FILES_VARIABLE}
    (ignored,) = (line for line in lines if line.startswith("SigIgn"))
    assert int(ignored.split()[1], 16) & (1 << (signal.SIGPIPE - 1)) == 0


@pytest.mark.parametrize(
    ("text", "code"), [("exit 7", 7), ("false | true", 1), ("kill -SEGV $$", 139), ("$unset", 1)]
)
def test_a_command_that_fails_is_handed_over(
    pod: Pod, proxy: S3Proxy, text: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod.command = shell(f"echo half > made/out; echo words; {text}")
    pod.give(monkeypatch)
    job, files, bucket = plain.told()
    done = plain.run(*plain.prepare(job, files, bucket), job["workdir"])
    assert done.exit_code == code
    with pytest.raises(Other):
        plain.conclude(job, bucket, done)
    assert proxy.requests == [] and not (pod.folder / "termination").exists()


@pytest.mark.parametrize("text", ["true", "mkdir made/out", "truncate -s 9M made/out"])
def test_so_is_one_whose_outputs_are_not_small_files(
    pod: Pod, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod.command = shell(text)
    pod.give(monkeypatch)
    with pytest.raises((Other, OSError)):
        pod.go()
    assert not (pod.folder / "termination").exists()


@pytest.mark.parametrize("key", ['k/"quoted"', "k/back\\slash", "k/ü"])
def test_so_is_a_key_that_json_would_write_otherwise(
    pod: Pod, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod.command = shell("echo 1 > made/out", File(key, "made/out"))
    pod.give(monkeypatch)
    with pytest.raises(Other):
        pod.go()


def test_so_is_what_cannot_be_kept_and_the_command_ends(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: int, log: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(plain, "_pass_on", full)
    pod.command = shell("sleep 60")
    pod.give(monkeypatch)
    job, files, bucket = plain.told()
    done = plain.run(*plain.prepare(job, files, bucket), job["workdir"])
    assert done.exit_code == 128 + signal.SIGKILL and done.seconds < 10
    with pytest.raises(Other):
        plain.conclude(job, bucket, done)
    with pytest.raises(OSError, match="No space left"):
        _ran(done)


def test_a_shell_that_is_not_there_leaves_everything_to_the_worker(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod.command = shell("true", shell="/no/such/shell")
    pod.give(monkeypatch)
    before = os.getcwd()
    with pytest.raises(FileNotFoundError):
        pod.go()
    assert os.getcwd() == before


def test_so_is_what_the_bucket_does_not_take(
    pod: Pod, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod.give(monkeypatch)
    proxy.faults.append(Fault("PUT", "503"))
    with pytest.raises(ValueError, match="503"):
        pod.go()
    assert not (pod.folder / "termination").exists()


def test_an_early_report_that_does_not_arrive_is_none(
    pod: Pod, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(light, "_SILENCE_SECONDS", 0.3)
    pod.give(monkeypatch, early_key="early")
    proxy.faults.append(Fault("PUT", "hang", "early", seconds=2.0))
    assert pod.go().exit_code == 0
    assert pod.result.stored[0][0] == "k/out"


OUTPUT = File("k/out", "made/out")


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": (File("in", "in"),)},
        {"texts": (("script", "text"),)},
        {"benchmark": File("b", "b")},
        {"outputs": (OUTPUT.changed(folder=True),)},
        {"outputs": (OUTPUT.changed(non_empty=True),)},
        {"outputs": (OUTPUT.changed(checksum="md5:0"),)},
    ],
)
def test_other_jobs_are_not_begun(
    pod: Pod, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pod.command = shell("true").changed(**change)
    pod.give(monkeypatch)
    with pytest.raises(Other):
        plain.told()
    assert FILES_VARIABLE in os.environ


@pytest.mark.parametrize(
    "change",
    [
        {"endpoint_url": "https://s3.lab"},
        {"endpoint_url": None},
        {"path_style": False},
        {"storage_class": "GLACIER"},
        {"md5_etags": False},
        {"options": {"request_payer": "true"}},
    ],
)
def test_other_buckets_are_left_to_obstore(
    pod: Pod, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pod.bucket = pod.bucket.changed(**change)
    pod.give(monkeypatch)
    with pytest.raises((Other, ValueError)):
        plain.told()


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "all_proxy", "AWS_SERVER_SIDE_ENCRYPTION"])
def test_so_is_what_an_image_says_of_the_way_there(
    pod: Pod, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod.give(monkeypatch)
    monkeypatch.setenv(variable, "x")
    with pytest.raises(Other):
        plain.told()


def test_so_are_keys_that_expire_and_sources_of_another_leader(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod.give(monkeypatch, sources_sha256="0" * 64)
    with pytest.raises(Other):
        plain.told()
    pod.files["credentials"] += b"aws_session_token = T\n"
    pod.give(monkeypatch)
    with pytest.raises(Other):
        plain.told()


def test_a_signal_ends_the_command(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    pod.command = shell("sleep 60")
    pod.give(monkeypatch)
    job, files, bucket = plain.told()
    arguments, variables = plain.prepare(job, files, bucket)
    me = os.getpid()
    timer = threading.Timer(0.3, lambda: os.kill(me, signal.SIGTERM))
    timer.start()
    began = time.monotonic()
    assert plain.run(arguments, variables, job["workdir"]).exit_code == 128 + signal.SIGTERM
    assert time.monotonic() - began < 10
    plain._end(2**22 + 1, signal.SIGTERM)  # there is no such process any more


def test_of_a_command_that_lasts_the_log_is_kept_meanwhile(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the worker, and what it makes of it too."""
    begun, ended = threading.Event(), threading.Event()

    class Keeper:
        def __init__(self) -> None:
            begun.set()

        def close(self) -> None:
            ended.set()

    monkeypatch.setattr("byok8s.worker.__main__.keep_log_meanwhile", Keeper)
    pod.command = shell("sleep 1.3; echo 1 > made/out")
    pod.give(monkeypatch)
    job, files, bucket = plain.told()
    done = plain.run(*plain.prepare(job, files, bucket), job["workdir"])
    assert (done.exit_code, done.lasted) == (0, True)
    assert begun.is_set() and ended.is_set()
    with pytest.raises(Other):
        plain.conclude(job, bucket, done)


def test_little_is_imported() -> None:
    """Each module of Python's own library is a millisecond of every pod."""
    code = "import os, sys; known = {*sys.modules}; import byok8s.worker.plain; "
    code += "print(*sorted({name.partition('.')[0] for name in {*sys.modules} - known}))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.append({_ROOT!r}); {code}"],
        check=True,
        capture_output=True,
        text=True,
    )
    taken = set(done.stdout.split()) - {"_sha256", "_sha2", "array"}
    assert taken <= {"__future__", "_socket", "binascii", "byok8s", "errno", "zlib"}


_ROOT = str(Path(plain.__file__).parents[2])


def test_bucket_keys_are_only_those_that_were_made(
    pod: Pod, client: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod.give(monkeypatch)
    pod.go()
    assert set(bucket_keys(client, bucket, ours=True)) == {"k/out"}
