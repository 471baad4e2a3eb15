"""Asking the components how they are: the API server, the DNS service, the S3 server."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import struct
from datetime import datetime
from typing import Any

from byok8s.cluster.native.layout import ADDRESS, API_PORT, DNS_ADDRESS, S3_PORT, Layout

_SECONDS = 2.0


def get(layout: Layout, path: str) -> Any:
    """The JSON, or else text, that the API server answers; None when it does not answer well."""
    try:
        context = ssl.create_default_context(cafile=str(layout.pki / "ca.crt"))
        context.load_cert_chain(layout.pki / "admin.crt", layout.pki / "admin.key")
        connection = http.client.HTTPSConnection(
            ADDRESS, API_PORT, context=context, timeout=_SECONDS
        )
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read().decode()
        finally:
            connection.close()
    except (OSError, http.client.HTTPException):
        return None
    if response.status != 200:
        return None
    return json.loads(body) if body.startswith("{") else body


def api_ready(layout: Layout) -> bool:
    """Whether the API server says that it is ready."""
    return bool(get(layout, "/readyz") == "ok")


def node_ready(layout: Layout, since: float = 0) -> bool:
    """Whether the node is ready, by a sign of life that is newer than `since`, epoch seconds.

    A node that died is said to be ready until its lease runs out.
    """
    lease = get(
        layout,
        f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{layout.node}",
    )
    if not lease or datetime.fromisoformat(lease["spec"]["renewTime"]).timestamp() < since:
        return False
    node = get(layout, f"/api/v1/nodes/{layout.node}")
    conditions: list[dict[str, str]] = node["status"].get("conditions", []) if node else []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


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
    return flags & 0x000F == 0 and answers > 0


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
