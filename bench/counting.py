"""Counts S3 requests: a proxy before the S3 server that reads the requests' first lines."""

from __future__ import annotations

import re
import socket
import threading
from collections import Counter
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit

_REQUEST = re.compile(rb"(GET|HEAD|PUT|POST|DELETE) /\S* HTTP/1\.1\r\n")


class S3Proxy:
    """Passes everything on unchanged; `requests` counts by who asked and by verb.

    Those who ask are "leader", from this machine's own address, and "pods".
    """

    def __init__(self, server: str) -> None:
        address = urlsplit(server)
        self._server = (address.hostname or "", address.port or 80)
        self._listener = socket.create_server((self._server[0], 0), backlog=200)
        self.url = f"http://{self._server[0]}:{self._listener.getsockname()[1]}"
        self.requests: Counter[tuple[str, str]] = Counter()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, (host, _) = self._listener.accept()
                who = "leader" if host == self._server[0] else "pods"
                server = socket.create_connection(self._server)
                for source, target, counted in ((client, server, who), (server, client, "")):
                    threading.Thread(
                        target=self._pass_on, args=(source, target, counted), daemon=True
                    ).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, who: str) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if who:
                    for verb in _REQUEST.findall(data):
                        self.requests[who, verb.decode()] += 1
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
