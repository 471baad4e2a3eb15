"""What a person sees of a run: one moving line on a terminal, plain lines in a pipe."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from byok8s.progress import HEARTBEAT_SECONDS, elapsed

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

    from byok8s.workflow.events import JobFailure, JobName

# A pipe gets a line per finished job up to this many jobs, then one every so many seconds
_LINE_PER_JOB = 200
_SECONDS_BETWEEN_LINES = 10.0
_STUCK_SECONDS = 10.0


class Display:
    """The listener of a run (byok8s.workflow.events.Listener)."""

    def __init__(self, stream: TextIO | None = None, *, dry_run: bool = False) -> None:
        from rich.console import Console

        self._console: Console = Console(
            file=stream or sys.stdout, markup=False, highlight=False, soft_wrap=True
        )
        self._dry_run = dry_run  # then Snakemake itself shows the jobs
        self._live: Live | None = None
        self._lock = threading.RLock()
        self._began = time.monotonic()
        self._submitted: dict[str, float] = {}  # by name, when
        self._running: set[str] = set()
        self._stuck: dict[str, str] = {}  # by name, why the pod cannot start
        self._said: set[str] = set()  # reasons, once each
        self._last_line = 0.0
        self.done = self.total = 0
        self.failures: list[JobFailure] = []

    @contextmanager
    def shown(self) -> Iterator[None]:
        """While the body runs: the moving line, or on a pipe a line now and then."""
        ended = threading.Event()
        beat = threading.Thread(target=self._beat, args=(ended,), name="byok8s-display")
        beat.start()
        try:
            if not self._console.is_terminal:
                yield
                return
            from rich.live import Live

            with Live(
                console=self._console,
                get_renderable=self._line,
                refresh_per_second=8,
                transient=True,
            ) as self._live:
                yield
        finally:
            ended.set()
            beat.join()

    def planned(self, counts: Mapping[str, int]) -> None:
        self.total = sum(counts.values())
        if self._dry_run:
            return
        rules = ", ".join(f"{rule} {n}" if n > 1 else rule for rule, n in counts.items())
        self.note(f"{self.total} job{'s' * (self.total != 1)} to run: {rules}")

    def submitted(self, job: JobName) -> None:
        with self._lock:
            self._submitted[str(job)] = time.monotonic()

    def started(self, job: JobName) -> None:
        with self._lock:
            self._running.add(str(job))
            self._stuck.pop(str(job), None)

    def retried(self, job: JobName, why: str) -> None:
        with self._lock:
            self._running.discard(str(job))
            self._stuck.pop(str(job), None)
        self.note(f"Again: {job}: {why}")

    def withdrawn(self, job: JobName) -> None:
        with self._lock:
            self._submitted.pop(str(job), None)
            self._stuck.pop(str(job), None)

    def waiting(self, job: JobName, reason: str, *, busy: bool) -> None:
        with self._lock:
            self._stuck[str(job)] = reason
        if not busy:
            self._say_waiting(job, reason)

    def _say_waiting(self, job: object, reason: str) -> None:
        """Fifty pods that wait for the same thing are one line."""
        with self._lock:
            new = reason not in self._said
            self._said.add(reason)
        if new:
            self.note(f"Waiting: {job}: {reason}")

    def _beat(self, ended: threading.Event) -> None:
        """Tell of a cluster without room, when not our own jobs fill it, and that we live."""
        told = time.monotonic()
        while not ended.wait(_STUCK_SECONDS):
            with self._lock:
                stuck = None if self._running else next(iter(self._stuck.items()), None)
            if stuck:
                self._say_waiting(*stuck)
            if not self._console.is_terminal and time.monotonic() - told >= HEARTBEAT_SECONDS:
                told = time.monotonic()
                if self._submitted:
                    self.note(self._line())

    def ended(self, job: JobName, failure: JobFailure | None) -> None:
        with self._lock:
            began = self._submitted.pop(str(job), None)
            self._running.discard(str(job))
            self._stuck.pop(str(job), None)
            if failure is not None and not failure.will_retry:
                self.failures.append(failure)
        if failure is not None:
            self._print_failure(failure)
        elif began is not None and self._may_print():
            took = elapsed(time.monotonic() - began)
            self.note(f"[{self.done + 1}/{self.total}] {job} done in {took}")

    def progress(self, done: int, total: int) -> None:
        with self._lock:
            self.done, self.total = done, total

    def note(self, text: str) -> None:
        self._console.print(text)

    def warn(self, text: str) -> None:
        self._console.print(f"Warning: {text}", style="yellow")

    def _may_print(self) -> bool:
        """A large run does not bury its failures under thousands of lines."""
        if self._live is not None and self.total > _LINE_PER_JOB // 4:
            return False
        now = time.monotonic()
        if self.total <= _LINE_PER_JOB or now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            return True
        return False

    def _print_failure(self, failure: JobFailure) -> None:
        again = "; it is tried again" if failure.will_retry else ""
        reason = failure.reason.rstrip(".")
        with self._console:  # in one piece, since other threads print as well
            self._console.print(f"Failed: {failure.job}: {reason}{again}", style="red")
            if failure.tail:
                self.note("  the end of its log:")
                for line in failure.tail.rstrip().splitlines():
                    self.note(f"    {line}")
            if failure.log:
                self.note(f"  the whole log: {failure.log}")
            if failure.hint:
                self.note(f"  {failure.hint}")

    def _line(self) -> str:
        with self._lock:
            running = len(self._running)
            waiting = len(self._submitted) - running
            failed = len(self.failures)
            if not self.total:
                return f"Planning · {elapsed(time.monotonic() - self._began)}"
        parts = [f"{self.done}/{self.total} jobs done", f"{running} running", f"{waiting} waiting"]
        if failed:
            parts.append(f"{failed} failed")
        return " · ".join([*parts, elapsed(time.monotonic() - self._began)])
