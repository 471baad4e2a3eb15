"""Clusters made by k3d: k3s in Docker containers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from byok8s.cluster import store
from byok8s.cluster.tool import ToolDriver
from byok8s.exceptions import ClusterError

_LOG_PREFIX = re.compile(r"^[A-Z]+\[\d+\]\s*")  # "INFO[0003] "


class K3dDriver(ToolDriver):
    """Drives the command `k3d`."""

    name = "k3d"
    homepage = "https://k3d.io"

    def _needs(self) -> str | None:
        if self._engine == "docker":
            return None
        return "k3d needs a Docker engine that runs: start Docker, or install it."

    def _cluster(self, cluster: str) -> dict[str, Any] | None:
        answer = self._query(cluster, "k3d", "cluster", "list", "--output", "json")
        try:
            clusters: list[dict[str, Any]] = json.loads(answer.out)
        except ValueError:
            return None
        return next((found for found in clusters if found.get("name") == cluster), None)

    def _state(self, cluster: str) -> str | None:
        found = self._cluster(cluster)
        if found is None:
            return None
        return "running" if found.get("serversRunning") else "stopped"

    def _make(self, cluster: str) -> list[str]:
        options = ["--kubeconfig-update-default=false", "--kubeconfig-switch-context=false"]
        return ["k3d", "cluster", "create", cluster, *options, "--wait", "--timeout", "3m"]

    def _start(self, cluster: str) -> list[str]:
        return ["k3d", "cluster", "start", cluster, "--wait", "--timeout", "3m"]

    def _load_image(self, cluster: str, archive: Path) -> list[str]:
        return ["k3d", "image", "import", str(archive), "--cluster", cluster]

    def _remove(self, cluster: str) -> list[str]:
        return ["k3d", "cluster", "delete", cluster]

    def _kubeconfig(self, cluster: str) -> str:
        answer = self._query(cluster, "k3d", "kubeconfig", "get", cluster)
        if answer.code:
            raise ClusterError(
                f"k3d does not give the kubeconfig of its cluster {cluster}; "
                f"see what is wrong with: k3d kubeconfig get {cluster}"
            )
        return answer.out

    def _readable(self, line: str) -> str:
        return _LOG_PREFIX.sub("", line)

    def status(self, name: str) -> list[tuple[str, str]]:
        """One row per container: server and load balancer."""
        found = self._cluster(store.context_name(name))
        if found is None:
            return [("server", "not there")]
        return [
            (f"{node['role']} {node['name']}", node.get("State", {}).get("Status") or "unknown")
            for node in found.get("nodes", [])
        ]
