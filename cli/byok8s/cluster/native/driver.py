"""The native driver: a real single-node Kubernetes and an S3 server as processes, no container."""

from __future__ import annotations

import os
import platform
import secrets
import sys
from dataclasses import replace
from typing import ClassVar

from byok8s.cluster import kubeconfig, store
from byok8s.cluster.driver import NothingMade
from byok8s.cluster.native import (
    api,
    binaries,
    components,
    kubectl,
    loading,
    packages,
    processes,
    remnants,
    starting,
)
from byok8s.cluster.native.layout import RUN, Layout
from byok8s.cluster.store import ClusterInfo, S3Server
from byok8s.exceptions import ClusterError
from byok8s.progress import Reporter


class NativeDriver:
    """See `byok8s.cluster.driver.Driver`."""

    name: ClassVar[str] = "native"

    def missing(self) -> str | None:
        """None when this machine can hold a native cluster; else what it lacks."""
        if sys.platform != "linux":
            return "The native driver needs Linux; install kind, minikube or k3d instead."
        if platform.machine() not in ("x86_64", "aarch64"):
            return f"The native driver does not know this machine's kind, {platform.machine()}."
        if os.geteuid() != 0:
            return "The native driver needs root; run the command with sudo, or install kind."
        return packages.missing() or binaries.missing()

    def create(self, name: str, report: Reporter) -> ClusterInfo:
        """Make the cluster, bring back what is dead of it, or find it running."""
        if missing := self.missing():
            raise ClusterError(missing)
        layout = Layout.of(name)
        layout.check()
        _check_alone(layout)
        running = self.running(name)
        layout.make()
        packages.install(report, layout.log("packages"))
        built = starting.build(report)
        s3 = _s3(layout)
        info = ClusterInfo(name, self.name, store.context_name(name), built.worker.ref, s3)
        store.save(info)
        if not running:
            with report.step(f"Starting cluster '{name}'") as step:
                starting.bring_up(layout, s3, built, step)
        elif built.worker.ref not in loading.refs(layout):
            with report.step("Loading the new worker image"):
                loading.load_worker(layout, built.worker)
        _merge_kubeconfig(layout, info)
        kubectl.link(report)
        return info

    def running(self, name: str) -> bool:
        """Whether all components run, the API and S3 servers answer and the node is ready."""
        layout = Layout.of(name)
        alive = processes.leaders(layout.root)
        return (
            all(component in alive for component in components.NAMES)
            and api.api_ready(layout)
            and api.node_ready(layout)
            and api.s3_ready()
        )

    def status(self, name: str) -> list[tuple[str, str]]:
        """One row per component, and what the cluster says of itself."""
        layout = Layout.of(name)
        alive = processes.leaders(layout.root)
        rows = [(component, _state(alive.get(component))) for component in components.NAMES]
        answers = {
            f"API server at {layout.server}": api.api_ready(layout),
            f"node {layout.node}": api.node_ready(layout),
            "cluster DNS": api.dns_ready(),
            f"S3 server at {layout.s3_url}": api.s3_ready(),
        }
        return rows + [(what, "ready" if good else "not ready") for what, good in answers.items()]

    def delete(self, name: str, report: Reporter) -> None:
        """Remove the cluster with all that it left on the machine; fine when there is nothing."""
        layout = Layout.of(name)
        if os.geteuid() != 0:
            raise ClusterError(f"Deleting cluster '{name}' needs root; run the command with sudo.")
        if layout.root.exists() or layout.run.exists() or processes.find(layout.root):
            with report.step(f"Deleting cluster '{name}'"):
                remnants.stop_everything(layout)
                remnants.remove(layout)
        kubectl.unlink()
        kubeconfig.remove(store.context_name(name))
        store.remove(name)


def _check_alone(layout: Layout) -> None:
    """All native clusters have the same addresses, so there can be one."""
    recorded = [path.parent.name for path in store.clusters_folder().glob("*/native")]
    running = [path.name for path in RUN.glob("*") if path.is_dir()]
    for other in {*recorded, *running} - {layout.name}:
        raise NothingMade(
            f"There can be one native cluster on a machine, and there is '{other}' already; "
            f"use it, or first: byok8s cluster delete {other} --driver native."
        )
    home = layout.run / "home"
    if home.exists() and home.read_text() != str(layout.root):
        raise NothingMade(
            f"There can be one native cluster on a machine, and another one is in "
            f"{home.read_text()}; delete it with the XDG_STATE_HOME that it was made with."
        )


def _s3(layout: Layout) -> S3Server:
    """The recorded S3 server, or one with new random keys."""
    known = store.load(layout.name)
    if known and known.s3:
        return replace(known.s3, endpoint_url=layout.s3_url)
    return S3Server(layout.s3_url, secrets.token_hex(10).upper(), secrets.token_urlsafe(30))


def _state(process: processes.Process | None) -> str:
    if process is None:
        return "stopped"
    return f"running (process {process.pid}, {process.memory / 2**20:.0f} MiB)"


def _merge_kubeconfig(layout: Layout, info: ClusterInfo) -> None:
    kubeconfig.merge(
        info.context,
        layout.server,
        (layout.pki / "ca.crt").read_bytes(),
        (layout.pki / "admin.crt").read_bytes(),
        (layout.pki / "admin.key").read_bytes(),
    )
