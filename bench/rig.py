"""A Kubernetes control plane with simulated nodes, on loopback ports of its own.

etcd, API server, scheduler and controller manager are the native driver's program, with their
default client rates, as most clusters have; kwok plays the kubelets.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from byok8s import settings
from byok8s.batch import ApiError, KubeClient
from byok8s.cluster.native.binaries import KUBERNETES
from byok8s.exceptions import ClusterError
from byok8s.settings import KubeSettings

KWOK = "sigs.k8s.io/kwok/cmd/kwok@v0.7.0"
ADDRESS = "127.0.0.1"
ETCD_PORT, API_PORT, MANAGER_PORT, SCHEDULER_PORT = 12379, 16443, 12257, 12259
NAMESPACE = "scale"
READY_SECONDS = 60.0
# What a new API server makes last of all that the other components need
LAST_ROLE = (
    "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/rolebindings/"
    "system::leader-locking-kube-scheduler"
)
# The end's moment to the nanosecond travels as the termination message: the API's own timestamps
# are whole seconds.
STAGES: tuple[dict[str, Any], ...] = (
    {
        "name": "node-ready",
        "kind": "Node",
        "when": [{"key": ".status.phase", "operator": "DoesNotExist"}],
        "status": """\
allocatable: {cpu: 1k, memory: 1Ti, ephemeral-storage: 1Ti, pods: "2000"}
capacity: {cpu: 1k, memory: 1Ti, ephemeral-storage: 1Ti, pods: "2000"}
phase: Running
conditions:
- {type: Ready, status: "True", reason: KubeletReady, message: simulated,
   lastHeartbeatTime: {{ Now | Quote }}, lastTransitionTime: {{ Now | Quote }}}
""",
    },
    {
        "name": "pod-run",
        "kind": "Pod",
        "when": [
            {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"},
            {"key": ".status.podIP", "operator": "DoesNotExist"},
        ],
        "status": """\
phase: Running
podIP: 10.0.0.1
startTime: {{ Now | Quote }}
containerStatuses:
- {name: job, image: none, ready: true, restartCount: 0,
   state: {running: {startedAt: {{ Now | Quote }}}}}
""",
    },
    {
        "name": "pod-end",
        "kind": "Pod",
        "when": [
            {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"},
            {"key": ".status.phase", "operator": "In", "values": ["Running"]},
        ],
        # evenly from 1 s to 30 s
        "delay": {"durationMilliseconds": 1000, "jitterDurationMilliseconds": 30000},
        "status": """\
phase: Succeeded
containerStatuses:
- {name: job, image: none, ready: false, restartCount: 0,
   state: {terminated: {exitCode: 0, reason: Completed, message: {{ Now | Quote }},
     startedAt: {{ Now | Quote }}, finishedAt: {{ Now | Quote }}}}}
""",
    },
)


class Rig:
    """Starts with the `with` statement and is gone after it. `client` is the administrator's."""

    client: KubeClient

    def __init__(self, nodes: int = 20) -> None:
        self._nodes = nodes
        self._scratch = tempfile.TemporaryDirectory(prefix="byok8s-scale-")
        self.folder = Path(self._scratch.name)
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "admin.kubeconfig"

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: object, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self) -> None:
        kwok = _kwok()
        if not KUBERNETES.path.exists():
            raise ClusterError("Kubernetes is not built yet; run 'byok8s cluster create' first.")
        pki = self.folder / "pki"
        self._call("pki", f"--folder={pki}", "--node=scale", f"--address={ADDRESS}",
                   "--service-address=10.97.0.1")  # fmt: skip
        for who in ("admin", "controller-manager", "scheduler"):
            (self.folder / f"{who}.kubeconfig").write_text(json.dumps(self._config(who)))
        self._spawn("etcd", *self._etcd())
        self._spawn("kube-apiserver", *self._api_server())
        self.client = KubeClient.load(KubeSettings(kubeconfig=self.kubeconfig, namespace=NAMESPACE))
        self._await_api()
        self._spawn("kube-scheduler", f"--kubeconfig={self.folder / 'scheduler.kubeconfig'}",
                    "--leader-elect=false", f"--bind-address={ADDRESS}",
                    f"--secure-port={SCHEDULER_PORT}")  # fmt: skip
        self._spawn("kube-controller-manager", *self._manager())
        stages = self.folder / "stages.yaml"
        stages.write_text("\n---\n".join(json.dumps(_stage(**stage)) for stage in STAGES))
        self._spawn(kwok, f"--kubeconfig={self.kubeconfig}", f"--config={stages}",
                    "--manage-all-nodes=true", "--node-lease-duration-seconds=40")  # fmt: skip
        self._make_nodes()

    def _make_nodes(self) -> None:
        self.client.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        for i in range(self._nodes):
            name = f"node-{i}"
            labels = {"kubernetes.io/hostname": name}
            self.client.create("/api/v1/nodes", {"metadata": {"name": name, "labels": labels}})
        until = time.monotonic() + READY_SECONDS
        while True:
            items = self.client.get("/api/v1/nodes")["items"]
            tainted = [i for i in items if i["spec"].get("taints")]
            accounts = self.client.get(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts")["items"]
            if accounts and not tainted and all(i["status"].get("phase") for i in items):
                return
            if time.monotonic() > until:
                raise ClusterError(f"The simulated nodes did not become ready; see {self.folder}.")
            time.sleep(0.5)

    def _await_api(self) -> None:
        until = time.monotonic() + READY_SECONDS
        while True:
            try:
                self.client.call("GET", LAST_ROLE, patience=0.0)
                return
            except ApiError as error:
                if time.monotonic() > until or any(p.poll() is not None for p in self._processes):
                    log = (self.folder / "kube-apiserver.log").read_text()[-2000:]
                    raise ClusterError(f"The API server did not start: {error}\n{log}") from error
            time.sleep(0.25)

    def _etcd(self) -> list[str]:
        pki, peer = self.folder / "pki", f"http://{ADDRESS}:{ETCD_PORT + 1}"
        client = f"https://{ADDRESS}:{ETCD_PORT}"
        return [
            "--name=scale", f"--data-dir={self.folder / 'etcd'}", "--unsafe-no-fsync",
            f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=scale={peer}", "--client-cert-auth", "--log-level=warn",
            f"--trusted-ca-file={pki / 'etcd-ca.crt'}", f"--cert-file={pki / 'etcd.crt'}",
            f"--key-file={pki / 'etcd.key'}",
        ]  # fmt: skip

    def _api_server(self) -> list[str]:
        pki = self.folder / "pki"
        return [
            f"--bind-address={ADDRESS}", f"--advertise-address={ADDRESS}",
            f"--secure-port={API_PORT}", f"--tls-cert-file={pki / 'apiserver.crt'}",
            f"--tls-private-key-file={pki / 'apiserver.key'}",
            f"--client-ca-file={pki / 'ca.crt'}",
            f"--etcd-servers=https://{ADDRESS}:{ETCD_PORT}",
            f"--etcd-cafile={pki / 'etcd-ca.crt'}",
            f"--etcd-certfile={pki / 'apiserver-etcd-client.crt'}",
            f"--etcd-keyfile={pki / 'apiserver-etcd-client.key'}",
            "--authorization-mode=Node,RBAC", "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.97.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={pki / 'sa.pub'}",
            f"--service-account-signing-key-file={pki / 'sa.key'}",
        ]  # fmt: skip

    def _manager(self) -> list[str]:
        pki, config = self.folder / "pki", self.folder / "controller-manager.kubeconfig"
        return [
            f"--kubeconfig={config}", f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}", "--leader-elect=false",
            "--use-service-account-credentials", f"--root-ca-file={pki / 'ca.crt'}",
            f"--service-account-private-key-file={pki / 'sa.key'}",
            f"--bind-address={ADDRESS}", f"--secure-port={MANAGER_PORT}",
            f"--flex-volume-plugin-dir={self.folder / 'volume-plugins'}",
        ]  # fmt: skip

    def _config(self, who: str) -> dict[str, Any]:
        pki = self.folder / "pki"
        server = {"server": f"https://{ADDRESS}:{API_PORT}",
                  "certificate-authority": str(pki / "ca.crt")}  # fmt: skip
        user = {"client-certificate": str(pki / f"{who}.crt"),
                "client-key": str(pki / f"{who}.key")}  # fmt: skip
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "scale", "cluster": server}],
            "users": [{"name": who, "user": user}],
            "contexts": [{"name": "scale", "context": {"cluster": "scale", "user": who}}],
            "current-context": "scale",
        }

    def _call(self, *words: str) -> None:
        subprocess.run([str(KUBERNETES.path), *words], check=True)

    def _spawn(self, program: str, *flags: str) -> None:
        command = [program, *flags] if "/" in program else [str(KUBERNETES.path), program, *flags]
        log = self.folder / f"{Path(program).name}.log"
        with log.open("wb") as stream:
            self._processes.append(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
            )

    def cpu_seconds(self) -> float:
        """CPU that the control plane and kwok have used so far."""
        ticks = 0
        for process in self._processes:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def _stop(self) -> None:
        for process in reversed(self._processes):
            process.send_signal(signal.SIGKILL)  # nothing of it is kept
            process.wait()
        self._scratch.cleanup()


def _stage(
    *, name: str, kind: str, when: list[Any], status: str, delay: dict[str, int] | None = None
) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "resourceRef": {"apiGroup": "v1", "kind": kind},
        "selector": {"matchExpressions": when},
        "next": {"statusTemplate": status},
    }
    if delay:
        spec["delay"] = delay
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": spec,
    }


def _kwok() -> str:
    """kwok, built once from its Go module."""
    folder = settings.cache_folder() / "bin" / "kwok-0.7.0"
    if not (folder / "kwok").exists():
        folder.mkdir(parents=True, exist_ok=True)
        env = {**os.environ, "GOBIN": str(folder), "CGO_ENABLED": "0", "GOWORK": "off"}
        subprocess.run(["go", "install", "-trimpath", KWOK], check=True, env=env)
    return str(folder / "kwok")
