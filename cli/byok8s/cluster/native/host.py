"""What this machine is like: read from /proc and /sys, changed nowhere."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path

_CAP_SYS_RESOURCE = 24
_RESOLVED = Path("/run/systemd/resolve/resolv.conf")


@dataclass(frozen=True)
class Host:
    """The facts that containerd's and the kubelet's configuration depend on."""

    cgroup_v2: bool
    apparmor: bool
    may_raise_limits: bool  # CAP_SYS_RESOURCE: not there in many sandboxes
    open_files: int
    overlay: bool  # whether overlayfs can be used for container file systems

    @classmethod
    def read(cls, folder: Path) -> Host:
        """The facts, of which overlayfs is about the file system that holds `folder`."""
        enabled = Path("/sys/module/apparmor/parameters/enabled")
        return cls(
            cgroup_v2=Path("/sys/fs/cgroup/cgroup.controllers").exists(),
            apparmor=enabled.exists() and enabled.read_text().strip() == "Y",
            may_raise_limits=_has_capability(_CAP_SYS_RESOURCE),
            open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
            overlay=file_system(folder, Path("/proc/self/mountinfo").read_text()) != "overlay",
        )


def boot_id() -> str:
    """An identifier that changes with every boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def file_system(folder: Path, mountinfo: str) -> str:
    """The type of the file system that holds a folder."""
    best, kind = "", ""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        point = left.split()[4]
        inside = point == "/" or str(folder) == point or str(folder).startswith(f"{point}/")
        if inside and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind


def resolver() -> str:
    """A resolv.conf that also works in a pod, where the host's loopback addresses do not.

    Without any usable server it names the node itself, where nobody answers: a lookup of an
    outside name then fails at once, while an empty file would stop CoreDNS from starting.
    """
    from byok8s.cluster.native.layout import ADDRESS

    for path in (Path("/etc/resolv.conf"), _RESOLVED):
        if path.exists() and (servers := name_servers(path.read_text())):
            return "".join(f"nameserver {server}\n" for server in servers)
    return f"nameserver {ADDRESS}\n"


def name_servers(text: str) -> list[str]:
    """The name servers of a resolv.conf that are not on the loopback interface."""
    words = [line.split() for line in text.splitlines()]
    servers = [w[1] for w in words if len(w) > 1 and w[0] == "nameserver"]
    return [s for s in servers if not s.startswith("127.") and s != "::1"]


def _has_capability(number: int) -> bool:
    for line in Path(f"/proc/{os.getpid()}/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False
