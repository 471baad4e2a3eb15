"""The control group that all pods of the cluster are in, by version 1 or 2 of the interface.

With one of our own, what is in it can be stopped and removed without asking whose it is.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from byok8s.exceptions import ClusterError

NAME = "byok8s"
_TOP = Path("/sys/fs/cgroup")
_SECONDS = 5.0


def make() -> None:
    """Make the group in every hierarchy; fine when it is there."""
    if (_TOP / "cgroup.controllers").exists():
        for controller in (_TOP / "cgroup.controllers").read_text().split():
            with suppress(OSError):  # some cannot be handed down, in a container for example
                (_TOP / "cgroup.subtree_control").write_text(f"+{controller}")
        (_TOP / NAME).mkdir(exist_ok=True)
        return
    for hierarchy in _hierarchies(Path("/proc/self/mountinfo").read_text()):
        group = hierarchy / NAME
        group.mkdir(exist_ok=True)
        for file in ("cpuset.cpus", "cpuset.mems"):  # empty in a new group: nothing could run
            if (hierarchy / file).exists() and not (group / file).read_text().strip():
                (group / file).write_text((hierarchy / file).read_text())


def members() -> set[int]:
    """The processes in the group."""
    pids: set[int] = set()
    for group in _groups():
        for path in group.rglob("cgroup.procs"):
            with suppress(OSError):
                pids |= {int(pid) for pid in path.read_text().split()}
    return pids - {0}


def remove() -> None:
    """Remove the group from every hierarchy; raises ClusterError when it stays busy."""
    for group in _groups():
        for folder, _, _ in os.walk(group, topdown=False):
            _remove(Path(folder))


def _groups() -> list[Path]:
    return [f for f in (_TOP / NAME, *_TOP.glob(f"*/{NAME}")) if (f / "cgroup.procs").exists()]


def _hierarchies(mountinfo: str) -> list[Path]:
    """Where the hierarchies of version 1 are mounted, each once."""
    lines = [line.partition(" - ")[::2] for line in mountinfo.splitlines()]
    points = {left.split()[4] for left, right in lines if right.split()[0] == "cgroup"}
    return [Path(p) for p in sorted(points) if not Path(p).is_symlink()]


def _remove(folder: Path) -> None:
    """A group is busy for a moment after its last process was killed."""
    deadline = time.monotonic() + _SECONDS
    while folder.exists():
        try:
            folder.rmdir()
        except OSError as error:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"The control group {folder} cannot be removed ({error.strerror}); "
                    "stop the processes in it, and run the command again."
                ) from error
            time.sleep(0.02)
