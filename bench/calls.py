"""Calls of the Kubernetes API for each job: byok8s, the official executor, Toil.

    .venv/bin/python bench/calls.py

byok8s and the official executor run the workflow of 50 small rules and one gather; Toil's
Kubernetes batch system runs 50 pods that do nothing. Counted where the leader's Kubernetes client
sends (counted.py). A busy machine makes pods slower, and so raises the counts of those who ask
again and again. Needs a cluster of the native driver.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import official
from byok8s.cluster.native.shell import run
from byok8s.exceptions import Byok8sError
from byok8s.progress import Reporter, reporter
from compare import APART, HERE, OURS, SIDES, Bench, header, prepared
from workloads import WORKLOADS

# With client 37, Toil takes the 404 of a cluster without a metrics service for an error of its own
TOIL = ("toil[kubernetes]==9.6.0", "kubernetes==33.1.0")
TOIL_SIDE = "Toil 9.6.0, pods that only run `true`"
OFFICIAL = [side for side in SIDES if side.startswith("official")]
JOBS = 50


def toil_calls(bench: Bench, report: Reporter) -> dict[str, int]:
    """Run Toil's batch system by itself; its calls by verb."""
    python = official.environment_of("bench-toil", TOIL, report)
    with (
        report.step(TOIL_SIDE),
        tempfile.TemporaryDirectory() as scratch,
        bench.namespace() as namespace,
    ):
        kubeconfig, counts = Path(scratch, "kubeconfig"), Path(scratch, "calls.json")
        shutil.copy(bench.kubeconfig, kubeconfig)
        place = ["config", "set-context", "--current", f"--namespace={namespace}"]
        run(["kubectl", f"--kubeconfig={kubeconfig}", *place])
        words = json.dumps({"image": bench.image, "jobs": JOBS})
        script = [str(HERE / "counted.py"), str(counts), str(HERE / "toil_leader.py"), words]
        run(["env", f"KUBECONFIG={kubeconfig}", str(python), *script], timeout=900)
        calls: dict[str, int] = json.loads(counts.read_text())
    return calls


def row(side: str, jobs: int, calls: dict[str, int]) -> str:
    by_verb = ", ".join(f"{verb} {number}" for verb, number in sorted(calls.items()))
    total = sum(calls.values())
    return f"| {side} | {jobs} | {total / jobs:.1f} | {total}: {by_verb} |"


def rows(bench: Bench, sides: Iterable[str], report: Reporter) -> None:
    print(header(bench), "", "| | jobs | calls for each | calls |", "|---|---|---|---|", sep="\n")
    fifty = WORKLOADS["fifty"]
    for side in sides:
        if side == TOIL_SIDE:
            print(row(side, JOBS, toil_calls(bench, report)), flush=True)
        else:
            timing = bench.time(fifty, side, count=True)
            print(row(side, fifty.jobs, timing.calls), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cluster", default="dev")
    default = ";".join((OURS, APART, *OFFICIAL, TOIL_SIDE))
    parser.add_argument("--sides", default=default, help="separated by semicolons")
    options = parser.parse_args()
    report = reporter()
    try:
        with prepared(options.cluster, report) as bench:
            rows(bench, options.sides.split(";"), report)
    except Byok8sError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
