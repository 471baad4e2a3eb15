"""The worker's own time before the user's command: worker.py [--cluster NAME] [--jobs N].

Runs N jobs (default 20) of one rule with one input, one after another, each in a pod of its own;
and as many times the same worker on this machine, against the same S3 server. Each command tells
how old the process is that started it: from the start of Python until the sources and the input
are there. Times in hundredths of a second, as Linux keeps them.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from byok8s.cluster import S3Server, find_by_context
from byok8s.worker.archive import packed
from byok8s.worker.names import JOB_VARIABLE, S3_VARIABLE
from byok8s.worker.s3 import open_bucket
from byok8s.worker.spec import Bucket, Command, File, JobSpec

_BUCKET = "byok8s"
_TICKS = os.sysconf("SC_CLK_TCK")
# How old the parent is, which is the worker: now and its start, in seconds and ticks since boot
AGE = "read -r now _ </proc/uptime; read -ra stat </proc/$PPID/stat; echo $now ${stat[21]}"
SNAKEFILE = """
rule all:
    input: expand("out/{i}.txt", i=range(int(config["jobs"])))

rule age:
    input: "in.txt"
    output: "out/{i}.txt"
    resources: bundle=0
    shell: "%s > {output}"
"""
# The worker, but that its report goes to the folder where it is started
_WORKER = """
import sys
from byok8s.worker import job
job.TERMINATION_LOG = "report"
from byok8s.worker.__main__ import main
sys.exit(main())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cluster", default="dev")
    parser.add_argument("--jobs", type=int, default=20)
    given = parser.parse_args()
    info = find_by_context(f"byok8s-{given.cluster}")
    if info is None or info.s3 is None:
        sys.exit(f"There is no cluster {given.cluster}; make it: byok8s cluster create")
    with prefix(info.s3) as (store, name):
        report("on this machine", on_this_machine(info.s3, store, name, given.jobs))
        report("in pods", in_pods(info.context, store, name, given.jobs))


@contextmanager
def prefix(server: S3Server) -> Iterator[tuple[Any, str]]:
    """A new prefix of the cluster's bucket, emptied at the end."""
    os.environ |= {
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
    }
    store = open_bucket(Bucket(_BUCKET, server.endpoint_url, server.region), None)
    name = f"bench-{secrets.token_hex(4)}"
    try:
        yield store, name
    finally:
        for page in store.list(name):
            store.delete([entry["path"] for entry in page])


def in_pods(context: str, store: Any, name: str, jobs: int) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        snakefile = SNAKEFILE % AGE.replace("{", "{{").replace("}", "}}")
        (Path(folder) / "Snakefile").write_text(snakefile)
        (Path(folder) / "flow.json").write_text("{}")
        (Path(folder) / "params.json").write_text(json.dumps({"jobs": jobs}))
        (Path(folder) / "in.txt").write_text("one kilobyte\n" * 77)
        command = ["byok8s", "run", "flow", "params", "-b", f"{_BUCKET}/{name}", "-j", "1"]
        command += [f"--context={context}"]
        subprocess.run(
            [str(Path(sys.executable).parent / command[0]), *command[1:]],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
    return [age(store, f"{name}/out/{i}.txt") for i in range(jobs)]


def on_this_machine(server: S3Server, store: Any, name: str, jobs: int) -> list[float]:
    archive = _archive()
    store.put(f"{name}/sources", archive)
    store.put(f"{name}/in.txt", b"one kilobyte\n" * 77)
    ages = []
    for i in range(jobs):
        key = f"{name}/here/{i}.txt"
        command = Command(
            f"{AGE} > out.txt", 1, (File(f"{name}/in.txt", "in.txt"),), (File(key, "out.txt"),), ()
        )
        digest = sha256(archive).hexdigest()
        spec = JobSpec(
            f"{name}/sources", digest, ".", (), f"{name}/log", f"{name}/result", command=command
        )
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                [sys.executable, "-P", "-c", _WORKER],
                check=True,
                cwd=folder,
                stdout=subprocess.DEVNULL,
                env={
                    **os.environ,
                    JOB_VARIABLE: spec.dumps(),
                    S3_VARIABLE: Bucket(_BUCKET, server.endpoint_url, server.region).dumps(),
                },
            )
        ages.append(age(store, key))
    return ages


def _archive() -> bytes:
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(SNAKEFILE)
        file.flush()
        return packed({"Snakefile": Path(file.name)})


def age(store: Any, key: str) -> float:
    """What a command wrote, in seconds."""
    now, start = bytes(store.get(key).bytes()).decode().split()
    return float(now) - int(start) / _TICKS


def report(where: str, ages: list[float]) -> None:
    middle = statistics.median(ages)
    print(f"{where}: median {middle:.2f} s of {len(ages)}, {min(ages):.2f} to {max(ages):.2f} s")


if __name__ == "__main__":
    main()
