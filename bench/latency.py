"""One job's 20 inputs of 1 KB when each S3 request takes 50 ms longer.

    .venv/bin/python bench/latency.py [--cluster dev]

A versitygw on loopback, and before it a proxy that waits. The job is started as in a pod, each time
in a process and folder of its own: by byok8s's worker without Snakemake, by Snakemake with byok8s's
storage provider and what the leader tells a pod, and by Snakemake with the official plugin, which
gets its own environment the first time. Prints the seconds from the first request of the process
until the last input came, the requests until then, and how many waited at a time. With --cluster
the job also runs by `byok8s run` in a pod of that cluster, with the proxy before the cluster's S3
server; counted are the pod's requests, from its first one on.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1] / "test"))

import official
from byok8s.cluster import ClusterInfo, find_by_context
from byok8s.progress import reporter
from byok8s.storage.objects import Objects
from byok8s.worker.names import FACTS_VARIABLE, S3_VARIABLE, STORED_VARIABLE
from byok8s.worker.s3 import open_store
from byok8s.workflow.storage import Lead
from support.project import client_of, own_bucket
from support.s3proxy import Fault, S3Proxy
from transfer import server

LEAN, OURS, OFFICIAL = "byok8s, no Snakemake in the pod", "byok8s", "official"
POD = "byok8s, in a pod of a cluster"
SNAKEFILE = """
rule one:
    input: expand("in/{i}", i=range(COUNT))
    output: "out.txt"
    shell: "cat {input} > {output}"
"""
LEAN_FETCH = """
import sys
from pathlib import Path
from byok8s.worker import lean
from byok8s.worker.s3 import open_store
from byok8s.worker.spec import Command, File
from byok8s.worker.transfer import Transfers

files = tuple(File(f"run/in/{i}", f"in/{i}") for i in range(int(sys.argv[2])))
lean.prepare(Command("", 1, files, (), ()), Path(), Transfers(open_store(sys.argv[1])))
"""
SNAKEMAKE = """--target-jobs one: --allowed-rules one --cores 1 --force --nolock
    --ignore-incomplete --rerun-triggers code input mtime params software-env
    --mode remote --max-inventory-time 0 --shared-fs-usage none
    --max-jobs-per-timespan 1000/0s --default-storage-prefix"""


@dataclass
class TimedProxy(S3Proxy):
    """Notes when each request has waited."""

    moments: list[float] = field(default_factory=list)

    def take_fault(self, kind: str, key: str, sender: str) -> Fault | None:
        self.moments.append(time.monotonic())
        return super().take_fault(kind, key, sender)

    def reset(self) -> None:
        super().reset()
        self.moments.clear()

    def until_inputs_came(self) -> tuple[float, int, int]:
        """Seconds, requests, and how many waited at a time."""
        last = max(
            i for i, (kind, key) in enumerate(self.requests) if kind == "GET" and "in/" in key
        )
        who = self.senders[last]  # of a run on a cluster, the pod and not the leader
        moments = [self.moments[i] for i in range(last + 1) if self.senders[i] == who]
        waiting = (sum(m - self.latency < other <= m for m in moments) for other in moments)
        return max(moments) - min(moments) + self.latency, len(moments), max(waiting)


def fetch(side: str, python: Path, proxy: TimedProxy, bucket: str, count: int) -> None:
    where = f"s3://{bucket}/run"
    env = {**os.environ, "AWS_ENDPOINT_URL_S3": proxy.endpoint_url}
    command = [str(python), "-m", "snakemake", *SNAKEMAKE.split(), where]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "Snakefile").write_text(SNAKEFILE.replace("COUNT", str(count)))
        if side == LEAN:
            command = [sys.executable, "-c", LEAN_FETCH, bucket, str(count)]
        elif side == OURS:
            leader = Lead(bucket, "run", lambda name: Objects(open_store(name)))
            names = ("out.txt", *(f"in/{i}" for i in range(count)))
            Path(folder, "facts").write_text(
                json.dumps(leader.facts(f"{where}/{n}" for n in names))
            )
            env |= {FACTS_VARIABLE: f"{folder}/facts", STORED_VARIABLE: f"{folder}/stored"}
            env |= {S3_VARIABLE: json.dumps({"bucket": bucket})}
            command += ["--default-storage-provider", "byok8s"]
        else:
            env |= {
                "SNAKEMAKE_STORAGE_S3_ENDPOINT_URL": proxy.endpoint_url,
                "SNAKEMAKE_STORAGE_S3_ACCESS_KEY": env["AWS_ACCESS_KEY_ID"],
                "SNAKEMAKE_STORAGE_S3_SECRET_KEY": env["AWS_SECRET_ACCESS_KEY"],
            }
            command += ["--default-storage-provider", "s3"]
        proxy.reset()
        done = subprocess.run(
            command, check=False, cwd=folder, env=env, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"{side}: {done.stdout}{done.stderr}")


def in_a_pod(info: ClusterInfo, latency: float, count: int) -> tuple[float, int, int]:
    """The same job by `byok8s run` on a cluster."""
    assert info.s3 is not None
    s3 = client_of(info.s3)
    upstream, host = info.s3.endpoint_url, urlsplit(info.s3.endpoint_url).hostname or ""
    with (
        own_bucket(s3, f"bench-{uuid.uuid4().hex[:8]}") as bucket,
        TimedProxy(upstream, host, latency=latency) as proxy,
        tempfile.TemporaryDirectory() as folder,
    ):
        for i in range(count):
            s3.put_object(Bucket=bucket, Key=f"run/in/{i}", Body=b"x" * 1024)
        Path(folder, "Snakefile").write_text(SNAKEFILE.replace("COUNT", str(count)))
        for name in ("flow.json", "params.json"):
            Path(folder, name).write_text("{}")
        command = [str(Path(sys.executable).parent / "byok8s"), "run", "flow", "params"]
        where = ["-b", f"{bucket}/run", f"--context={info.context}"]
        env = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": info.s3.access_key,
            "AWS_SECRET_ACCESS_KEY": info.s3.secret_key,
        }
        done = subprocess.run(
            [*command, *where, f"--s3-endpoint-url={proxy.endpoint_url}"],
            check=False,
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(f"{POD}: {done.stdout}{done.stderr}")
        return proxy.until_inputs_came()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--inputs", type=int, default=20)
    parser.add_argument("--latency", type=float, default=0.05, metavar="SECONDS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cluster", help="also in a pod of this cluster of byok8s")
    options = parser.parse_args()
    info = find_by_context(f"byok8s-{options.cluster}") if options.cluster else None
    if options.cluster and (info is None or info.s3 is None):
        parser.error(f"there is no cluster '{options.cluster}' of byok8s with an S3 server")
    logging.disable()
    pythons = {LEAN: Path(sys.executable), OURS: Path(sys.executable)}
    pythons[OFFICIAL] = official.environment(reporter())
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as bucket:
        store = open_store(bucket)
        for i in range(options.inputs):
            store.put(f"run/in/{i}", b"x" * 1024)
        taken: dict[str, list[tuple[float, int, int]]] = {side: [] for side in pythons}
        with TimedProxy(os.environ["AWS_ENDPOINT_URL_S3"], latency=options.latency) as proxy:
            for _ in range(options.rounds):
                for side, python in pythons.items():
                    fetch(side, python, proxy, bucket, options.inputs)
                    taken[side].append(proxy.until_inputs_came())
                    store.delete(["run/out.txt"])
    if info:
        turns = range(options.rounds)
        taken[POD] = [in_a_pod(info, options.latency, options.inputs) for _ in turns]
    print("| | seconds, median | all | requests | waiting at a time |\n| - | - | - | - | - |")
    for side, rows in taken.items():
        seconds, requests, waiting = zip(*rows, strict=True)
        every = ", ".join(f"{s:.2f}" for s in seconds)
        print(f"| {side} | {statistics.median(seconds):.2f} | {every} | {max(requests)} | "
              f"{max(waiting)} |")  # fmt: skip


if __name__ == "__main__":
    main()
