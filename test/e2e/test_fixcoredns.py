"""fixcoredns.yml on a real CoreDNS: the failure that it is for, the cure, and the way back.

A second CoreDNS in a namespace of its own stands in for the cluster's, so that no other test is
disturbed. The commands are those of the file's header.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from byok8s import cluster as cluster_package
from byok8s.cluster import ClusterInfo
from support.project import kubectl

ROOT = Path(__file__).parents[2]
FIX = ROOT / "fixcoredns.yml"
MANIFEST = Path(cluster_package.__file__).parent / "manifests/coredns.yaml"
OUTSIDE = "192.0.2.7"  # what the upstream server answers; an address for documentation
API = "10.96.0.1"
FATAL = re.compile(
    r'^\[FATAL\] plugin/loop: Loop \(127\.0\.0\.1:\d+ -> :53\) detected for zone "\.", '
    r'see https://coredns\.io/plugins/loop#troubleshooting\. Query: "HINFO [\d.]+"$',
    re.MULTILINE,
)


_ADDRESS_RECORD = re.compile(rb"\x00\x01\x00\x01....\x00\x04(....)", re.DOTALL)


def header(title: str) -> str:
    """The commands below a heading of the file's comment."""
    text = FIX.read_text().split(f"# {title}")[1].split("\n#\n")[0]
    lines = [line.removeprefix("#").strip() for line in text.splitlines()[1:]]
    commands, going_on = [], False
    for line in lines:
        if going_on or line.startswith("kubectl "):
            commands.append(line)
            going_on = line.endswith("\\")
    return "\n".join(commands)


def query(server: str, name: str) -> list[str]:
    """The IPv4 addresses that a name server gives for a name; none when it does not answer."""
    question = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(3)
        client.sendto(
            struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + question + b"\0\1\0\1", (server, 53)
        )
        try:
            answer = client.recv(4096)
        except (TimeoutError, ConnectionError):
            return []
    return [socket.inet_ntoa(data) for data in _ADDRESS_RECORD.findall(answer)]


@pytest.fixture
def upstream(cluster: ClusterInfo) -> Iterator[str]:
    """HOST:PORT of a name server outside of the cluster, which knows one address only."""
    assert cluster.s3 is not None
    host = re.sub(r"^\w+://([^:/]+).*", r"\1", cluster.s3.endpoint_url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((host, 0))
        server.settimeout(0.2)
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                try:
                    asked, client = server.recvfrom(4096)
                except TimeoutError:
                    continue
                server.sendto(reply(asked), client)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"{host}:{server.getsockname()[1]}"
        ended.set()
        thread.join()


def reply(asked: bytes) -> bytes:
    """OUTSIDE for a question about an IPv4 address, and an empty answer for any other."""
    end = asked.index(b"\0", 12) + 5
    is_address = asked[end - 4 : end] == b"\0\1\0\1"
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(OUTSIDE)
    counts = struct.pack(">5H", 0x8180, 1, int(is_address), 0, 0)
    return asked[:2] + counts + asked[12:end] + (record if is_address else b"")


@dataclass
class CoreDNS:
    """A CoreDNS on a node whose resolv.conf names a stub at 127.0.0.53."""

    cluster: ClusterInfo
    namespace: str

    def kubectl(self, *arguments: str) -> str:
        return kubectl(self.cluster, "-n", self.namespace, *arguments)

    def pods(self) -> list[dict[str, Any]]:
        """Those that are not on their way out, newest last."""
        text = self.kubectl("get", "pods", "-l", "k8s-app=kube-dns", "-o", "json")
        pods = [p for p in json.loads(text)["items"] if "deletionTimestamp" not in p["metadata"]]
        return sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def log_with(self, pattern: re.Pattern[str], seconds: float = 60) -> str:
        """The log of a pod, once the pattern is in it; of the run before where it crash-loops."""
        logs: list[str] = []
        for _ in until(seconds):
            logs.clear()
            for pod in self.pods():
                for which in ((), ("--previous",)):
                    try:
                        logs.append(self.kubectl("logs", pod["metadata"]["name"], *which))
                    except subprocess.CalledProcessError:
                        continue  # no container has run yet, or none before
            for log in logs:
                if pattern.search(log):
                    return log
        raise AssertionError(f"not in the log: {pattern.pattern}\n{logs}")

    def follow(self, commands: str, folder: Path) -> None:
        """Run commands of the header, for this CoreDNS instead of the cluster's."""
        commands = re.sub(r"\bkubectl\b", f"kubectl --context={self.cluster.context}", commands)
        commands = commands.replace("-n kube-system", f"-n {self.namespace}")
        done = subprocess.run(
            ["bash", "-euxc", "set -o pipefail\n" + commands],
            check=False,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=150,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def until(seconds: float) -> Iterator[None]:
    """Go round twice a second for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.5)


@pytest.fixture
def coredns(cluster: ClusterInfo, tmp_path: Path) -> Iterator[CoreDNS]:
    namespace = f"fixcoredns-{uuid.uuid4().hex[:8]}"
    rights = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": namespace},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "system:coredns",
        },
        "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": namespace}],
    }
    kinds = ("ServiceAccount", "ConfigMap", "Deployment")
    manifest = [item for item in yaml.safe_load_all(MANIFEST.read_text()) if item["kind"] in kinds]
    for item in manifest:
        item["metadata"]["namespace"] = namespace
        if item["kind"] == "Deployment":
            spec = item["spec"]["template"]["spec"]
            spec["dnsPolicy"] = "None"
            spec["dnsConfig"] = {"nameservers": ["127.0.0.53"]}
            del spec["priorityClassName"]  # the cluster's own may go first
    made = CoreDNS(cluster, namespace)
    kubectl(cluster, "create", "namespace", namespace)
    try:
        items = {"apiVersion": "v1", "kind": "List", "items": [rights, *manifest]}
        (tmp_path / "coredns.json").write_text(json.dumps(items))
        kubectl(cluster, "create", "-f", str(tmp_path / "coredns.json"))
        yield made
    finally:
        kubectl(cluster, "delete", "clusterrolebinding", namespace, "--ignore-not-found")
        kubectl(cluster, "delete", "namespace", namespace, "--wait=false")  # some 20 s


def resolves(coredns: CoreDNS, name: str, address: str, seconds: float = 20) -> bool:
    """Whether every pod of this CoreDNS soon gives the address for the name."""

    def now(get: Callable[[str, str], list[str]] = query) -> bool:
        pods = coredns.pods()
        return bool(pods) and all(
            get(p["status"].get("podIP", ""), name) == [address] for p in pods
        )

    return any(now() for _ in until(seconds))


def test_the_file_cures_what_its_header_describes_and_can_be_undone(
    coredns: CoreDNS, upstream: str, tmp_path: Path
) -> None:
    edited = FIX.read_text().replace("namespace: kube-system", f"namespace: {coredns.namespace}")
    assert "forward . 1.1.1.1 8.8.8.8 {" in edited
    edited = edited.replace("forward . 1.1.1.1 8.8.8.8 {", f"forward . {upstream} {{")
    (tmp_path / FIX.name).write_text(edited)

    coredns.log_with(FATAL)  # the symptom, with the cause that the header names

    coredns.follow(header("TO APPLY"), tmp_path)
    assert resolves(coredns, "example.org", OUTSIDE)
    assert resolves(coredns, "kubernetes.default.svc.cluster.local", API)
    (pod,) = coredns.pods()
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0
    assert not FATAL.search(coredns.kubectl("logs", pod["metadata"]["name"]))
    assert "forward . /etc/resolv.conf" in (tmp_path / "Corefile.before").read_text()

    coredns.follow(header("TO UNDO"), tmp_path)
    restored = coredns.kubectl("get", "configmap", "coredns", "-o", "jsonpath={.data.Corefile}")
    assert restored == (tmp_path / "Corefile.before").read_text()
    newest = coredns.pods()[-1]["metadata"]["name"]
    assert newest != pod["metadata"]["name"]
    coredns.log_with(FATAL)
