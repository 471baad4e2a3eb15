"""Where the parts of a native cluster are: folders, files, addresses, ports.

Everything that must survive a reboot is in the cluster's folder. Sockets and what belongs to
running containers are in /run/byok8s, since a Unix socket's path may have 107 characters only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from byok8s.cluster import store
from byok8s.exceptions import ClusterError

RUN = Path("/run/byok8s")
BRIDGE = "byok8s0"
# A bridge without one that is set has the lowest MAC address of its ports: another one whenever
# that port goes, and for seconds what pods send to the node is lost
MAC = "0a:58:0a:58:00:01"
ADDRESS = "10.88.0.1"  # of the node, the API server and the S3 server, for host and pods alike
POD_NETWORK = "10.88.0.0/24"
SERVICE_NETWORK = "10.96.0.0/16"
_SOCKET_LIMIT = 107  # characters in a Unix socket's path
API_SERVICE_ADDRESS = "10.96.0.1"
DNS_ADDRESS = "10.96.0.10"
API_PORT = 6443
S3_PORT = 7070
ETCD_PORT = 2379


@dataclass(frozen=True)
class Layout:
    """The paths of one cluster."""

    name: str
    root: Path
    run: Path

    @classmethod
    def of(cls, name: str) -> Layout:
        """The layout of the cluster NAME; makes nothing."""
        return cls(name, store.folder(name) / "native", RUN / name)

    @property
    def node(self) -> str:
        """The name of the Kubernetes node."""
        return f"byok8s-{self.name}"

    @property
    def server(self) -> str:
        """The URL of the API server."""
        return f"https://{ADDRESS}:{API_PORT}"

    @property
    def s3_url(self) -> str:
        """The URL of the S3 server."""
        return f"http://{ADDRESS}:{S3_PORT}"

    @property
    def socket(self) -> Path:
        """containerd's socket."""
        return self.run / "containerd.sock"

    @property
    def config(self) -> Path:
        """The folder of rendered configuration files."""
        return self.root / "config"

    @property
    def pki(self) -> Path:
        """The folder of certificates and keys."""
        return self.root / "pki"

    @property
    def objects(self) -> Path:
        """The S3 server's folder: a bucket is a folder in it."""
        return self.root / "s3"

    @property
    def logs(self) -> Path:
        """The folder of one log file per component."""
        return self.root / "logs"

    @property
    def before(self) -> Path:
        """The record of what the machine was like before the cluster."""
        return self.root / "before.json"

    def log(self, component: str) -> Path:
        """The log file of a component."""
        return self.logs / f"{component}.log"

    def check(self) -> None:
        """Raise ClusterError when the folder lies too deep for the kubelet's sockets."""
        longest = self.root / "kubelet" / "pod-resources" / "kubelet.sock"
        if len(str(longest)) > _SOCKET_LIMIT:
            raise ClusterError(
                f"The folder {self.root} has too long a name for a cluster's sockets; "
                "set XDG_STATE_HOME to a folder with a shorter one."
            )

    def make(self) -> None:
        """Make the folders, readable by root only."""
        for folder in (self.root, self.run, self.config, self.pki, self.objects, self.logs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.run / "home").write_text(str(self.root))
