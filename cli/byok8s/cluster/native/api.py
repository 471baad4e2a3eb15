"""Asking the components how they are: the API server, the DNS service, the S3 server."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import struct
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from byok8s.cluster.native.layout import ADDRESS, API_PORT, DNS_ADDRESS, S3_PORT, Layout
from byok8s.exceptions import ClusterError

_SECONDS = 5.0
_APPLY = "application/apply-patch+yaml"


def get(layout: Layout, path: str) -> Any:
    """The JSON, or else text, that the API server answers; None when it does not answer well."""
    try:
        status, body = _request(layout, "GET", path)
    except (OSError, http.client.HTTPException):
        return None
    if status != 200:
        return None
    return json.loads(body) if body.startswith("{") else body


def apply(layout: Layout, objects: Iterable[dict[str, Any]]) -> None:
    """Create objects, or set what their manifests say of those that exist.

    As `kubectl apply --server-side` does, which would use ten times as much processor time.
    Raises ClusterError with what the API server says when it refuses.
    """
    for content in objects:
        path = object_path(content) + "?fieldManager=byok8s&force=true"
        try:
            status, answer = _request(layout, "PATCH", path, json.dumps(content))
        except (OSError, http.client.HTTPException) as error:
            status, answer = 0, str(error)
        if status not in (200, 201):
            raise ClusterError(
                f"{content['kind']} {content['metadata']['name']} could not be applied ({answer}); "
                f"see the log {layout.log('kube-apiserver')}, and run the command again."
            )


def object_path(content: Mapping[str, Any]) -> str:
    """The path of an object whose kind has a regular plural."""
    version, metadata = content["apiVersion"], content["metadata"]
    parts = ["/apis" if "/" in version else "/api", version]
    if namespace := metadata.get("namespace"):
        parts += ["namespaces", namespace]
    return "/".join([*parts, f"{content['kind'].lower()}s", metadata["name"]])


def _request(layout: Layout, method: str, path: str, body: str = "") -> tuple[int, str]:
    context = ssl.create_default_context(cafile=str(layout.pki / "ca.crt"))
    context.load_cert_chain(layout.pki / "admin.crt", layout.pki / "admin.key")
    connection = http.client.HTTPSConnection(ADDRESS, API_PORT, context=context, timeout=_SECONDS)
    try:
        connection.request(method, path, body or None, {"Content-Type": _APPLY} if body else {})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def api_ready(layout: Layout) -> bool:
    """Whether the API server says that it is ready."""
    return bool(get(layout, "/readyz") == "ok")


def node_ready(layout: Layout, since: float = 0) -> bool:
    """Whether the node is ready, by a sign of life that is newer than `since`, epoch seconds.

    A node that died is said to be ready until its lease runs out.
    """
    node = get(layout, f"/api/v1/nodes/{layout.node}")
    if not node:
        return False
    conditions: list[dict[str, str]] = node["status"].get("conditions", [])
    ready = [c for c in conditions if c["type"] == "Ready" and c["status"] == "True"]
    # Written when the kubelet starts; whole seconds
    return bool(ready) and _epoch(ready[0]["lastHeartbeatTime"]) >= int(since)


def _epoch(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def dns_ready() -> bool:
    """Whether the cluster's DNS service resolves the API server's name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.5)
        try:
            client.sendto(dns_question("kubernetes.default.svc.cluster.local"), (DNS_ADDRESS, 53))
            return dns_has_answer(client.recv(512))
        except OSError:
            return False


def dns_question(name: str) -> bytes:
    """A DNS packet that asks for the IPv4 address of a name (RFC 1035)."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack(">6H", 1, 0x0100, 1, 0, 0, 0) + labels + struct.pack(">BHH", 0, 1, 1)


def dns_has_answer(packet: bytes) -> bool:
    """Whether a DNS packet reports no error and holds an answer."""
    flags, _, answers = struct.unpack(">3H", packet[2:8])
    return bool(flags & 0x000F == 0 and answers > 0)


def s3_ready() -> bool:
    """Whether the S3 server answers; without keys it refuses, which is an answer."""
    connection = http.client.HTTPConnection(ADDRESS, S3_PORT, timeout=_SECONDS)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status in (200, 403)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
