"""Runs of a workflow of thirty jobs while faults drawn from a seed strike.

    .venv/bin/python bench/chaos --seeds 1-200 --at-once 4

Needs a cluster of the native driver (byok8s cluster create) that nobody else uses: some faults hit
its node. Each seed has a namespace, a prefix, a folder and proxies of its own, which are gone
afterwards; of a seed that failed, what its leaders wrote stays in the folder of --keep.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # the package, not what is in it
sys.path.insert(1, str(Path(__file__).parents[2] / "test"))

from byok8s.exceptions import Byok8sError  # noqa: E402

from chaos.faults import draw  # noqa: E402
from chaos.suite import Verdict, as_json, find_cluster, run_seeds, table, totals  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="1-25", help="such as 3 or 1-25 or 1-10,17")
    parser.add_argument("--at-once", type=int, default=4, help="seeds (default 4)")
    parser.add_argument("--cluster", default="dev")
    parser.add_argument("--keep", type=Path, help="folder for what failed (default: a new one)")
    parser.add_argument("--json", type=Path, help="write the records of all runs there")
    parser.add_argument("--show", action="store_true", help="only print the faults of the seeds")
    options = parser.parse_args()
    seeds = _seeds(options.seeds)
    if options.show:
        for seed in seeds:
            print(seed, *draw(seed), sep="\n    ")
        return 0
    keep = options.keep or Path(tempfile.mkdtemp(prefix="byok8s-chaos-"))
    began = time.monotonic()
    try:
        info = find_cluster(options.cluster)
        verdicts = run_seeds(info, seeds, options.at_once, keep, _tell)
    except Byok8sError as error:
        print(error, file=sys.stderr)
        return 1
    failed = [verdict for verdict in verdicts if verdict.findings]
    print(f"\n{table(verdicts)}\n")
    print(
        f"{len(verdicts)} seeds, {options.at_once} at once, in {time.monotonic() - began:.0f} s on "
        f"{os.cpu_count()} cores (load {os.getloadavg()[0]:.1f} at the end), Python "
        f"{platform.python_version()}; {len(failed)} failed\n{totals(verdicts)}"
    )
    for verdict in failed:
        print(verdict)
    if options.json:
        options.json.write_text(json.dumps(as_json(verdicts), indent=1))
    if not failed and not options.keep:
        keep.rmdir()
    return 1 if failed else 0


def _seeds(text: str) -> list[int]:
    found = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _tell(verdict: Verdict) -> None:
    record = verdict.record
    kinds = ", ".join(struck.kind for struck in record.struck)
    print(
        f"{'FAILED' if verdict.findings else 'right'}  seed {record.seed}: {record.seconds:.0f} s, "
        f"{len(record.leads)} leaders, {len(record.executions)} executions; {kinds}",
        flush=True,
    )
    for text in verdict.briefly():
        print(f"        {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
