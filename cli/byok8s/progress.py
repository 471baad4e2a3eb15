"""What long work tells the person who waits for it.

`reporter()` gives a spinner with the elapsed time on a terminal, and plain lines when stderr
is piped; there a heartbeat line every 30 s shows that a long step is still at work.
Everything goes to stderr: stdout is kept for results.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import Console

HEARTBEAT_SECONDS = 30.0


class Step(Protocol):
    """One running step."""

    def update(self, detail: str) -> None:
        """Say what the step is doing now, for example "compiling the kubelet"."""


class Reporter(Protocol):
    """What long work is told to."""

    def step(self, title: str) -> AbstractContextManager[Step]:
        """Announce a step; its end, its failure and its duration are told by leaving it."""

    def note(self, line: str) -> None:
        """Print one line."""


def reporter(stream: TextIO | None = None) -> Reporter:
    """The reporter that suits `stream`, which is stderr by default."""
    stream = stream or sys.stderr
    if not stream.isatty():
        return PlainReporter(stream)
    from rich.console import Console

    return TerminalReporter(Console(file=stream))


def elapsed(seconds: float) -> str:
    """A duration in seconds as people write it: "3.2 s", "2 m 10 s" or "1 h 02 m"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} m"


def some_of(names: Sequence[str], most: int) -> str:
    """The first names, and how many more there are: "a, b and 3 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def file_size(count: int) -> str:
    """A number of bytes as people write it: "12 bytes", "3.1 MB" (1 MB is 10^6 bytes)."""
    value = float(count)
    for unit in ("bytes", "KB", "MB", "GB"):
        if value < 999.5 or unit == "GB":
            break
        value /= 1000
    return f"{count} bytes" if unit == "bytes" else f"{value:.1f} {unit}"


class PlainReporter:
    """Whole lines only: for pipes, files and continuous integration."""

    def __init__(self, stream: TextIO, heartbeat: float = HEARTBEAT_SECONDS) -> None:
        self._stream = stream
        self._heartbeat = heartbeat
        self._lock = threading.Lock()

    def note(self, line: str) -> None:
        """Print one line."""
        with self._lock:
            self._stream.write(f"{line}\n")
            self._stream.flush()

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Print the step's start, a heartbeat line now and then, and its end."""
        self.note(f"{title} ...")
        step = _Detail()
        ended = threading.Event()
        beat = threading.Thread(target=self._beat, args=(title, step, ended), daemon=True)
        beat.start()
        try:
            yield step
        except BaseException as error:
            self.note(f"{title}: {_verdict(error)} after {elapsed(step.seconds())}")
            raise
        else:
            self.note(f"{title}: done in {elapsed(step.seconds())}")
        finally:
            ended.set()
            beat.join()

    def _beat(self, title: str, step: _Detail, ended: threading.Event) -> None:
        while not ended.wait(self._heartbeat):
            what = step.text or "still at it"
            self.note(f"{title}: {what} ({elapsed(step.seconds())})")


class TerminalReporter:
    """A spinner per running step, which becomes one lasting line when the step ends."""

    def __init__(self, console: Console) -> None:
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._console = console
        self._progress = Progress(
            SpinnerColumn("line" if console.options.ascii_only else "dots"),
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.fields[detail]}", style="dim", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._lock = threading.Lock()
        self._running = 0
        ascii_only = console.options.ascii_only
        self._marks = ("ok", "failed") if ascii_only else ("✓", "✗")

    def note(self, line: str) -> None:
        """Print one line above the spinners."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show a spinner for the step while it runs; steps of several threads may overlap."""
        task = self._progress.add_task(title, total=None, detail="")
        step = _Detail(lambda text: self._progress.update(task, detail=text))
        self._change_running(+1)
        try:
            yield step
        except BaseException as error:
            self._end(self._marks[1], title, f"{_verdict(error)} after {elapsed(step.seconds())}")
            raise
        else:
            self._end(self._marks[0], title, elapsed(step.seconds()))
        finally:
            self._progress.remove_task(task)
            self._change_running(-1)

    def _end(self, mark: str, title: str, outcome: str) -> None:
        self.note(f"{mark} {title}  {outcome}")

    def _change_running(self, by: int) -> None:
        with self._lock:
            self._running += by
            if self._running and not self._progress.live.is_started:
                self._progress.start()
            elif not self._running:
                self._progress.stop()


class _Detail:
    """A step: what it does now, and since when it runs."""

    def __init__(self, changed: Callable[[str], None] = lambda _: None) -> None:
        self._started = time.monotonic()
        self._changed = changed
        self.text = ""

    def update(self, detail: str) -> None:
        self.text = detail
        self._changed(detail)

    def seconds(self) -> float:
        return time.monotonic() - self._started


def _verdict(error: BaseException) -> str:
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
