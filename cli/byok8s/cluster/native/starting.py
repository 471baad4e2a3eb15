"""Bringing a cluster up, whatever of it is there already: the order of things, and the waiting."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import byok8s.cluster
from byok8s import settings
from byok8s.cluster import images
from byok8s.cluster.images import BuiltImage
from byok8s.cluster.native import (
    api,
    binaries,
    cgroups,
    components,
    configs,
    firewall,
    host,
    loading,
    network,
    packages,
    pki,
    processes,
    remnants,
)
from byok8s.cluster.native.layout import Layout
from byok8s.cluster.native.processes import Daemon
from byok8s.cluster.store import S3Server
from byok8s.exceptions import ClusterError
from byok8s.progress import Reporter, Step

_READY_SECONDS = 120.0
_STOP_SECONDS = 15.0  # the API server takes several


@dataclass(frozen=True)
class Images:
    """The images that every cluster has."""

    pause: BuiltImage
    coredns: BuiltImage
    worker: BuiltImage


def build(report: Reporter) -> Images:
    """Build the programs and images that the cache folder does not hold yet."""
    cache = settings.cache_folder()
    with ThreadPoolExecutor(1) as aside:  # waits for downloads while the compilers work
        worker = aside.submit(images.worker_image, cache, report)
        binaries.build_all(report)
    return Images(
        images.pause_image(cache, report),
        images.coredns_image(binaries.COREDNS.path, cache, report),
        worker.result(),
    )


def bring_up(layout: Layout, s3: S3Server, built: Images, step: Step) -> None:
    """Start what does not run, and wait until the cluster can be used.

    Raises ClusterError, with a log file, when a part of it does not come up.
    """
    started = time.time()
    _prepare_machine(layout)
    daemons = _configure(layout, s3, built)
    _stop_outdated(layout, daemons)
    _check_ports(layout)
    # The clients of the API server come after it: on a new cluster the controller-manager gives
    # up, and the others wait longer and longer, when their roles are not there yet
    servers = [daemon for daemon in daemons if daemon.name in components.SERVERS]
    step.update("starting the API server")
    _start_missing(layout, servers)
    loading.wait_for_containerd(layout)
    loading.load(layout, [built.pause, built.coredns])
    with ThreadPoolExecutor(1) as aside:  # the largest piece of work, which nothing waits for
        worker = aside.submit(loading.load_worker, layout, built.worker)
        _wait(layout, step, "API server", servers, lambda: api.api_ready(layout))
        fresh = started if "kubelet" in _start_missing(layout, daemons) else 0
        api.apply(layout, _manifests())
        _wait(layout, step, "S3 server", daemons, api.s3_ready)
        _wait(layout, step, "node", daemons, lambda: api.node_ready(layout, fresh))
        _wait(layout, step, "cluster DNS", daemons, api.dns_ready)
        step.update("loading the worker image")
        worker.result()


def _manifests() -> list[dict[str, Any]]:
    """What a cluster has from its start."""
    import yaml

    folder = Path(byok8s.cluster.__file__).parent / "manifests"
    texts = [path.read_text() for path in sorted(folder.glob("*.yaml"))]
    return [content for text in texts for content in yaml.safe_load_all(text) if content]


def _prepare_machine(layout: Layout) -> None:
    network.check()
    network.load_modules()
    remnants.Before.remember(layout)
    remnants.clear_dead_state(layout, host.boot_id())
    network.write_settings()
    network.up()
    firewall.up()
    cgroups.make()


def _configure(layout: Layout, s3: S3Server, built: Images) -> list[Daemon]:
    pki.ensure(layout)
    facts = host.Host.read(layout.root)
    configs.render(layout, facts, packages.cni_folder(), built.pause.ref, host.resolver())
    (layout.objects / s3.bucket).mkdir(exist_ok=True)
    return components.daemons(layout, s3, bridge_filtered=network.bridge_is_filtered())


def _stop_outdated(layout: Layout, wanted: list[Daemon]) -> None:
    """Stop what runs with another command or configuration than it should have."""
    digests = {daemon.name: daemon.digest for daemon in wanted}
    running = processes.leaders(layout.root).values()
    outdated = [p for p in running if digests.get(p.name) != p.digest]
    processes.stop(outdated, layout.root, _STOP_SECONDS)


def _check_ports(layout: Layout) -> None:
    alive = processes.leaders(layout.root)
    needed = {name: place for name, place in components.PORTS.items() if name not in alive}
    if taken := network.taken_ports(needed):
        address, port = components.PORTS[taken[0]]
        raise ClusterError(
            f"{taken[0]} needs {address}:{port}, and another program listens there; "
            f"stop it (find it with: ss -ltnp 'sport = :{port}')."
        )


def _start_missing(layout: Layout, wanted: list[Daemon]) -> list[str]:
    """Start those that do not run; returns their names."""
    alive = processes.leaders(layout.root)
    missing = [daemon for daemon in wanted if daemon.name not in alive]
    for daemon in missing:
        processes.start(layout.root, daemon)
    return [daemon.name for daemon in missing]


def _wait(
    layout: Layout, step: Step, what: str, daemons: list[Daemon], ready: Callable[[], bool]
) -> None:
    """Wait until something is ready; raises ClusterError, with a log, when it does not get so."""
    step.update(f"waiting for the {what}")
    deadline = time.monotonic() + _READY_SECONDS
    while not ready():
        alive = processes.leaders(layout.root)
        if dead := [daemon for daemon in daemons if daemon.name not in alive]:
            raise ClusterError(
                f"{dead[0].name} ended right after its start; see its log {dead[0].log}, "
                "and run the command again."
            )
        if time.monotonic() > deadline:
            log = layout.log(components.BEHIND[what])
            raise ClusterError(
                f"The {what} is not ready after {_READY_SECONDS:.0f} s; "
                f"see the log {log}, and run the command again."
            )
        time.sleep(0.1)
