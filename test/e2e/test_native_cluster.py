"""The native cluster as its users see it, on the session's cluster."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from byok8s.cluster import ClusterInfo, load_driver
from byok8s.cluster.native.layout import BRIDGE, MAC

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.fixture
def namespace(cluster: ClusterInfo) -> Iterator[str]:
    """A namespace of the test's own, under Pod Security "restricted"."""
    name = f"native-{uuid.uuid4().hex[:8]}"
    kubectl(cluster, "create", "namespace", name)
    label = "pod-security.kubernetes.io/enforce=restricted"
    kubectl(cluster, "label", "namespace", name, label)
    yield name
    kubectl(cluster, "delete", "namespace", name, "--wait=false")


def test_create_on_a_running_cluster_says_so(cluster: ClusterInfo) -> None:
    began = time.monotonic()
    done = byok8s("cluster", "create", cluster.name)
    assert done.returncode == 0
    assert f"Cluster '{cluster.name}' is already running" in done.stdout + done.stderr
    assert time.monotonic() - began < 30  # a changed worker image may have to be loaded


def test_a_second_cluster_is_refused_in_one_sentence(cluster: ClusterInfo) -> None:
    done = byok8s("cluster", "create", "another", "--driver", "native")
    assert done.returncode == 3
    assert f"there is '{cluster.name}' already" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "another" not in byok8s("cluster", "list").stdout


def test_status_names_every_component(cluster: ClusterInfo) -> None:
    rows = dict(load_driver("native").status(cluster.name))
    assert rows["kubelet"].startswith("running")
    assert rows["cluster DNS"] == "ready"
    assert all(not state.startswith(("stopped", "not")) for state in rows.values())


def test_the_nodes_link_address_stays_while_pods_come_and_go(cluster: ClusterInfo) -> None:
    link = Path("/sys/class/net", BRIDGE)
    assert (link / "address").read_text().strip() == MAC
    # NET_ADDR_SET: the kernel does not take that of another port
    assert (link / "addr_assign_type").read_text().strip() == "3"


def test_keys_are_not_on_any_command_line(cluster: ClusterInfo) -> None:
    assert cluster.s3 is not None
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert cluster.s3.secret_key not in listing.stdout
    assert cluster.s3.access_key not in listing.stdout


def test_a_pod_resolves_services(cluster: ClusterInfo, namespace: str) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {
            "clusterIP": "None",
            "selector": {"app": "web"},
            "ports": [{"port": 8000}],
        },
    }
    server = "import http.server as h; h.HTTPServer(('', 8000), h.SimpleHTTPRequestHandler)"
    apply(cluster, namespace, service)
    apply(cluster, namespace, pod(cluster, "web", f"{server}.serve_forever()"))
    kubectl(cluster, "-n", namespace, "wait", "pod/web", "--for=condition=Ready", "--timeout=60s")
    address = kubectl(cluster, "-n", namespace, "get", "pod/web", "-o", "jsonpath={.status.podIP}")
    code = f"""
import socket, time, urllib.request
print(socket.gethostbyname("kubernetes.default.svc"))
for _ in range(100):
    try:
        found = socket.gethostbyname("web.{namespace}.svc.cluster.local")
        break
    except OSError:
        time.sleep(0.2)
print(found)
print(urllib.request.urlopen("http://web:8000/").status)
print(socket.create_connection(("kubernetes.default.svc", 443)).getpeername()[0])
print(socket.create_connection(("10.88.0.1", 7070)).getpeername()[0])
"""
    lines = logs_of(cluster, namespace, pod(cluster, "client", code)).split()
    assert lines == ["10.96.0.1", address, "200", "10.96.0.1", "10.88.0.1"]


def test_a_service_address_is_balanced_to_the_pod_itself(
    cluster: ClusterInfo, namespace: str
) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "self"},
        "spec": {"selector": {"app": "self"}, "ports": [{"port": 80, "targetPort": 8000}]},
    }
    apply(cluster, namespace, service)
    address = kubectl(
        cluster, "-n", namespace, "get", "service/self", "-o", "jsonpath={.spec.clusterIP}"
    )
    code = f"""
import http.server, threading, time, urllib.request
server = http.server.HTTPServer(("", 8000), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
for _ in range(100):
    try:
        print(urllib.request.urlopen("http://{address}/", timeout=1).status)
        break
    except OSError:
        time.sleep(0.2)
"""
    assert "200" in logs_of(cluster, namespace, pod(cluster, "self", code))


def test_pod_security_refuses_what_restricted_forbids(cluster: ClusterInfo, namespace: str) -> None:
    privileged = pod(cluster, "bad", "")
    privileged["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    done = subprocess.run(
        ["kubectl", f"--context={cluster.context}", "-n", namespace, "apply", "-f", "-"],
        input=json.dumps(privileged),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert 'violates PodSecurity "restricted' in done.stderr


def test_memory_limits_are_enforced(cluster: ClusterInfo, namespace: str) -> None:
    greedy = pod(cluster, "greedy", "x = bytearray(300 * 2**20); print(len(x))")
    greedy["spec"]["containers"][0]["resources"] = {"limits": {"memory": "100Mi"}}
    apply(cluster, namespace, greedy)
    state = "{.status.phase}"
    kubectl(cluster, "-n", namespace, "wait", "pod/greedy", f"--for=jsonpath={state}=Failed")
    path = "{.status.containerStatuses[0].state.terminated.reason}"
    reason = kubectl(cluster, "-n", namespace, "get", "pod/greedy", "-o", f"jsonpath={path}")
    assert reason == "OOMKilled"


def pod(cluster: ClusterInfo, name: str, code: str) -> dict:
    container = {
        "name": "main",
        "image": cluster.worker_image,
        "command": ["python3", "-c", code],
        "workingDir": "/tmp",
        "securityContext": RESTRICTED,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never",
            "containers": [container],
            "terminationGracePeriodSeconds": 1,
        },
    }


def logs_of(cluster: ClusterInfo, namespace: str, manifest: dict) -> str:
    apply(cluster, namespace, manifest)
    name = f"pod/{manifest['metadata']['name']}"
    done = "--for=jsonpath={.status.phase}=Succeeded"
    kubectl(cluster, "-n", namespace, "wait", name, done, "--timeout=60s")
    return kubectl(cluster, "-n", namespace, "logs", name)


def apply(cluster: ClusterInfo, namespace: str, manifest: dict) -> None:
    kubectl(cluster, "-n", namespace, "apply", "-f", "-", stdin=json.dumps(manifest))


def kubectl(cluster: ClusterInfo, *arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        ["kubectl", f"--context={cluster.context}", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def byok8s(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "byok8s", *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
