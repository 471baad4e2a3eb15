"""Clusters made by minikube, with whichever of its own drivers it chooses."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from byok8s.cluster import store
from byok8s.cluster.tool import ToolDriver
from byok8s.exceptions import ClusterError

# The commands of the virtual machine drivers that minikube chooses by itself
_VIRTUAL_MACHINES = (
    "virsh",
    "qemu-system-x86_64",
    "qemu-system-aarch64",
    "VBoxManage",
    "vfkit",
)


class MinikubeDriver(ToolDriver):
    """Drives the command `minikube`; the cluster is a profile, whose context has its name."""

    name = "minikube"
    homepage = "https://minikube.sigs.k8s.io"

    def _needs(self) -> str | None:
        if self._configured() or self._engine or any(map(self._is_installed, _VIRTUAL_MACHINES)):
            return None
        return (
            "minikube needs one of its drivers: start Docker or Podman, or install KVM, QEMU or "
            "VirtualBox, or name another with: minikube config set driver DRIVER."
        )

    def _configured(self) -> bool:
        """Whether the user has told minikube which driver to take."""
        if os.environ.get("MINIKUBE_DRIVER"):
            return True
        return self._runner.query(("minikube", "config", "get", "driver"), {}).code == 0

    def _status(self, cluster: str) -> dict[str, Any] | None:
        """minikube's status; its exit code tells of a stopped cluster, so it is not looked at."""
        out = self._query(
            cluster, "minikube", "status", "--profile", cluster, "--output", "json"
        ).out
        try:
            status: dict[str, Any] = json.loads(out)
        except ValueError:
            return None
        return status if "Host" in status and status["Host"] != "Nonexistent" else None

    def _state(self, cluster: str) -> str | None:
        status = self._status(cluster)
        if status is None:
            return None
        parts = {status.get("Host"), status.get("Kubelet"), status.get("APIServer")}
        return "running" if parts == {"Running"} else "stopped"

    def _make(self, cluster: str) -> list[str]:
        return self._start(cluster)

    def _start(self, cluster: str) -> list[str]:
        command = [
            "minikube",
            "start",
            "--profile",
            cluster,
            "--embed-certs",
            "--interactive=false",
        ]
        if os.geteuid() == 0:
            command.append("--force")  # else its Docker driver refuses to run as root
        return [*command, "--wait=all", "--output=json"]

    def _load_image(self, cluster: str, archive: Path) -> list[str]:
        return ["minikube", "image", "load", str(archive), "--profile", cluster]

    def _remove(self, cluster: str) -> list[str]:
        return ["minikube", "delete", "--profile", cluster]

    def _kubeconfig(self, cluster: str) -> str:
        path = Path(self._full_environment(cluster)["KUBECONFIG"])
        if not path.exists():  # the cluster runs, but was started by hand
            self._query(cluster, "minikube", "update-context", "--profile", cluster)
        try:
            return path.read_text()
        except OSError as error:
            raise ClusterError(
                f"minikube did not write the kubeconfig of its profile {cluster}; "
                f"see what is wrong with: minikube status --profile {cluster}"
            ) from error

    def _readable(self, line: str) -> str:
        """The message of a CloudEvents line, or the line itself."""
        try:
            return str(json.loads(line)["data"]["message"]).strip()
        except (ValueError, LookupError, TypeError):
            return line

    def status(self, name: str) -> list[tuple[str, str]]:
        """The host (a container or a virtual machine), the kubelet and the API server."""
        status = self._status(store.context_name(name))
        if status is None:
            return [("host", "not there")]
        rows = {"host": "Host", "kubelet": "Kubelet", "API server": "APIServer"}
        return [(row, str(status.get(key, "unknown")).lower()) for row, key in rows.items()]
