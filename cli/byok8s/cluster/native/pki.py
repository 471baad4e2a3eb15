"""The cluster's certificates and keys, made by the node binary at the first create."""

from __future__ import annotations

from byok8s.cluster.native.binaries import KUBERNETES
from byok8s.cluster.native.layout import ADDRESS, API_SERVICE_ADDRESS, Layout
from byok8s.cluster.native.shell import run

_LAST = "sa.key"  # the file that is written last


def ensure(layout: Layout) -> None:
    """Make all certificates and keys, valid for 10 years, unless they are there."""
    if (layout.pki / _LAST).exists():
        return
    run(
        [
            str(KUBERNETES.path),
            "pki",
            f"--folder={layout.pki}",
            f"--node={layout.node}",
            f"--address={ADDRESS}",
            f"--service-address={API_SERVICE_ADDRESS}",
        ]
    )
