"""What a rule's `benchmark:` tells, as Snakemake measures it (snakemake/benchmark.py), from /proc.

Snakemake asks psutil; here is what that reads on Linux. The columns, the times between two looks
and the arithmetic are Snakemake's, so that tables of both can stand side by side.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

HEADER = [
    "s",
    "h:m:s",
    "max_rss",
    "max_vms",
    "max_uss",
    "max_pss",
    "io_in",
    "io_out",
    "mean_load",
    "cpu_time",
]
_SHORT_SECONDS = 0.5  # between two looks, at first
_LONG_SECONDS = 30  # later; also how many looks are "at first"
_MIB = 1024 * 1024
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


def table_of_times(seconds: float, cpu_seconds: float) -> str:
    """The table of a command of which nothing else is known."""
    return _table([*_times(seconds), *["NA"] * 7, f"{cpu_seconds:.2f}"])


def _table(row: list[str]) -> str:
    return "\t".join(HEADER) + "\n" + "\t".join(row) + "\n"


def _times(seconds: float) -> list[str]:
    return [f"{seconds:.2f}", str(timedelta(seconds=int(seconds)))]


@dataclass(frozen=True)
class Sample:
    """One process at one time. Memory and transfers in bytes, CPU time in seconds."""

    memory: tuple[int, int, int, int]  # resident, virtual, its own, its share
    read: int
    written: int
    cpu_seconds: float


@dataclass
class _Known:
    """A process that was looked at before."""

    at: float | None = None  # monotonic; None: not by the measure of load
    cpu_seconds: float = 0.0


@dataclass
class Benchmark:
    """Looks at a process and its children until told to stop."""

    pid: int
    proc: Path = Path("/proc")
    most: list[float] = field(default_factory=lambda: [0.0] * 4)
    moved: tuple[float, float] = (0.0, 0.0)
    load: float = 0.0
    _known: dict[int, _Known] = field(default_factory=dict)
    _seconds: dict[tuple[int, str], float] = field(default_factory=dict)  # CPU, by process
    _looked: float | None = None
    _over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._began = time.time()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> str:
        """The table; the process has ended."""
        seconds = time.time() - self._began
        self._over.set()
        self._thread.join()
        return _table(self.row(seconds))

    def row(self, seconds: float) -> list[str]:
        """The values of a process that ran so long."""
        if self._looked is None:  # it had ended before the first look
            return [*_times(seconds), *["NA"] * 8]
        cpu_seconds = sum(self._seconds.values())
        values = (*self.most, *self.moved, self.load / seconds, cpu_seconds)
        return [*_times(seconds), *(f"{value:.2f}" for value in values)]

    def _watch(self) -> None:
        looks = 0
        while True:
            self.look(time.time())
            looks += 1
            if self._over.wait(_LONG_SECONDS if looks > _LONG_SECONDS else _SHORT_SECONDS):
                return

    def look(self, now: float) -> None:
        """Take in what the processes have used by now."""
        total = [0] * 4
        read = written = 0
        load, any_found = 0.0, False
        for pid in self._tree():
            name, sample = self._sample(pid)
            known = self._known.setdefault(pid, _Known())
            if self._looked is not None and sample is not None:
                load += self._share(known, sample) * (now - self._looked)
            if sample is None:
                continue
            total = [a + b for a, b in zip(total, sample.memory, strict=True)]
            read, written = read + sample.read, written + sample.written
            self._seconds[pid, name] = sample.cpu_seconds
            any_found = True
        if not any_found:
            return
        self._looked = now
        self.most = [max(a, b / _MIB) for a, b in zip(self.most, total, strict=True)]
        self.moved = (read / _MIB, written / _MIB)
        self.load += load

    def _share(self, known: _Known, sample: Sample) -> float:
        """Per cent of a CPU since the last look, as psutil.Process.cpu_percent; 0 at first."""
        now = time.monotonic()
        before, seconds = known.at, sample.cpu_seconds - known.cpu_seconds
        known.at, known.cpu_seconds = now, sample.cpu_seconds
        if before is None or now <= before:
            return 0.0
        return round(100 * seconds / (now - before), 1)

    def _tree(self) -> list[int]:
        """The process and its children, and theirs."""
        children: dict[int, list[int]] = {}
        for entry in self.proc.iterdir():
            if entry.name.isdigit() and (fields := self._stat(int(entry.name))):
                children.setdefault(int(fields[1]), []).append(int(entry.name))
        found = [self.pid]
        for pid in found:
            found.extend(children.get(pid, ()))
        return found

    def _stat(self, pid: int) -> list[str]:
        """The fields of /proc/PID/stat after the name (proc(5)); empty when it has ended."""
        try:
            return (self.proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return []

    def _sample(self, pid: int) -> tuple[str, Sample | None]:
        """A process's name and use; None when it has ended, or is not ours to look at."""
        folder, fields = self.proc / str(pid), self._stat(pid)
        try:
            name = (folder / "comm").read_text()
            virtual, resident = map(int, (folder / "statm").read_text().split()[:2])
            own, share = _own_and_share(_maps(folder))
            moved = dict(line.split(": ") for line in (folder / "io").read_text().splitlines())
        except OSError:
            return "", None
        if not fields:
            return "", None
        memory = (resident * _PAGE, virtual * _PAGE, own, share)
        seconds = (int(fields[11]) + int(fields[12])) / _TICKS
        return name, Sample(memory, int(moved["read_bytes"]), int(moved["write_bytes"]), seconds)


def _maps(folder: Path) -> str:
    try:
        return (folder / "smaps_rollup").read_text()
    except (ProcessLookupError, FileNotFoundError):  # of some processes that live
        return (folder / "smaps").read_text()


def _own_and_share(rollup: str) -> tuple[int, int]:
    """Bytes of memory that nobody else has, and with its part of what others have too."""
    own = share = 0
    for line in rollup.splitlines():
        if line.startswith("Private_"):
            own += int(line.split()[1]) * 1024
        elif line.startswith("Pss:"):
            share += int(line.split()[1]) * 1024
    return own, share
