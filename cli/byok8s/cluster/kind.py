"""Clusters made by kind: Kubernetes in a Docker or Podman container."""

from __future__ import annotations

from pathlib import Path

from byok8s.cluster import store
from byok8s.cluster.tool import ToolDriver
from byok8s.exceptions import ClusterError

_NODE = "{}-control-plane"
_ADMIN = "--kubeconfig=/etc/kubernetes/admin.conf"


class KindDriver(ToolDriver):
    """Drives the command `kind`."""

    name = "kind"
    homepage = "https://kind.sigs.k8s.io"

    def _needs(self) -> str | None:
        if self._engine:
            return None
        return "kind needs a container engine that runs: start Docker or Podman, or install one."

    def _environment(self) -> dict[str, str]:
        # kind takes docker whenever its command is there, also when no engine answers
        engine = self._engine
        return {"KIND_EXPERIMENTAL_PROVIDER": engine} if engine == "podman" else {}

    def _state(self, cluster: str) -> str | None:
        if cluster not in self._query(cluster, "kind", "get", "clusters").out.split():
            return None
        return self._node_state(cluster) or "unknown"

    def _node_state(self, cluster: str) -> str:
        engine = self._engine or "docker"
        question = (engine, "inspect", "--format", "{{.State.Status}}", _NODE.format(cluster))
        return self._query(cluster, *question).out.strip()

    def _make(self, cluster: str) -> list[str]:
        return ["kind", "create", "cluster", "--name", cluster, "--wait", "3m"]

    def _start(self, cluster: str) -> list[str]:
        # kind has no command for it; a restarted node container comes back by itself
        return [self._engine or "docker", "start", _NODE.format(cluster)]

    def _load_image(self, cluster: str, archive: Path) -> list[str]:
        return ["kind", "load", "image-archive", str(archive), "--name", cluster]

    def _remove(self, cluster: str) -> list[str]:
        return ["kind", "delete", "cluster", "--name", cluster]

    def _kubeconfig(self, cluster: str) -> str:
        answer = self._query(cluster, "kind", "get", "kubeconfig", "--name", cluster)
        if answer.code:
            raise ClusterError(
                f"kind does not give the kubeconfig of its cluster {cluster}; "
                f"see what is wrong with: kind get kubeconfig --name {cluster}"
            )
        return answer.out

    def _readable(self, line: str) -> str:
        """ " • Preparing nodes 📦  ..." becomes "Preparing nodes"."""
        return line.encode("ascii", "ignore").decode().strip(" .")

    def status(self, name: str) -> list[tuple[str, str]]:
        """The node's container and, in it, the API server and the node."""
        cluster = store.context_name(name)
        node = _NODE.format(cluster)
        state = self._node_state(cluster) or "not there"
        if state != "running":
            return [(f"container {node}", state)]
        inside = (self._engine or "docker", "exec", node, "kubectl", _ADMIN)
        server = self._query(cluster, *inside, "get", "--raw=/readyz")
        ready = self._query(
            cluster,
            *inside,
            *("get", "node", node, "--output"),
            'jsonpath={.status.conditions[?(@.type=="Ready")].status}',
        )
        return [
            (f"container {node}", state),
            ("API server", "ready" if server.out.strip() == "ok" else "not ready"),
            (f"node {node}", "ready" if ready.out.strip() == "True" else "not ready"),
        ]
