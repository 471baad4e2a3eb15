"""Flame graphs of where the time of a leader or a transfer goes: flame.py WHAT... [--into FOLDER].

    .venv/bin/python bench/flame.py one fifty thousand get-5 --into docs/profiles

WHAT is one of workloads.py, which runs on the cluster that byok8s made (--cluster NAME, default
dev) in a bucket of its own; or `leader-N`, which is bench/leader.py with N independent jobs; or
`put-N` or `get-N`, which is a worker's transfer of N GB as in bench/transfer.py, both without a
cluster. Writes FOLDER/WHAT.svg, and prints what takes most. Samples are taken from outside by
py-spy, which uv fetches, and which needs the right to look into other processes.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import secrets
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "test"))

from byok8s.cluster import find_by_context
from support.project import client_of, own_bucket
from workloads import WORKLOADS

HERE = Path(__file__).parent
PY_SPY = "py-spy==0.4.1"
LEAST = 0.4  # percent of all samples, of a frame that is drawn
# The thread that holds the interpreter: of one that waits py-spy does not always know that it does
LEADER = ["--gil", "--rate=500"]
TRANSFER = ["--rate=100"]  # all threads that py-spy takes for busy; more samples would slow it down
_FRAME = re.compile(r"<g><title>([^<]*?) \([\d,]+ samples?, ([\d.]+)%\)</title>.*?</g>", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("whats", nargs="+", metavar="WHAT")
    parser.add_argument("--into", type=Path, default=Path("."))
    parser.add_argument("--cluster", default="dev")
    options = parser.parse_args()
    options.into.mkdir(parents=True, exist_ok=True)
    for name in options.whats:
        target = options.into.resolve() / f"{name}.svg"
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            project = Path(folder, "project")
            match name.split("-"):
                case ["leader", jobs]:
                    command, of = null_run(project, int(jobs)), LEADER
                case ["put" | "get" as direction, gigabytes]:
                    turn = transfer(project, direction, float(gigabytes))
                    command, of = stack.enter_context(turn), TRANSFER
                case _:
                    run = cluster_run(project, name, options.cluster)
                    command, of = stack.enter_context(run), LEADER
            record(command, project, target, f"byok8s: {name}", of)
        print(f"{target}\n{summary(target)}\n", flush=True)


@contextmanager
def cluster_run(project: Path, name: str, cluster: str) -> Iterator[list[str]]:
    """`byok8s run` of a workload on the cluster, in a bucket of its own."""
    info = find_by_context(f"byok8s-{cluster}")
    if info is None or info.s3 is None:
        sys.exit(f"There is no cluster '{cluster}' with an S3 server; run: byok8s cluster create")
    WORKLOADS[name].write(project)
    script = str(Path(sys.executable).parent / "byok8s")
    with own_bucket(client_of(info.s3), f"flame-{secrets.token_hex(4)}") as bucket:
        yield [script, "run", "flow", "params", "-b", bucket, f"--context={info.context}"]


def null_run(project: Path, jobs: int) -> list[str]:
    """bench/leader.py with pods that do nothing."""
    import leader

    project.mkdir()
    (project / "Snakefile").write_text(leader.SNAKEFILE.format(jobs=jobs))
    given = json.dumps({"jobs": jobs, "scheduler": "byok8s", "step": False})
    return [str(HERE / "leader.py"), "--one", given]


@contextmanager
def transfer(project: Path, direction: str, gigabytes: float) -> Iterator[list[str]]:
    """One transfer of bench/transfer.py by byok8s's worker, to or from a server of its own."""
    import transfer as bench

    project.mkdir()
    original = project / "original"
    bench.make_file(original, int(gigabytes * 1e9))
    with bench.server(project) as bucket:
        path = original
        if direction == "get":
            bench.measure("put", "byok8s", bucket, original)
            path = project / "copy"
        yield [str(HERE / "transfer.py"), "--turn", direction, "byok8s", bucket, str(path)]


def record(command: list[str], project: Path, target: Path, title: str, of: list[str]) -> None:
    """Run a Python script to its end, with samples of some of its threads."""
    uv = str(Path(sys.executable).parent / "uv")
    spy = [uv, "tool", "run", "--quiet", "--from", PY_SPY, "py-spy", "record"]
    how = [*of, "--format", "flamegraph", "--output", str(target)]
    done = subprocess.run(
        [*spy, *how, "--", sys.executable, *command],
        check=False,
        cwd=project,
        capture_output=True,
        text=True,
    )
    if done.returncode or not target.exists():
        sys.exit(f"{title} could not be sampled:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    # the title is the whole command line, with this machine's folders
    text = re.sub(
        r'(<text id="title"[^>]*>).*?(</text>)', rf"\g<1>{title}\g<2>", target.read_text()
    )
    # thousands of frames that nobody can see make up most of the file
    target.write_text(_FRAME.sub(lambda f: f[0] if float(f[2]) >= LEAST else "", text))


def summary(flame: Path, most: int = 15) -> str:
    """The functions with the most samples of their own or of what they call."""
    shares: Counter[str] = Counter()
    for name, share in _FRAME.findall(flame.read_text()):
        function = html.unescape(name)
        shares[function] = max(shares[function], round(float(share) * 100))
    return "\n".join(f"{share / 100:6.1f} %  {name}" for name, share in shares.most_common(most))


if __name__ == "__main__":
    main()
