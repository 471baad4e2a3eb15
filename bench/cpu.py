"""Where the machine's CPU time goes while a command runs: leader, pods, Kubernetes, the rest."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from byok8s.cluster.native import processes
from byok8s.cluster.native.layout import Layout

_TICK = os.sysconf("SC_CLK_TCK")
_GROUPS = {
    "kube-apiserver": "API server, etcd",
    "etcd": "API server, etcd",
    "kubelet": "kubelet",
    "containerd": "containerd",
    "versitygw": "S3 server",
}
OTHERS = "scheduler, controllers"
REST = "the rest"  # containerd's shims, runc and what else the machine does


def usage(layout: Layout) -> dict[str, float]:
    """CPU seconds since the start: of all, of pods, and of each component of the cluster."""
    seconds = {"total": machine()[0], "pods": _pods()}
    for name, process in processes.leaders(layout.root).items():
        with suppress(OSError):
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            # user and system time, its own and its ended children's
            group = _GROUPS.get(name, OTHERS)
            seconds[group] = seconds.get(group, 0.0) + sum(map(int, fields[11:15])) / _TICK
    return seconds


def between(before: dict[str, float], after: dict[str, float], leader: float) -> dict[str, float]:
    """CPU seconds by whom, `leader` being the command's own."""
    parts = {name: after[name] - before[name] for name in after if name != "total"}
    parts = {"leader": leader, **parts}
    parts[REST] = after["total"] - before["total"] - sum(parts.values())
    return parts


def machine() -> tuple[float, float]:
    """CPU seconds that the machine was busy, and those that it had."""
    words = [
        int(word) / _TICK for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    ]
    return sum(words) - words[3] - words[4], sum(words)


def _pods() -> float:
    """CPU seconds of all pods there ever were: of the cluster's control group."""
    old = Path("/sys/fs/cgroup/cpuacct/byok8s/cpuacct.usage")
    if old.exists():
        return int(old.read_text()) / 1e9
    lines = Path("/sys/fs/cgroup/byok8s/cpu.stat").read_text().splitlines()
    return int(dict(line.split() for line in lines)["usage_usec"]) / 1e6
