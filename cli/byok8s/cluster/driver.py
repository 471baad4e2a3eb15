"""What every way of making a cluster offers."""

from __future__ import annotations

from typing import ClassVar, Protocol

from byok8s.cluster.store import ClusterInfo
from byok8s.exceptions import ClusterError
from byok8s.progress import Reporter


class NothingMade(ClusterError):
    """A driver refused before it made anything, so there is nothing to be deleted."""


class Driver(Protocol):
    """One way of making a single-node cluster on this machine."""

    name: ClassVar[str]

    def missing(self) -> str | None:
        """None when the driver can be used here; else one sentence that says what to install."""

    def create(self, name: str, report: Reporter) -> ClusterInfo:
        """Make the cluster, or bring it back, or find it running.

        Merges the context byok8s-NAME into the kubeconfig and makes it current.
        Raises ClusterError, which names the log file.
        """

    def running(self, name: str) -> bool:
        """Whether the cluster's API server and node are up."""

    def status(self, name: str) -> list[tuple[str, str]]:
        """Rows of component and state, for people."""

    def delete(self, name: str, report: Reporter) -> None:
        """Remove the cluster and all that belongs to it; fine when there is nothing."""
