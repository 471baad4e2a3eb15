"""kubectl for the user: it is part of the node binary."""

from __future__ import annotations

import shutil
from pathlib import Path

from byok8s import settings
from byok8s.cluster.native.binaries import KUBERNETES
from byok8s.progress import Reporter

_LINK = Path("/usr/local/bin/kubectl")


def link(report: Reporter) -> None:
    """Give the user a kubectl where there is none."""
    if _is_ours() or not shutil.which("kubectl"):
        new = not _is_ours()
        _LINK.unlink(missing_ok=True)
        _LINK.symlink_to(KUBERNETES.folder / "kubectl")
        if new:
            report.note(f"There was no kubectl here: {_LINK} is one now, until the cluster goes.")


def unlink() -> None:
    """Take away the kubectl that link() gave."""
    if _is_ours():
        _LINK.unlink()


def _is_ours() -> bool:
    return _LINK.is_symlink() and _LINK.readlink().is_relative_to(settings.cache_folder())
