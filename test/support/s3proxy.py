"""A proxy in front of an S3 server that counts requests and makes faults on request."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass
class Fault:
    """What happens to `times` requests of a kind whose key ends with `key`, after `skip` of them.

    actions: "503", "403", "404" (there is no such upload), "cut" (no answer), "lose" (the server
    does its work, its answer is lost), "truncate" (half of the body, then the end of the
    connection), "short" (half of the body, as if it were all), "corrupt" (one byte of the body),
    "damage" (one byte of what is sent), "hang" (no answer for `seconds`), "late" (an answer after
    `seconds`).
    """

    kind: str  # GET, PUT, HEAD, DELETE, LIST, POST or *
    action: str
    key: str = ""
    times: int = 1
    seconds: float = 3600.0
    skip: int = 0


@dataclass
class S3Proxy:
    """Listens on an address of this machine; use as a context manager."""

    upstream: str  # http://HOST:PORT
    host: str = "127.0.0.1"
    port: int = 0  # 0: whichever is free
    certificate: Path | None = None  # PEM with its key: speak TLS
    latency: float = 0.0  # seconds before each request is passed on
    requests: list[tuple[str, str]] = field(default_factory=list)  # kind, key
    senders: list[str] = field(default_factory=list)  # the address that each came from
    headers: list[dict[str, str]] = field(default_factory=list)  # of each, names in small letters
    faults: list[Fault] = field(default_factory=list)
    on_stored: Callable[[str], None] = lambda key: None  # told of each object that was put
    _away_until: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    stopping: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> S3Proxy:
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = _Server((self.host, self.port), Handler)
        self._server.daemon_threads = True
        if self.certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint_url(self) -> str:
        scheme = "https" if self.certificate else "http"
        return f"{scheme}://{self.host}:{self._server.server_address[1]}"

    def counts(self) -> Counter[str]:
        """Requests by kind since the last `reset`."""
        return Counter(kind for kind, _ in self.requests)

    def reset(self) -> None:
        self.requests.clear()
        self.senders.clear()
        self.headers.clear()

    def go_away(self, seconds: float) -> None:
        """Answer nobody for a while."""
        self._away_until = time.monotonic() + seconds

    def take_fault(self, kind: str, key: str, sender: str) -> Fault | None:
        with self._lock:
            self.requests.append((kind, key))
            self.senders.append(sender)
            if time.monotonic() < self._away_until:
                return Fault("*", "cut")
            for fault in self.faults:
                if fault.times and fault.kind in (kind, "*") and key.endswith(fault.key):
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Either side has hung up: the other one sees the same."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: S3Proxy

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _pass_on(self) -> None:
        parts = urlsplit(self.path)
        if parts.scheme:  # named as a proxy by HTTP_PROXY
            self.path = parts._replace(scheme="", netloc="").geturl()
        key = unquote(parts.path).lstrip("/").partition("/")[2]
        query = parse_qs(parts.query, keep_blank_values=True)
        kind = "LIST" if self.command == "GET" and "list-type" in query else self.command
        if kind == "LIST":
            key = query.get("prefix", [""])[0]
        self.owner.headers.append({name.lower(): value for name, value in self.headers.items()})
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.owner.latency:
            time.sleep(self.owner.latency)
        fault = self.owner.take_fault(kind, key, self.client_address[0])
        action = fault.action if fault else ""
        if action in ("503", "403", "404"):
            code = b"NoSuchUpload" if action == "404" else b"SlowDown"
            self._answer(int(action), [], b"<Error><Code>%s</Code></Error>" % code)
            return
        if fault and action in ("hang", "late"):
            self.owner.stopping.wait(fault.seconds)
        if action in ("cut", "hang"):
            self._cut()
            return
        status, headers, data = self._upstream(_damaged(body) if action == "damage" else body)
        if kind == "PUT" and status == 200:
            self.owner.on_stored(key)
        self._harmed(action, status, headers, data)

    def _harmed(
        self, action: str, status: int, headers: list[tuple[str, str]], data: bytes
    ) -> None:
        """Pass an answer on, or what an action makes of it."""
        if action == "lose":
            self._cut()
        elif action == "truncate":
            self._answer(status, headers, data[: len(data) // 2], announced=len(data))
            self._cut()
        elif action == "short":
            self._answer(status, headers, data[: len(data) // 2])
        elif action == "corrupt":
            self._answer(status, headers, _damaged(data))
        else:
            self._answer(status, headers, data)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass_on

    def _upstream(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        server = urlsplit(self.owner.upstream).netloc
        with closing(http.client.HTTPConnection(server, timeout=60)) as connection:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():  # Host too: it is signed
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            response = connection.getresponse()
            data = response.read()
            headers = response.getheaders()
        return response.status, headers, data

    def _answer(
        self,
        status: int,
        headers: list[tuple[str, str]],
        data: bytes,
        announced: int | None = None,
    ) -> None:
        self.send_response_only(status)
        length: int | str = len(data) if announced is None else announced
        for name, value in headers:
            if name.lower() not in _HOP:
                self.send_header(name, value)
            elif name.lower() == "content-length" and self.command == "HEAD":
                length = value
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def _cut(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: Any) -> None:
        pass


def _damaged(body: bytes) -> bytes:
    return bytes([body[0] ^ 1]) + body[1:]
