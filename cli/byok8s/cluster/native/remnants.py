"""What a cluster leaves on the machine outside of its own folder, and its removal.

Nothing here asks a component for help: all of them may be dead already.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from byok8s.cluster.native import cgroups, firewall, network, processes
from byok8s.cluster.native.layout import RUN, Layout
from byok8s.exceptions import ClusterError

# Folders and files that components make at fixed places; deepest first
_OUTSIDE = (
    "/run/containerd/s",
    "/run/containerd/fifo",
    "/run/containerd",
    "/var/lib/cni/results",
    "/var/lib/cni",
    "/var/log/containers",
    "/var/lib/kubelet/device-plugins/kubelet.sock",
    "/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint",
    "/var/lib/kubelet/device-plugins",
    "/var/lib/kubelet",
    "/run/xtables.lock",
)
_MNT_DETACH = 2


@dataclass(frozen=True)
class Before:
    """What the machine was like before the cluster, to leave it the same."""

    settings: dict[str, str]
    chains: list[str]  # as firewall.chains() names them
    absent: list[str]  # of _OUTSIDE

    @classmethod
    def remember(cls, layout: Layout) -> Before:
        """What was recorded at the first create; recorded now when this is the first."""
        if known := cls.recorded(layout):
            return known
        absent = [path for path in _OUTSIDE if not Path(path).exists()]
        before = cls(network.read_settings(), firewall.chains(), absent)
        layout.before.write_text(json.dumps(asdict(before), indent=1))
        return before

    @classmethod
    def recorded(cls, layout: Layout) -> Before | None:
        """The record, if there is a sound one."""
        try:
            return cls(**json.loads(layout.before.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None


def clear_dead_state(layout: Layout, boot: str) -> None:
    """Remove dead shims' sockets, and after a reboot all runtime state, if /run is on a disk."""
    for path in _shim_sockets(layout):
        if not _is_answered(path):
            path.unlink(missing_ok=True)
    mark = layout.run / "boot"
    if mark.exists() and mark.read_text() != boot:
        shutil.rmtree(layout.run)
        layout.make()
    mark.write_text(boot)


def stop_everything(layout: Layout) -> None:
    """Kill the cluster's processes and containers; returns when none is left.

    Containers outlive whoever started them: they are found as children of containerd's shims
    and, where those are dead, by the group they are in.
    """
    running = processes.find(layout.root)
    # No new pods, and no new shims, while the rest is stopped
    for names in (("kubelet", "kube-controller-manager"), ("containerd",)):
        processes.stop([p for p in running if p.leader and p.name in names], layout.root, 0)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        ours = processes.find(layout.root)
        inside = cgroups.members()
        contained = processes.descendants(p.pid for p in ours) | inside
        if not ours and not inside:
            return
        processes.kill({*contained, *(p.pid for p in ours)} - {os.getpid()})
        time.sleep(0.02)
    raise ClusterError(
        f"Some processes of cluster '{layout.name}' do not end, even when killed; "
        "look for them with: ps -e -o pid,stat,cmd"
    )


def remove(layout: Layout) -> None:
    """Remove mounts, network, firewall rules, cgroups, folders and files, and reset settings."""
    before = Before.recorded(layout)
    sockets = _shim_sockets(layout)
    unmount_below([layout.root, layout.run])
    network.down()
    firewall.down(before.chains if before else None)
    cgroups.remove()
    _remove_files(layout, sockets)
    if before:
        network.write_settings(before.settings)
        _remove_outside(before.absent)
    for folder in (layout.run, layout.root):
        shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        RUN.rmdir()
    if left := [str(folder) for folder in (layout.run, layout.root) if folder.exists()]:
        raise ClusterError(f"Some of {' and '.join(left)} cannot be removed; try with: rm -r")


def unmount_below(folders: Sequence[Path]) -> None:
    """Unmount everything below the folders, the last mounted first."""
    libc = ctypes.CDLL(None, use_errno=True)
    for point in mount_points(Path("/proc/self/mountinfo").read_text(), folders):
        # Detached, since what still uses it was killed and is about to let go
        if libc.umount2(os.fsencode(point), _MNT_DETACH) != 0:
            raise ClusterError(
                f"{point} cannot be unmounted ({os.strerror(ctypes.get_errno())}); "
                "unmount it by hand, and run the command again."
            )


def mount_points(mountinfo: str, folders: Iterable[Path]) -> list[str]:
    """The mount points of a mountinfo file that are below the folders, the last one first."""
    points = [_unescape(line.split()[4]) for line in mountinfo.splitlines()]
    roots = [f"{folder}/" for folder in folders]
    return [p for p in reversed(points) if any(f"{p}/".startswith(root) for root in roots)]


def _unescape(text: str) -> str:
    """The kernel writes blanks and the like as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _shim_sockets(layout: Layout) -> list[Path]:
    """The sockets of our containerd's shims, which lie outside of its folders."""
    addresses = layout.run.glob("containerd/io.containerd.runtime.v2.task/*/*/address")
    texts = [path.read_text().strip() for path in addresses]
    return [Path(text.removeprefix("unix://")) for text in texts]


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


def _remove_files(layout: Layout, sockets: Iterable[Path]) -> None:
    for path in sockets:
        path.unlink(missing_ok=True)
    for path in Path("/var/lib/cni/results").glob("*"):
        if str(layout.run) in path.read_text(errors="replace"):  # where its network namespace is
            path.unlink()
    for path in Path("/var/log/containers").glob("*.log"):
        if path.is_symlink() and path.readlink().is_relative_to(layout.root):
            path.unlink()


def _remove_outside(paths: Iterable[str]) -> None:
    for path in map(Path, paths):
        with suppress(OSError):
            if path.is_dir():
                path.rmdir()  # others may use it by now: then it is not empty
            else:
                path.unlink()
