"""The batch system at scale, on simulated nodes of a real control plane (bench/rig.py).

    .venv/bin/python bench/scale.py

Two parts: creations beside a bare client's, and 5,000 jobs of 1 to 30 s. Needs what
'byok8s cluster create --driver native' builds, and Go for kwok; no cluster.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from byok8s.batch import BatchSystem, KubeClient, PodRequest, RunIdentity
from byok8s.batch.pods import manifest
from byok8s.settings import KubeSettings
from quiet import Lookout
from rig import NAMESPACE, Rig

BARE_CONNECTIONS = 16
SAMPLE_SECONDS = 5.0
PATIENCE_SECONDS = 900.0
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
LIVE = "status.phase!=Succeeded,status.phase!=Failed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--creations", type=int, default=500, help="of each client in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.0, help="pods a second; 0: no limit")
    parser.add_argument("--parts", default="creations,jobs")
    parser.add_argument("--as", dest="role", choices=("bare", "leader"), help=argparse.SUPPRESS)
    parser.add_argument("--kubeconfig", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        client = KubeClient.load(KubeSettings(kubeconfig=options.kubeconfig, namespace=NAMESPACE))
        play = bare if options.role == "bare" else lead
        print(json.dumps(play(client, options.jobs, options.rate)))
        return
    with Rig() as rig:
        for part in options.parts.split(","):
            print(json.dumps({part: PARTS[part](rig, options)}, indent=1), flush=True)


# --- the parts


def compare_creations(rig: Rig, options: argparse.Namespace) -> dict[str, Any]:
    """Pods created a second, by a bare client and by the batch system without its limit."""
    rates: dict[str, list[float]] = {"bare": [], "leader": []}
    for _ in range(options.rounds):
        for role, found in rates.items():
            found.append(_play(rig, role, options.creations, 0.0)["creations_per_second"])
            _empty(rig.client)
    share = statistics.median(rates["leader"]) / statistics.median(rates["bare"])
    return {**rates, "share": round(share, 3)}


def run_jobs(rig: Rig, options: argparse.Namespace) -> dict[str, Any]:
    """One run of many jobs; who looks on counts the live pods."""
    before = rig.cpu_seconds()
    with Onlooker(rig.client) as onlooker:
        figures = _play(rig, "leader", options.jobs, options.rate)
    _empty(rig.client)
    figures["most_live_pods"] = max(onlooker.counts)
    figures["control_plane_cpu_seconds"] = round(rig.cpu_seconds() - before, 1)
    return figures


PARTS = {"creations": compare_creations, "jobs": run_jobs}


def _play(rig: Rig, role: str, jobs: int, rate: float) -> dict[str, Any]:
    """Run one client in a process of its own; returns its figures."""
    words = [f"--as={role}", f"--jobs={jobs}", f"--rate={rate}", f"--kubeconfig={rig.kubeconfig}"]
    done = subprocess.run(
        [sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE, text=True
    )
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def _empty(client: KubeClient) -> None:
    client.delete(PODS, {"gracePeriodSeconds": 0})
    until = time.monotonic() + 120
    while client.get(PODS, limit=1)["items"]:
        if time.monotonic() > until:
            raise TimeoutError("pods are left")
        time.sleep(1)


class Onlooker(Lookout):
    """Counts the pods that live in the namespace, every few seconds."""

    def __init__(self, client: KubeClient) -> None:
        super().__init__(SAMPLE_SECONDS)
        self._client = client
        self.counts: list[int] = []

    def look(self) -> None:
        # from the API server's cache: asking etcd would disturb what is measured
        answer = self._client.get(PODS, fieldSelector=LIVE, resourceVersion=0)
        self.counts.append(len(answer["items"]))


# --- the clients, each in its own process


def bare(client: KubeClient, jobs: int, _rate: float) -> dict[str, Any]:
    """Nothing but creations, over as many connections as a plain script would use."""
    run = RunIdentity(f"bare-{uuid.uuid4().hex[:8]}", "bench")
    record = {"metadata": {"name": run.name}}
    made = client.create(f"/api/v1/namespaces/{NAMESPACE}/configmaps", record)
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": run.name,
             "uid": made["metadata"]["uid"]}  # fmt: skip

    def create(i: int) -> None:
        body = manifest(run, _request(i), owner=owner, secret=None, secret_mount="",
                        pull_policy="Never", grace_seconds=5)  # fmt: skip
        client.create(PODS, body)

    with ThreadPoolExecutor(BARE_CONNECTIONS) as pool:
        began = time.monotonic()
        list(pool.map(create, range(jobs)))
        seconds = time.monotonic() - began
    return {"creations_per_second": round(jobs / seconds, 1)}


@dataclass
class Told:
    """What a leader is told, and when."""

    states: Counter[str] = field(default_factory=Counter)
    delays: list[float] = field(default_factory=list)

    def take(self, batch: BatchSystem, jobs: int) -> None:
        while self.states["succeeded"] + self.states["failed"] < jobs:
            update = batch.updates(PATIENCE_SECONDS)
            if update is None:
                raise TimeoutError(f"{self.states}")
            self.states[update.state] += 1
            if update.state == "succeeded":
                finished = datetime.fromisoformat(update.result).timestamp()
                self.delays.append(time.time() - finished)


def lead(client: KubeClient, jobs: int, rate: float) -> dict[str, Any]:
    """A batch of jobs from the first creation to the end of the last."""
    batch = BatchSystem(client, RunIdentity(f"run-{uuid.uuid4().hex[:8]}", "bench"), rate=rate)
    batch.start()
    began, used = time.monotonic(), time.process_time()
    for i in range(jobs):
        batch.issue(_request(i))
    created: list[float] = []
    watcher = threading.Thread(target=_await_creations, args=(client, jobs, created), daemon=True)
    watcher.start()
    told = Told()
    told.take(batch, jobs)
    seconds = time.monotonic() - began
    watcher.join()
    batch.shutdown()
    used = time.process_time() - used
    centiles = statistics.quantiles(told.delays, n=100)
    return {
        "jobs": jobs,
        "succeeded": told.states["succeeded"],
        "seconds": round(seconds, 1),
        "creations_per_second": round(jobs / (created[0] - began), 1),
        "delay_p50": round(centiles[49], 3),
        "delay_p99": round(centiles[98], 3),
        "delay_most": round(max(told.delays), 3),
        "calls": dict(client.calls),
        "calls_per_pod": round(sum(client.calls.values()) / jobs, 3),
        "memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, 1),
        "cpu_seconds": round(used, 1),
    }


def _await_creations(client: KubeClient, jobs: int, when: list[float]) -> None:
    while client.calls["POST pods"] < jobs:
        time.sleep(0.02)
    when.append(time.monotonic())


def _request(number: int) -> PodRequest:
    return PodRequest(
        f"job-{number}", image="none", command=("true",), rule="map", job=f"map sample={number}",
        env={"BYOK8S_JOB": "x" * 1000}, cpu=0.01, memory_mb=10,
    )  # fmt: skip


if __name__ == "__main__":
    main()
