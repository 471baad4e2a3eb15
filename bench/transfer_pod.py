"""One large file through one pod, in and out: a rule of byok8s beside bare obstore in such a pod.

    .venv/bin/python bench/transfer_pod.py                       # 5 GB, 3 rounds
    .venv/bin/python bench/transfer_pod.py --size 1 --rounds 2

The rule takes the file in and stores it, by a link; its pod tells how long either took. Then a
rule of the same image and resources gets and puts the same file with the least that obstore allows
(see transfer.py), which verifies nothing, and tells the same. They take turns. The disk has to hold
the file four times: the input, what a pod has, what it stores, and the original.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from byok8s.batch import KubeClient
from byok8s.cluster import find_by_context
from byok8s.settings import KubeSettings
from byok8s.worker.s3 import open_store
from byok8s.worker.spec import Result
from byok8s.worker.transfer import Transfers
from transfer import make_file
from worker import prefix

OURS, BARE = "byok8s", "obstore"
SNAKEFILE = """
rule ours:
    input: "in.bin"
    output: "ours/{n}.bin"
    resources: bundle=0, mem_mb=1000
    shell: "ln {input} {output}"

rule bare:
    input: "bare.py", "transfer.py"
    output: "bare/{n}.json"
    resources: bundle=0, mem_mb=1000
    shell: "python3 bare.py %s > {output}"
"""
BARE_TURN = """
import json, sys, time
from pathlib import Path
from byok8s.worker.s3 import open_store
from transfer import bare_get, bare_put

store, path = open_store(sys.argv[1]), Path("copy")
store.list(chunk_size=1).collect()  # the way to the server is known
times = [time.monotonic()]
for way, key in ((bare_get, "in.bin"), (bare_put, "bare.bin")):
    way(store, f"{sys.argv[2]}/{key}", path)
    times.append(time.monotonic())
print(json.dumps([times[1] - times[0], times[2] - times[1]]))
"""


@dataclass
class Ends:
    """Hears what the pods of a namespace tell at their ends."""

    client: KubeClient
    namespace: str
    results: list[Result] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def follow(self) -> None:
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        with self.client.stream(path, silence=600, watch="true") as lines:
            for line in lines:
                self.hear(json.loads(line)["object"])

    def hear(self, pod: dict[str, Any]) -> None:
        for status in pod.get("status", {}).get("containerStatuses", ()):
            ended = status["state"].get("terminated")
            if ended and ended.get("message") and pod["metadata"]["uid"] not in self.seen:
                self.seen.add(pod["metadata"]["uid"])
                self.results.append(Result.loads(ended["message"]))


@contextmanager
def namespace(client: KubeClient) -> Iterator[Ends]:
    name = f"bench-{uuid.uuid4().hex[:8]}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    client.create("/api/v1/namespaces", body)
    ends = Ends(client, name)

    def follow() -> None:
        with suppress(Exception):  # the namespace goes
            ends.follow()

    threading.Thread(target=follow, daemon=True).start()
    try:
        yield ends
    finally:
        client.delete(f"/api/v1/namespaces/{name}")


def write_project(folder: Path, bucket: str, name: str) -> None:
    (folder / "Snakefile").write_text(SNAKEFILE % f"{bucket} {name}")
    (folder / "flow.json").write_text("{}")
    (folder / "params.json").write_text("{}")
    (folder / "bare.py").write_text(BARE_TURN)
    shutil.copy(Path(__file__).parent / "transfer.py", folder)


def run(folder: Path, context: str, ends: Ends, where: str, target: str) -> None:
    command = [str(Path(sys.executable).parent / "byok8s"), "run", "flow", "params", target]
    command += ["-b", where, "-k", ends.namespace, f"--context={context}"]
    os.sync()
    done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{target}: {done.stdout}{done.stderr}")


Times = dict[str, list[tuple[float, float]]]


def measure(options: argparse.Namespace, info: Any, size: int) -> Times:
    times: Times = {OURS: [], BARE: []}
    client = KubeClient.load(KubeSettings(context=info.context))
    with prefix(info.s3) as (store, name), namespace(client) as ends:
        bucket = store.config["bucket"]
        where = f"{bucket}/{name}"
        transfers = Transfers(open_store(bucket, info.s3.endpoint_url, info.s3.region))
        with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
            make_file(Path(temporary, "in"), size)
            transfers.put_file(f"{name}/in.bin", Path(temporary, "in"))
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            write_project(folder, bucket, name)
            for n in range(options.rounds):
                for side in (OURS, BARE) if n % 2 == 0 else (BARE, OURS):
                    if side == OURS:
                        run(folder, info.context, ends, where, f"ours/{n}.bin")
                        told = [result for result in ends.results if result.bytes_in == size]
                        assert len(told) == n + 1, ends.results
                        taken = told[-1].fetch_seconds, told[-1].store_seconds
                        transfers.delete([f"{name}/ours/{n}.bin"])
                    else:
                        run(folder, info.context, ends, where, f"bare/{n}.json")
                        taken = json.loads(bytes(store.get(f"{name}/bare/{n}.json").bytes()))
                        transfers.delete([f"{name}/bare.bin"])
                    times[side].append(tuple(taken))
                    rates = (f"{size / seconds / 1e6:.0f}" for seconds in taken)
                    load = os.getloadavg()[0]
                    print(f"{side}: in {', out '.join(rates)} MB/s; load {load:.1f}", flush=True)
    return times


def report(times: Times, size: int) -> None:
    print(f"\n{size / 1e9:g} GB through one pod, {os.cpu_count()} cores, Python "
          f"{platform.python_version()}; medians of {len(times[OURS])}\n")  # fmt: skip
    print("| | byok8s, MB/s | obstore, MB/s | byok8s of obstore |\n| --- | --- | --- | --- |")
    ways = {"in": lambda t: t[0], "out": lambda t: t[1], "in and out": sum}
    for way, take in ways.items():
        ours, bare = (statistics.median(map(take, times[side])) for side in (OURS, BARE))
        share = 2 if way == "in and out" else 1
        rates = (share * size / seconds / 1e6 for seconds in (ours, bare))
        print(f"| {way} | {' | '.join(f'{rate:.0f}' for rate in rates)} | {bare / ours:.0%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--cluster", default="dev")
    parser.add_argument("--size", type=float, default=5, metavar="GB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="for the original (default: the system's)")
    options = parser.parse_args()
    info = find_by_context(f"byok8s-{options.cluster}")
    if info is None or info.s3 is None:
        parser.error(f"there is no cluster '{options.cluster}' of byok8s")
    size = int(options.size * 1e9)
    report(measure(options, info, size), size)


if __name__ == "__main__":
    main()
