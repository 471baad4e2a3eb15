"""A proxy in front of a real API server that counts requests and makes faults on request."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

from byok8s.batch.access import find_access
from byok8s.settings import KubeSettings

REASONS = {401: "Unauthorized", 410: "Expired", 429: "TooManyRequests", 500: "InternalError"}


@dataclass
class Fault:
    """What happens to the next `times` requests of a kind, see `kind_of`; "*" is any.

    actions: a status code (the server is not asked), "cut" (the connection ends, the server is
    not asked), "lose" (the server does its work, its answer is lost), "delay" (by `seconds`),
    "duplicate" (the request is sent twice and the second answer given; of a watch, each event
    comes twice), "mute" (a watch that tells nothing, to its end).
    """

    kind: str
    action: str | int
    times: int = 1
    seconds: float = 1.0
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class ApiProxy:
    """Listens on loopback, speaks plain HTTP, and has the credentials of `context`.

    `rewrite` is given each request's kind and body, and returns the body that goes on.
    """

    context: str
    rewrite: Callable[[str, bytes], bytes] = lambda kind, body: body
    requests: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    token: str = ""  # the only bearer token that is accepted; none: whichever

    def __enter__(self) -> Self:
        self._configuration = find_access(KubeSettings(context=self.context)).configuration()
        self._away_until = 0.0
        self._watches: set[socket.socket] = set()
        self._lock = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut_watches()
        self._server.shutdown()
        self._server.server_close()

    def cut_watches(self) -> int:
        """End the connections of all watches and logs that are followed without a word.

        Returns how many there were.
        """
        with self._lock:
            watches = list(self._watches)
        for connection in watches:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        return len(watches)

    def go_away(self, seconds: float) -> None:
        """Answer nobody for a while."""
        self._away_until = time.monotonic() + seconds
        self.cut_watches()

    def fault_for(self, kind: str) -> Fault | None:
        with self._lock:
            self.requests.append(kind)
            if time.monotonic() < self._away_until:
                return Fault("*", "cut")
            for fault in self.faults:
                if fault.times > 0 and fault.kind in ("*", kind):
                    fault.times -= 1
                    return fault
        return None

    def connect(self) -> http.client.HTTPConnection:
        upstream = urlsplit(self._configuration.host)
        context = ssl.create_default_context(cafile=self._configuration.ssl_ca_cert)
        if self._configuration.cert_file:
            context.load_cert_chain(self._configuration.cert_file, self._configuration.key_file)
        assert upstream.hostname
        return http.client.HTTPSConnection(
            upstream.hostname, upstream.port, context=context, timeout=600
        )


def kind_of(method: str, path: str) -> str:
    """'POST pods', 'GET pods' (a list), 'WATCH pods', 'FOLLOW pods/NAME/log', 'GET pods/NAME' …"""
    url = urlsplit(path)
    parts = url.path.strip("/").split("/")
    rest = parts[parts.index("namespaces") + 2 :] if "namespaces" in parts else parts[-1:]
    rest = rest or ["namespaces"]
    resource = "/".join([rest[0], *(["NAME"] if len(rest) > 1 else []), *rest[2:]])
    for streaming, verb in (("watch=1", "WATCH"), ("follow=true", "FOLLOW")):
        if streaming in url.query:
            method = verb
    return f"{method} {resource}"


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Either side has hung up, or the API server is away: the other one sees the same."""


class _Handler(BaseHTTPRequestHandler):
    owner: ApiProxy
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = kind_of(self.command, self.path)
        fault = self.owner.fault_for(kind)
        token = self.owner.token
        if not fault and token and self.headers["Authorization"] != f"Bearer {token}":
            fault = Fault(kind, 401)
        if fault and isinstance(fault.action, int):
            self.refuse(fault.action, fault.headers)
            return
        if fault and fault.action == "cut":
            self.hang_up()
            return
        if fault and fault.action == "delay":
            time.sleep(fault.seconds)
        upstream = self.owner.connect()
        try:
            headers = {n: v for n, v in self.headers.items() if n.lower() != "host"}
            body = self.owner.rewrite(kind, body)
            headers = {n: v for n, v in headers.items() if n.lower() != "content-length"}
            upstream.request(self.command, self.path, body or None, headers)
            response = upstream.getresponse()
            if kind.startswith(("WATCH", "FOLLOW")):
                self.pass_on(response, fault.action if fault else "")
                return
            content = response.read()
            if fault and fault.action == "duplicate":
                upstream.request(self.command, self.path, body or None, headers)
                response = upstream.getresponse()
                content = response.read()
        finally:
            upstream.close()
        if fault and fault.action == "lose":
            self.hang_up()
            return
        self.send_response(response.status)
        for name in ("Content-Type", "Content-Encoding", "Retry-After"):
            if response.headers[name]:
                self.send_header(name, response.headers[name])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def pass_on(self, response: http.client.HTTPResponse, action: str | int) -> None:
        """A watch or a log, piece by piece; a watch that is harmed, event by event."""
        self.send_response(response.status)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.owner._watches.add(self.connection)
        try:
            harmed = action in ("duplicate", "mute")
            while piece := response.readline() if harmed else response.read1(65536):
                if action == "mute":
                    continue
                piece *= 2 if action == "duplicate" else 1
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True
        finally:
            self.owner._watches.discard(self.connection)

    def refuse(self, status: int, headers: dict[str, str]) -> None:
        reason = REASONS.get(status, "")
        text = {"kind": "Status", "code": status, "reason": reason, "message": f"made: {status}"}
        content = json.dumps(text).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_PUT = do_DELETE = do_POST = do_PATCH = handle_any

    def log_message(self, *_: Any) -> None:
        pass
