"""Ctrl-C, SIGTERM and the like: the first stops the run cleanly, the second at once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

# SIGHUP: the terminal was closed, or the connection to this machine was lost
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While entered, a signal raises KeyboardInterrupt once, and the next ends the process."""

    def __init__(self, stopping: str, remains: Callable[[], str]) -> None:
        """`stopping` says what happens at the first, `remains` what is left at the second."""
        self.received = False
        self._stopping = stopping
        self._remains = remains
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        for number in SIGNALS:
            before = signal.getsignal(number)
            if number != signal.SIGHUP or before != signal.SIG_IGN:  # ignored: as nohup wants it
                self._before[number] = before
        self.arm()
        return self

    def __exit__(self, *_: object) -> None:
        before, self._before = self._before, {}
        for number, handler in before.items():
            signal.signal(number, handler)

    def arm(self) -> None:
        """Install the handlers (again: Snakemake replaces the one for SIGTERM by its own)."""
        for number in self._before:
            signal.signal(number, self._handle)

    def stop(self, why: str) -> None:
        """Interrupt the main thread, as a signal does, from any thread; once."""
        if self._before and not self.received:
            self._stopping = why
            os.kill(os.getpid(), signal.SIGTERM)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            print(f"\nStopped at once. {self._remains()}".rstrip(), file=sys.stderr, flush=True)
            os._exit(130)
        self.received = True
        again = "press Ctrl-C again to stop at once"
        print(f"\nStopping: {self._stopping}; {again}.", file=sys.stderr, flush=True)
        raise KeyboardInterrupt
