"""The real cluster, asked with kubectl as its users ask it."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from byok8s.cluster import ClusterInfo


def kubectl(cluster: ClusterInfo, *arguments: str) -> str:
    """The output of a kubectl command that succeeds."""
    return _run(cluster, arguments, None)


def create(cluster: ClusterInfo, manifest: dict[str, Any]) -> None:
    """Make the manifest's objects."""
    _run(cluster, ("create", "-f", "-"), json.dumps(manifest))


def _run(cluster: ClusterInfo, arguments: tuple[str, ...], stdin: str | None) -> str:
    done = subprocess.run(
        ["kubectl", f"--context={cluster.context}", *arguments],
        input=stdin,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout
