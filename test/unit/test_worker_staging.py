"""A command in a container of its own: the shell that waits there, and staging beside it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from byok8s.worker import job as around
from byok8s.worker import process, staging
from byok8s.worker.benchmark import HEADER
from byok8s.worker.names import WORKDIR
from byok8s.worker.spec import STAGING_FAILED, Command, File, JobSpec, Result
from byok8s.worker.transfer import Transfers
from support.memory import MemoryBucket

# Each shell that an image may have as /bin/sh
SHELLS = {
    "sh": ["/bin/sh"],
    "bash": ["bash", "--posix"],
    "busybox": ["busybox", "sh"],
}


@dataclass
class Pod:
    """Two processes in the place of two containers."""

    folder: Path
    bucket: MemoryBucket
    shell: tuple[str, ...] = ("/bin/sh",)
    path: str = os.environ["PATH"]
    jobs: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start_job(self) -> subprocess.Popen[bytes]:
        arguments = staging.job_command(str(self.folder))[1:]
        environment = {"PATH": self.path}
        job = subprocess.Popen(
            [*self.shell, *arguments], env=environment, cwd="/", start_new_session=True
        )
        self.jobs.append(job)
        return job

    def stage(self, text: str, **fields: object) -> Result:
        parts: dict[str, object] = {
            "inputs": (File("p/in.txt", "in.txt"),),
            "outputs": (File("p/out.txt", "deep/out.txt"),),
            "logs": (),
        }
        command = Command(text, 2, **(parts | fields))  # type: ignore[arg-type]
        spec = JobSpec("", "", str(self.folder / "work"), (), "log", "result", command=command)
        transfers = Transfers(self.bucket)  # type: ignore[arg-type]
        with staging.handshake(self.folder):
            return staging.stage(spec, command, transfers, self.folder)

    def run(self, text: str, **fields: object) -> tuple[Result, int]:
        """The result, and the exit code of the job's container."""
        job = self.start_job()
        return self.stage(text, **fields), job.wait(10)

    @property
    def out(self) -> str:
        return self.bucket.content()["p/out.txt"].decode()


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pod]:
    before = signal.getsignal(signal.SIGTERM)
    for name in ("work", "scratch"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(around, "SCRATCH", tmp_path / "scratch")
    monkeypatch.setattr(around, "LOG", tmp_path / "scratch/byok8s.log")
    made = Pod(tmp_path, MemoryBucket(**{"p/in.txt": b"hello\n"}))
    yield made
    for job in made.jobs:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait(10)
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("name", SHELLS)
def test_inputs_command_outputs(pod: Pod, name: str) -> None:
    if shutil.which(SHELLS[name][0]) is None:
        pytest.skip(f"no {name} on this machine")
    pod.shell = tuple(SHELLS[name])
    result, code = pod.run("cat in.txt >deep/out.txt; echo $OMP_NUM_THREADS >>deep/out.txt")
    assert (result.exit_code, result.error, code) == (0, "", 0)
    assert pod.out == "hello\n2\n"
    assert [(key, size) for key, size, _, _ in result.stored] == [("p/out.txt", 8)]


def test_the_shell_may_be_another_and_not_strict(pod: Pod) -> None:
    text = "false; cd /; echo $UNSET_VARIABLE >" + f"{WORKDIR}/deep/out.txt"
    assert pod.run(text, shell="/no/such/place/sh", strict=False)[0].exit_code == 0
    assert pod.out == "\n"


def test_the_job_may_start_long_before_or_after_staging(pod: Pod) -> None:
    job = pod.start_job()
    time.sleep(0.3)
    assert pod.stage("cp in.txt deep/out.txt").exit_code == job.wait(10) == 0
    shutil.rmtree(pod.folder / "work")
    for name in ("end", "was", "run", "output"):
        (pod.folder / name).unlink()
    threading.Timer(0.3, pod.start_job).start()
    assert pod.stage("cp in.txt deep/out.txt").exit_code == 0


@pytest.mark.parametrize(
    "text", ["false; true", "false | true", "echo $UNSET_VARIABLE"], ids=["-e", "pipefail", "-u"]
)
def test_bash_is_strict(pod: Pod, text: str) -> None:
    result, code = pod.run(text)
    assert result.exit_code == code != 0
    assert "p/out.txt" not in pod.bucket.content()


def without_bash(pod: Pod, *programs: str) -> None:
    """Leave the job no program but these."""
    (pod.folder / "bin").mkdir()
    for name in programs:
        (pod.folder / "bin" / name).symlink_to(shutil.which(name) or name)
    pod.path = str(pod.folder / "bin")


def test_an_image_without_bash_has_a_strict_sh(pod: Pod) -> None:
    without_bash(pod, "sh", "cat")
    result, _ = pod.run('echo "$0" >deep/out.txt; cat in.txt >>deep/out.txt')
    assert result.exit_code == 0
    assert pod.out == "sh\nhello\n"


@pytest.mark.parametrize("text", ["false; true", "echo $UNSET_VARIABLE"])
def test_the_sh_is_strict(pod: Pod, text: str) -> None:
    without_bash(pod, "sh")
    assert pod.run(text)[0].exit_code != 0


def test_the_exit_code_and_the_output_are_told(pod: Pod) -> None:
    result, code = pod.run("echo last words; echo why >&2; exit 7")
    assert (result.exit_code, result.command_exit, code) == (7, 7, 7)
    assert result.tail == "last words\nwhy\n"
    assert (pod.folder / "scratch/byok8s.log").read_text() == "last words\nwhy\n"


def test_the_output_may_be_opened_again_by_its_name(pod: Pod) -> None:
    result, _ = pod.run("echo one >/dev/stderr; echo two >/dev/stdout; exit 1")
    assert result.tail == "one\ntwo\n"


def test_a_command_that_a_signal_ended(pod: Pod) -> None:
    result, code = pod.run("kill -SEGV $$")
    assert (result.exit_code, result.command_exit, code) == (139, 139, 139)


def test_a_container_that_is_killed_ends_the_wait(pod: Pod) -> None:
    job = pod.start_job()
    threading.Timer(0.5, lambda: os.killpg(job.pid, signal.SIGKILL)).start()
    result = pod.stage("echo before; sleep 3 >/dev/null 2>&1; echo never")
    assert (result.exit_code, result.command_exit) == (137, None)
    assert result.tail == "before\n"


def test_sigterm_reaches_the_command_and_its_log_is_kept(pod: Pod) -> None:
    job = pod.start_job()

    def end() -> None:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)  # the kubelet tells both containers
        job.send_signal(signal.SIGTERM)

    threading.Thread(target=end).start()
    result = pod.stage("trap 'echo bye; exit 9' TERM; sleep 5 >/dev/null 2>&1 & wait")
    assert (result.exit_code, result.tail) == (9, "bye\n")
    assert job.wait(10) == 9


def test_sigterm_before_the_command_ends_both(pod: Pod) -> None:
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    signal.signal(signal.SIGTERM, staging._stopped)
    with pytest.raises(SystemExit) as stopped:
        pod.stage("true")  # the job's image is still being pulled
    assert stopped.value.code == 143
    assert pod.start_job().wait(10) == STAGING_FAILED  # and one that comes late does not wait


@pytest.mark.parametrize("late", [False, True])
def test_staging_that_fails_ends_the_job(pod: Pod, late: bool) -> None:
    job = None if late else pod.start_job()
    result = pod.stage("true", inputs=(File("p/gone", "gone"),))
    assert result.exit_code == STAGING_FAILED
    assert "s3://memory/p/gone" in result.error
    assert (job or pod.start_job()).wait(10) == STAGING_FAILED


def test_a_missing_output_is_named_though_the_command_succeeded(pod: Pod) -> None:
    result, code = pod.run("true")
    assert (result.exit_code, code) == (STAGING_FAILED, 0)
    assert result.error == "the command did not make p/out.txt"


def test_values_of_the_environment_arrive_unchanged(pod: Pod, monkeypatch: pytest.MonkeyPatch):
    odd = 'it\'s $HOME `x` "y"\nz\\'
    monkeypatch.setattr(process, "user_environment", lambda: {"ODD": odd, "no-name": "x"})
    pod.run('printf %s "$ODD" >deep/out.txt')
    assert pod.out == odd


def test_a_command_arrives_unchanged(pod: Pod) -> None:
    pod.run("""printf '%s' 'it'\\''s {braces} %s $' "$0" >deep/out.txt""")
    assert pod.out == "it's {braces} %s $bash"


def test_a_process_that_goes_on_keeps_nobody_waiting(pod: Pod) -> None:
    began = time.monotonic()
    result, _ = pod.run("(sleep 3 >/dev/null 2>&1) & cp in.txt deep/out.txt")
    assert result.exit_code == 0
    assert time.monotonic() - began < 2


def test_a_full_disk_does_not_stop_the_command(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(around, "LOG", Path("/dev/full/log"))  # no folder: nothing can be kept
    result, _ = pod.run("seq 100000; cp in.txt deep/out.txt")
    assert result.exit_code == 0


def test_cpu_seconds_are_those_of_the_command(pod: Pod) -> None:
    result, _ = pod.run("i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; cp in.txt deep/out.txt")
    assert 0.02 < result.cpu_seconds < 20


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
def test_a_benchmark_tells_what_is_known_of_another_container(pod: Pod) -> None:
    spin = "i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done; cp in.txt deep/out.txt"
    result, code = pod.run(spin, benchmark=File("p/b.tsv", "measured/b.tsv"))
    assert code == 0 and not result.error
    head, row = (line.split("\t") for line in pod.bucket.content()["p/b.tsv"].decode().splitlines())
    told = dict(zip(head, row, strict=True))
    assert head == HEADER and told["max_rss"] == told["mean_load"] == "NA"
    assert 0 < float(told["cpu_time"]) < 10 and 0 < float(told["s"]) < 10


def test_what_another_user_made_can_be_read(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    make = os.mkfifo

    def mkfifo(path: Path) -> None:
        make(path)
        os.chown(path, 65533, 65533)

    monkeypatch.setattr(os, "mkfifo", mkfifo)
    text = "umask 077; mkdir -p made/below; cp in.txt made/below/x; echo why >x.log"
    outputs = (File("p/made", "made", folder=True),)
    result, _ = pod.run(text, outputs=outputs, logs=(File("p/x.log", "x.log"),))
    assert result.error == ""
    made = pod.folder / "work/made"
    assert [oct(path.stat().st_mode) for path in (made, made / "below", made / "below/x")] == [
        "0o40755",
        "0o40755",
        "0o100644",
    ]
    assert pod.bucket.content()["p/made/below/x"] == b"hello\n"
