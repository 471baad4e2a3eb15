"""An API server that a test writes the answers of, for what a proxy in front of a real one cannot
show without a network."""

from __future__ import annotations

import json
import ssl
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from byok8s.settings import KubeSettings


@dataclass
class Asked:
    method: str
    path: str
    query: dict[str, str]
    body: Any
    authorization: str | None


@dataclass
class Says:
    """An answer; `lines` makes it a watch, `cut` closes the connection without a word."""

    body: Any = field(default_factory=dict)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    lines: Iterable[Any] | None = None
    cut: bool = False


@dataclass
class Api:
    url: str = ""
    answer: Callable[[Asked], Says] = lambda _: Says()
    asked: list[Asked] = field(default_factory=list)

    def in_turn(self, *answers: Says) -> None:
        """Give one answer after the other, the last one for ever."""
        left = list(answers)
        self.answer = lambda _: left.pop(0) if len(left) > 1 else left[0]


def refusal(status: int, reason: str, message: str, **headers: str) -> Says:
    body = {"kind": "Status", "code": status, "reason": reason, "message": message}
    return Says(body, status, headers)


class Server(ThreadingHTTPServer):
    over = False  # its test is

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is nothing to tell, nor is what is asked after the test: another
        one's output may be read just now.
        """
        if not self.over and not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serve(certificate: Path | None = None) -> Iterator[Api]:
    """With a certificate and its key in one PEM file, by TLS."""
    api = Api()
    server = Server(("127.0.0.1", 0), _handler(api))
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    server.block_on_close = False
    api.url = f"http{'s' * bool(certificate)}://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield api
    server.over = True
    server.shutdown()
    server.server_close()


def kubeconfig(path: Path, url: str, user: dict[str, Any] | None = None) -> KubeSettings:
    content = {
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": url}}],
        "users": [{"name": "test", "user": user or {"token": "open-sesame"}}],
        "contexts": [
            {"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "lab"}}
        ],
    }
    path.write_text(json.dumps(content))
    return KubeSettings(kubeconfig=path)


def pod(name: str, version: int = 1, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "resourceVersion": str(version)},
        "spec": {"containers": [{"name": "job"}]},
        "status": status,
    }


def pod_list(version: int, *pods: Any, more: str = "") -> Says:
    return Says({"metadata": {"resourceVersion": str(version), "continue": more}, "items": pods})


def _handler(api: Api) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            url = urlsplit(self.path)
            asked = Asked(
                self.command,
                url.path,
                {name: values[0] for name, values in parse_qs(url.query).items()},
                json.loads(content) if content else None,
                self.headers.get("Authorization"),
            )
            api.asked.append(asked)
            says = api.answer(asked)
            if says.cut and says.lines is None:
                self.close_connection = True
                return
            if says.lines is not None:
                self.stream(says)
                return
            body = says.body if isinstance(says.body, str) else json.dumps(says.body)
            self.send_response(says.status)
            for name, value in says.headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def stream(self, says: Says) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for line in says.lines or ():
                data = json.dumps(line).encode() + b"\n"
                # an event may come in pieces
                for part in (data[:7], data[7:]):
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            if not says.cut:
                self.wfile.write(b"0\r\n\r\n")
            self.close_connection = says.cut

        do_GET = do_PUT = do_DELETE = do_POST = do_PATCH = handle_any

        def log_message(self, *_: object) -> None:
            pass

    return Handler
