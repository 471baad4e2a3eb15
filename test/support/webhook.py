"""An admission webhook on this machine, which a test tells what to say."""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from byok8s.batch import ApiError, KubeClient
from byok8s.batch.placement import ANYWHERE
from byok8s.batch.rehearsal import sample_pod
from support.certificates import self_signed
from support.fakeapi import Server

CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"


@dataclass
class Webhook:
    """`refusal` gives why a pod is refused, None where it is not; `down`: there is no answer."""

    refusal: Callable[[dict[str, Any]], str | None] = lambda pod: None
    down: bool = False


@contextmanager
def webhook(client: KubeClient, folder: Path) -> Iterator[Webhook]:
    """One that is asked, from now on, for each pod that is made in the client's namespace."""
    pem, certificate = folder / "webhook.pem", folder / "certificate.pem"
    self_signed(pem, certificate)
    made = Webhook()
    server = Server(("127.0.0.1", 0), _handler(made))
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    name = f"byok8s-test-{client.namespace}"
    url = f"https://127.0.0.1:{server.server_port}/"
    hook = {
        "name": "check.byok8s.example",
        "clientConfig": {
            "url": url,
            "caBundle": base64.b64encode(certificate.read_bytes()).decode(),
        },
        "rules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
             "resources": ["pods"]}
        ],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": client.namespace}},
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 5,
    }  # fmt: skip
    client.create(CONFIGURATIONS, {"metadata": {"name": name}, "webhooks": [hook]})
    try:
        _wait_until_asked(client, made)
        yield made
    finally:
        client.delete(f"{CONFIGURATIONS}/{name}")
        server.over = True
        server.shutdown()
        server.server_close()


def _wait_until_asked(client: KubeClient, hook: Webhook) -> None:
    """The API server takes a moment to know of a webhook."""
    allow, hook.refusal = hook.refusal, lambda pod: "not now"
    pod = sample_pod(ANYWHERE, "image")
    path = f"/api/v1/namespaces/{client.namespace}/pods"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            client.call("POST", path, query={"dryRun": "All"}, body=pod)
        except ApiError as error:
            if "not now" in error.message:
                hook.refusal = allow
                return
        time.sleep(0.1)
    raise AssertionError("the webhook is not asked")


def _handler(hook: Webhook) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if hook.down:
                self.close_connection = True
                return
            why = hook.refusal(review["request"]["object"])
            answer: dict[str, Any] = {"uid": review["request"]["uid"], "allowed": why is None}
            if why is not None:
                answer["status"] = {"message": why}
            said = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}
            content = json.dumps({**said, "response": answer}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
