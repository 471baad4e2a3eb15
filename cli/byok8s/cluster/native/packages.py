"""What comes from the distribution: containerd, runc, the CNI plugins, iptables and others."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from byok8s.exceptions import ClusterError
from byok8s.progress import Reporter

# command: Debian's and Ubuntu's package. What is there already, from whichever source, is used.
COMMANDS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ip6tables": "iptables",
    "iptables-save": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "mount": "mount",
}
CNI_FOLDERS = (Path("/opt/cni/bin"), Path("/usr/lib/cni"), Path("/usr/libexec/cni"))
CNI_PLUGINS = ("bridge", "host-local", "loopback", "portmap")
_CNI_PACKAGE = "containernetworking-plugins"
_POLICY = Path("/usr/sbin/policy-rc.d")
_ADMIN_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"


def wanted() -> list[str]:
    """The packages that are missing here."""
    path = os.environ.get("PATH", "") + os.pathsep + _ADMIN_FOLDERS
    packages = {p for command, p in COMMANDS.items() if not shutil.which(command, path=path)}
    if cni_folder() is None:
        packages.add(_CNI_PACKAGE)
    return sorted(packages)


def missing() -> str | None:
    """None when everything is here or apt can install it; else what to install."""
    packages = wanted()
    if not packages or shutil.which("apt-get"):
        return None
    return (
        f"The native driver needs {', '.join(packages)}, and there is no apt-get to install them "
        "with; install them with this system's package manager."
    )


def cni_folder() -> Path | None:
    """The folder that holds the CNI plugins, or None."""
    for folder in CNI_FOLDERS:
        if all((folder / plugin).exists() for plugin in CNI_PLUGINS):
            return folder
    return None


def install(report: Reporter, log: Path) -> None:
    """Install what is missing; raises ClusterError, which names the log, when apt fails."""
    packages = wanted()
    if not packages:
        return
    with report.step(f"Installing {', '.join(packages)} with apt-get") as step, _no_services():
        install_command = ["install", "--yes", "--quiet", "--no-install-recommends", *packages]
        if _apt(install_command, log) != 0:
            step.update("fetching the lists of packages first")
            if _apt(["update", "--quiet"], log) != 0 or _apt(install_command, log) != 0:
                raise ClusterError(
                    f"apt-get could not install {', '.join(packages)}; "
                    f"correct what the log {log} says, and run the command again."
                )
    if left := wanted():
        raise ClusterError(
            f"After apt-get's success {', '.join(left)} still cannot be used; see the log {log}."
        )


def _apt(arguments: list[str], log: Path) -> int:
    with log.open("a") as stream:
        return subprocess.run(
            ["apt-get", *arguments],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode


@contextmanager
def _no_services() -> Iterator[None]:
    """Keep packages from starting their services: ours is a containerd of its own.

    policy-rc.d is how Debian's maintainer scripts ask whether they may; 101 means no.
    """
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()
