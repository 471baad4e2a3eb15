"""What `benchmark:` tells without Snakemake is what Snakemake would tell."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from byok8s.worker.benchmark import HEADER, Benchmark
from byok8s.worker.process import execute
from snakemake.benchmark import BenchmarkRecord, BenchmarkTimer, write_benchmark_records

BUSY = "import time; time.sleep(0.7); sum(range(2 * 10**7)); x = bytearray(30_000_000); input()"


def test_the_columns_are_snakemakes(tmp_path: Path) -> None:
    record = BenchmarkRecord(running_time=93784.129, cpu_time=1.5)
    write_benchmark_records([record], str(tmp_path / "theirs.tsv"), False)
    header, row = (tmp_path / "theirs.tsv").read_text().splitlines()
    assert header.split("\t") == HEADER
    own = Benchmark(2**22 + 1)  # there is no such process: pids are below
    own.stop()
    assert own.row(93784.129) == row.split("\t")
    assert own.row(7.0)[1] == "0:00:07"


def test_the_values_are_those_of_psutil() -> None:
    """Both look at a process and its child that keep still."""
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY!r}])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        time.sleep(0.2)
        theirs = BenchmarkRecord()
        timer = BenchmarkTimer(process.pid, theirs)
        own = Benchmark(process.pid)
        timer.start()
        _wait_until_still(process.pid)
        timer.work()
        own.look(time.time())
        timer.cancel()
        assert process.stdin is not None
        process.stdin.close()
        own.stop()
    theirs.running_time = 2.0
    said = [float(value) for value in theirs.to_tsv(False).split("\t")[2:]]
    told = [float(value) for value in own.row(2.0)[2:]]
    assert told[:4] == pytest.approx(said[:4], rel=0.02), "memory"
    assert told[4:6] == pytest.approx(said[4:6], abs=0.1), "what was read and written"
    assert told[2] > 28, "the child's memory too"
    assert told[7] == pytest.approx(said[7], abs=0.05) and told[7] > 0.1, "CPU seconds"
    assert told[6] > 1 and said[6] > 1, "load"


def _wait_until_still(pid: int) -> None:
    """Until the child waits for its input, which it does with all of its memory."""
    for _ in range(600):
        found = Benchmark.__new__(Benchmark)
        found.pid, found.proc = pid, Path("/proc")
        tree = found._tree()
        if len(tree) == 2 and found._sample(tree[1])[1].memory[2] > 28_000_000:  # type: ignore[union-attr]
            time.sleep(0.2)
            return
        time.sleep(0.05)
    raise TimeoutError


def test_a_look_every_half_second_then_every_half_minute() -> None:
    waits: list[float] = []

    class Over(threading.Event):
        def wait(self, seconds: float | None = None) -> bool:
            waits.append(seconds or 0.0)
            return len(waits) == 40

    Benchmark(os.getpid(), _over=Over())._thread.join()
    assert waits == [0.5] * 30 + [30.0] * 10


@pytest.mark.parametrize(("command", "written"), [("sleep 0.1", True), ("exit 3", False)])
def test_only_a_command_that_succeeds_has_a_table(
    tmp_path: Path, command: str, written: bool
) -> None:
    table = tmp_path / "table.tsv"
    execute(["bash", "-c", command], tmp_path, {}, tmp_path / "log", benchmark=table)
    assert table.exists() is written
    if written:
        header, row = table.read_text().splitlines()
        assert header.split("\t") == HEADER and len(row.split("\t")) == len(HEADER)


def test_a_process_that_is_not_ours_is_left_out(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    (proc / "7").mkdir(parents=True)
    stat = "7 (a (b) c) S 1 " + " ".join(["0"] * 9) + " 100 50 0 0"
    (proc / "7" / "stat").write_text(stat)
    (proc / "7" / "comm").write_text("a (b) c\n")
    (proc / "7" / "statm").write_text("2560 1280 0 0 0 0 0\n")
    (proc / "7" / "smaps").write_text("Private_Dirty: 1024 kB\nPss: 512 kB\nPss: 512 kB\n")
    (proc / "7" / "io").write_text("rchar: 9\nread_bytes: 1048576\nwrite_bytes: 2097152\n")
    (proc / "8").mkdir()  # a child of which only this can be read
    (proc / "8" / "stat").write_text(stat.replace("7 (", "8 (").replace(" S 1 ", " S 7 "))
    (proc / "self").mkdir()
    own = Benchmark(7, proc)
    own.stop()
    page, ticks = os.sysconf("SC_PAGE_SIZE") / 4096, os.sysconf("SC_CLK_TCK") / 100
    expected = [5 * page, 10 * page, 1.0, 1.0, 1.0, 2.0, 0.0, 1.5 / ticks]
    assert [float(value) for value in own.row(1.0)[2:]] == pytest.approx(expected)
