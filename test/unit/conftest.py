"""Every unit test starts with an empty home and none of the caller's settings.

The fixture `loopback` is an HTTP server on this machine that answers what a test wants it to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from byok8s.batch import KubeClient
from support.fakeapi import Api, kubeconfig, serve


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    """No AWS, Kubernetes, XDG or byok8s variable, and a home folder with nothing in it."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "BYOK8S_", "KUBE", "XDG_")):
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # no call to an instance's metadata
    monkeypatch.setenv("NO_PROXY", "*")


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass
class Loopback:
    """A server whose `answer` a test sets: status, body and headers of an answer to a request."""

    url: str
    answer: Callable[[Request], tuple[int, str, dict[str, str]]] = lambda _: (200, "", {})
    requests: list[Request] = field(default_factory=list)


@pytest.fixture
def start_loopback() -> Iterator[Callable[[], Loopback]]:
    servers: list[ThreadingHTTPServer] = []

    def start() -> Loopback:
        server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
        server.daemon_threads = True
        server.block_on_close = False
        server.handle_error = lambda *_: None  # a client that gave up is no error here
        loopback = Loopback(f"http://127.0.0.1:{server.server_port}")
        server.RequestHandlerClass = _handler(loopback)
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return loopback

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def loopback(start_loopback: Callable[[], Loopback]) -> Loopback:
    return start_loopback()


def _handler(loopback: Loopback) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            if self.headers.get("Expect") == "100-continue":
                self.send_response_only(100)
                self.end_headers()
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Request(self.command, self.path, dict(self.headers), body)
            loopback.requests.append(request)
            status, text, headers = loopback.answer(request)
            content = text.encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = do_PATCH = handle_any

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def api() -> Iterator[Api]:
    """A Kubernetes API whose answers a test sets."""
    with serve() as api:
        yield api


@pytest.fixture
def client(api: Api, tmp_path: Path) -> KubeClient:
    return KubeClient.load(kubeconfig(tmp_path / "config", api.url))
