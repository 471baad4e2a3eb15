"""What a job costs the leader, without cluster and S3: leader.py [--jobs 1000,20000].

Runs workflows of N independent jobs through byok8s's own executor, storage provider and records,
with pods that do nothing (nullbatch.py) and a bucket in memory; once with Snakemake's scheduling as
it is shipped (greedy) and once with byok8s's, in processes of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).parent
SNAKEFILE = """\
rule all:
    input: expand("out/{{i}}.txt", i=range({jobs}))
rule small:
    output: "out/{{i}}.txt"
    shell: "echo {{wildcards.i}} > {{output}}"
"""
MEGA = 1e6


@dataclass
class Measured:
    """CPU in seconds of the whole process; memory in bytes."""

    jobs: int
    scheduler: str
    plan: float = 0.0  # reading the Snakefile and building the DAG
    step: float = 0.0  # the first scheduling step: which jobs start
    select: float = 0.0  # of it and all later ones, the scheduler plugin's part
    run: float = 0.0  # from the DAG to the end, without what pods would do
    wall: float = 0.0  # of the same
    memory: float = 0.0  # most, above that of a run of one job

    def row(self) -> str:
        each = self.jobs / 1000
        return (
            f"| {self.jobs} | {self.scheduler} | {self.plan / each:.2f} | {self.run / each:.2f} | "
            f"{self.select / each:.3f} | {self.step:.2f} s | {self.wall:.1f} s | "
            f"{self.memory / self.jobs / 1000:.1f} |"
        )


HEAD = (
    "| jobs | scheduler | plan, ms CPU per job | run, ms CPU per job | of it choosing | "
    "first step | wall of the run | memory, KB per job |\n|" + " --- |" * 8
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", default="1000,20000")
    parser.add_argument("--schedulers", default="greedy,byok8s")
    parser.add_argument("--step", type=int, metavar="JOBS", help="only plan, and choose once")
    parser.add_argument("--profile", type=Path, help="write a cProfile of each run there")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(asdict(one(**json.loads(options.one)))))
        return
    if options.step:
        found = child(options.step, "byok8s", None, step=True)
        print(
            f"{found.jobs} jobs: the scheduler chose in {found.select:.2f} s; the whole step, with "
            f"resources and params, took {found.step:.1f} s, planning {found.plan:.0f} s of CPU; "
            f"{found.memory / found.jobs / 1000:.0f} KB per job"
        )
        return
    base = child(1, "byok8s", None).memory
    print(HEAD, flush=True)
    done: dict[tuple[int, str], Measured] = {}
    for jobs in map(int, options.jobs.split(",")):
        for scheduler in options.schedulers.split(","):
            measured = child(jobs, scheduler, options.profile)
            measured.memory -= base
            done[jobs, scheduler] = measured
            print(measured.row(), flush=True)
    for jobs in sorted({jobs for jobs, _ in done}):
        theirs, ours = (done.get((jobs, name)) for name in ("greedy", "byok8s"))
        if theirs and ours:
            print(f"{jobs} jobs: greedy takes {theirs.run / ours.run:.1f} times the CPU of byok8s")


def child(jobs: int, scheduler: str, profile: Path | None, step: bool = False) -> Measured:
    """Measure in a process and a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Snakefile").write_text(SNAKEFILE.format(jobs=jobs))
        given: dict[str, Any] = {"jobs": jobs, "scheduler": scheduler, "step": step}
        if profile:
            profile.mkdir(parents=True, exist_ok=True)
            given["profile"] = str((profile / f"{scheduler}-{jobs}.prof").resolve())
        done = subprocess.run(
            [sys.executable, str(HERE / "leader.py"), "--one", json.dumps(given)],
            cwd=folder,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def one(jobs: int, scheduler: str, step: bool, profile: str | None = None) -> Measured:
    """Run the Snakefile of this folder; with `step`, until the first jobs are chosen."""
    sys.path.insert(0, str(HERE.parent / "test"))
    import snakemake.api
    from byok8s.workflow import api, rounds, tuning
    from byok8s.workflow.scheduler import Scheduler, SchedulerSettings
    from nullbatch import NullBatch
    from snakemake.scheduling.greedy import Scheduler as Greedy

    measured = Measured(jobs, scheduler)
    choose = Scheduler.select_jobs
    if scheduler == "greedy":  # and the rest of Snakemake's core as it is shipped
        choose = Greedy.select_jobs
        SchedulerSettings.greediness = 1.0  # type: ignore[attr-defined]
        rounds.Rounds = snakemake.workflow.JobScheduler
        tuning.tune = lambda workflow: None

    def select(self: Any, *arguments: Any) -> Any:
        began = time.thread_time()
        chosen = choose(self, *arguments)
        measured.select += time.thread_time() - began
        return chosen

    Scheduler.select_jobs = select  # type: ignore[method-assign]
    times: dict[str, tuple[float, float]] = {}

    def note(name: str) -> None:
        times.setdefault(name, (time.process_time(), time.monotonic()))
        if step and name == "opened":
            sum_up(measured, times)
            print(json.dumps(asdict(measured)), flush=True)
            os._exit(0)

    plan, parts = prepare(jobs, note)
    note("began")
    with profiled(profile):
        api.execute(plan, parts)
    note("ended")
    measured.run = times["ended"][0] - times["planned"][0] - NullBatch.seconds
    measured.wall = times["ended"][1] - times["planned"][1]
    sum_up(measured, times)
    return measured


def sum_up(measured: Measured, times: dict[str, tuple[float, float]]) -> None:
    measured.plan = times["planned"][0] - times["began"][0]
    measured.step = times["opened"][1] - times["planned"][1]
    measured.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def prepare(jobs: int, note: Any) -> tuple[Any, Any]:
    """A run in a bucket in memory, whose pods do nothing."""
    import byok8s.batch
    from byok8s.batch import RunIdentity
    from byok8s.run.display import Display
    from byok8s.run.story import MAX_PODS
    from byok8s.settings import S3Location, S3Settings
    from byok8s.storage.account import Account, Credentials
    from byok8s.workflow import api, bucket
    from byok8s.workflow.session import Session
    from nullbatch import NullBatch
    from support.memory import MemoryBucket

    byok8s.batch.BatchSystem = NullBatch  # type: ignore[assignment, misc]
    bucket.open_bucket = lambda *_, **__: memory  # type: ignore[assignment]
    memory = MemoryBucket()

    class Noted(Display):
        def planned(self, counts: Any) -> None:
            note("planned")
            super().planned(counts)

    Path("params.json").write_text("{}")
    account = Account.fixed("the benchmark", Credentials("key", "secret"))
    s3 = S3Settings(S3Location("memory", "run"), "http://127.0.0.1:1", "us-east-1")
    whole = bucket.WorkflowBucket.of(s3, account, Path.cwd())
    run = RunIdentity(name="bench", owner="bench")
    listener = Noted(open(os.devnull, "w"))  # noqa: SIM115 (until the end)
    session = Session(
        client=None,  # type: ignore[arg-type]
        lease=SimpleNamespace(run=run, started="now", before=None),  # type: ignore[arg-type]
        s3=s3,
        objects=whole.objects,
        credentials=lambda: account.current().as_ini(),
        image="none",
        listener=listener,
        workdir=Path.cwd(),
        configfile=Path.cwd() / "params.json",
        inputs=whole.inputs,
        leader=whole.leader,
        on_open=lambda: note("opened"),
        share_pods=False,
    )
    parts = api.Parts(listener=listener, session=session)
    whole.equip(parts)
    plan = api.Plan(
        snakefile=Path("Snakefile"),
        configfile=Path.cwd() / "params.json",
        jobs=MAX_PODS,
        storage_prefix="s3://memory/run",
    )
    return plan, parts


@contextmanager
def profiled(target: str | None) -> Iterator[None]:
    """Profile the main thread."""
    if target is None:
        yield
        return
    import cProfile

    profile = cProfile.Profile()
    profile.enable()
    try:
        yield
    finally:
        profile.disable()
        profile.dump_stats(target)


if __name__ == "__main__":
    main()
