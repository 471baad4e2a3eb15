"""Counts what the commands of a run do: they tell it themselves, past all faults."""

from __future__ import annotations

import socketserver
import threading
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from chaos.judge import Execution


@dataclass
class Told:
    """A command's beginning, and its end when that was told too. Epoch seconds."""

    job: str
    pod: str
    began: float
    ended: float | None = None


@dataclass
class Counter:
    """Listens on an address that pods can reach; use as a context manager.

    A command sends a line "began|ended ID JOB POD" and goes on when it is answered.
    """

    host: str
    told: dict[str, Told] = field(default_factory=dict)  # by the command's id
    _stored: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def __enter__(self) -> Self:
        counter = self

        class Handler(socketserver.StreamRequestHandler):
            timeout = 10

            def handle(self) -> None:
                with suppress(OSError, ValueError):  # whoever was cut short comes again
                    counter.count(self.rfile.readline().decode())
                    self.wfile.write(b"counted\n")

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server((self.host, 0), Handler)
        self.address = f"{self.host}/{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def begun(self) -> int:
        return len(self.told)

    def count(self, line: str) -> None:
        """Raises ValueError when the line is none of a command."""
        what, id, name, pod = line.split()
        if what == "began":  # it may be told twice, when the answer was lost
            self.told.setdefault(id, Told(f"out/{name}", pod, time.time()))
        elif (told := self.told.get(id)) and told.ended is None:
            told.ended = time.time()

    def on_stored(self, key: str) -> None:
        """An object was put into the bucket."""
        self._stored[key].append(time.time())

    def executions(self, prefix: str) -> list[Execution]:
        """All, in the order of their beginning; `prefix` is that of the outputs' keys."""
        found = []
        for told in list(self.told.values()):
            times = self._stored.get(f"{prefix}/{told.job}", ())
            stored = min((t for t in times if told.ended and t >= told.ended), default=None)
            found.append(Execution(told.job, told.pod, told.began, told.ended, stored))
        return sorted(found, key=lambda execution: execution.began)
