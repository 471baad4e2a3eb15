"""Ctrl-C and SIGTERM: the first stops the run cleanly, the second at once."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any


class Interrupts:
    """While entered, SIGINT and SIGTERM raise KeyboardInterrupt once and then end the process."""

    def __init__(self, remains: str) -> None:
        """`remains` is what to tell when the process is ended without clean-up."""
        self.received = False
        self._remains = remains
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.getsignal(number)
        self.arm()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def arm(self) -> None:
        """Install the handlers (again: Snakemake replaces the one for SIGTERM by its own)."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            print(f"\nStopped at once. {self._remains}", file=sys.stderr, flush=True)
            os._exit(130)
        self.received = True
        print(
            "\nStopping: removing the run's pods; press Ctrl-C again to stop at once.",
            file=sys.stderr,
            flush=True,
        )
        raise KeyboardInterrupt
