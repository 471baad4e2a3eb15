"""The official Kubernetes executor with the S3 plugin and byok8s, side by side on one cluster.

    .venv/bin/python bench/compare.py

Both run the same Snakefiles in turns, each with a fresh prefix of a bucket, in a namespace made
for it; afterwards neither is left. Needs a cluster of the native driver (byok8s cluster create).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "test"))

import byok8s
import cpu
import official
from byok8s.batch import KubeClient
from byok8s.cluster import ClusterInfo, find_by_context
from byok8s.cluster.native import loading
from byok8s.cluster.native.layout import Layout
from byok8s.cluster.native.shell import run
from byok8s.cluster.store import S3Server
from byok8s.exceptions import Byok8sError, ClusterError
from byok8s.progress import Reporter, reporter
from byok8s.settings import KubeSettings
from counting import S3Proxy
from floor import bare_pods
from quiet import Strangers, own_namespace, wait_until_quiet, wait_until_swept
from support.project import client_of, own_bucket
from workloads import WORKLOADS, Workload

HERE = Path(__file__).parent
OURS = "byok8s"
# The plugin looks every 10 s unless told otherwise (--seconds-between-status-checks); 1 is its best
APART = "byok8s, a pod for each job"
HERE_ALONE = "Snakemake on this machine, local files"
FLOOR = "as many bare pods that run `true`"
SIDES = {
    "official, as it comes": 10,
    "official, looking every second": 1,
    APART: 0,
    OURS: 0,
    HERE_ALONE: 0,
    FLOOR: 0,
}
TIMEOUT_SECONDS = 900


@dataclass
class Timing:
    """One run: wall time and CPU by whom, in seconds; counts when they were asked for."""

    workload: Workload
    side: str
    seconds: float
    cpu: dict[str, float]
    quiet: bool
    calls: dict[str, int] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)


@dataclass
class Bench:
    """What the runs share."""

    info: ClusterInfo
    server: S3Server
    layout: Layout
    client: KubeClient
    kubeconfig: Path
    bucket: str
    s3: Any
    official_python: Path
    image: str
    official_image: str
    report: Reporter

    def time_in_peace(self, workload: Workload, side: str, tries: int) -> Timing:
        """As `time`, and again when something else disturbed it."""
        for _ in range(tries):
            timing = self.time(workload, side, count=False)
            if timing.quiet:
                break
            self.report.note("Something else ran on the cluster meanwhile.")
        return timing

    def time(self, workload: Workload, side: str, *, count: bool) -> Timing:
        """Run a workload once; raises ClusterError when its result is not in the bucket."""
        prefix = f"{workload.name}-{uuid.uuid4().hex[:8]}"
        if not count:  # counts are the same on a busy machine
            wait_until_swept(self.client, self.layout)
        quiet = count or wait_until_quiet(self.client)
        with (
            self.report.step(f"{workload.title}: {side}{' (counting)' * count}"),
            tempfile.TemporaryDirectory() as scratch,
            own_namespace(self.client) as namespace,
            S3Proxy(self.server.endpoint_url) as proxy,
            Strangers(self.client, namespace) as strangers,
        ):
            project = Path(scratch, "project")
            workload.write(project)
            endpoint = proxy.url if count else self.server.endpoint_url
            command = self._command(side, namespace, prefix, endpoint)
            counts = Path(scratch, "calls.json")
            if count:
                command = [command[0], str(HERE / "counted.py"), str(counts), *command[1:]]
            if side == FLOOR:
                before = cpu.usage(self.layout)
                seconds = bare_pods(self.client, namespace, self.image, workload.jobs)
                used = cpu.between(before, cpu.usage(self.layout), 0.0)
            else:
                seconds, used = self._run(command, project, endpoint, Path(scratch, "log"))
            if side == HERE_ALONE:
                _check_file(workload, project)
            elif side != FLOOR:
                self._check(workload, prefix, Path(scratch, "log"))
            self.report.note(f"{side}: {seconds:.1f} s")
            timing = Timing(workload, side, seconds, used, quiet and not strangers.seen)
            if count:
                timing.calls = json.loads(counts.read_text())
                for (who, _), number in proxy.requests.items():
                    timing.requests[who] = timing.requests.get(who, 0) + number
        return timing

    def _command(self, side: str, namespace: str, prefix: str, endpoint: str) -> list[str]:
        """A Python, its script and the arguments."""
        if side == HERE_ALONE:
            snakemake = ["-m", "snakemake", "--quiet", "all", f"--cores={os.cpu_count()}"]
            return [sys.executable, *snakemake, "--configfile", "params.json"]
        if side in (OURS, APART):
            script = Path(sys.executable).parent / "byok8s"
            where = ["-b", f"{self.bucket}/{prefix}", "-k", namespace]
            cluster = [f"--context={self.info.context}", f"--image={self.image}"]
            how = ["--no-bundle"] if side == APART else []
            return [sys.executable, str(script), "run", "flow", "params", *where, *cluster, *how]
        words = {
            "image": self.official_image,
            "namespace": namespace,
            "prefix": f"s3://{self.bucket}/{prefix}",
            "endpoint": endpoint,
            "region": self.server.region,
            "seconds_between_checks": SIDES[side],
        }
        script = HERE / "official_leader.py"
        return [str(self.official_python), str(script), json.dumps(words)]

    def _run(
        self, command: list[str], folder: Path, endpoint: str, log: Path
    ) -> tuple[float, dict[str, float]]:
        """Wall seconds of a command's whole process, and CPU seconds by whom."""
        env = {
            **os.environ,
            "KUBECONFIG": str(self.kubeconfig),
            "AWS_ACCESS_KEY_ID": self.server.access_key,
            "AWS_SECRET_ACCESS_KEY": self.server.secret_key,
            "AWS_ENDPOINT_URL_S3": endpoint,
            "AWS_REGION": self.server.region,
        }
        before = cpu.usage(self.layout)
        began = time.monotonic()
        with log.open("wb") as stream:
            # not subprocess: wait4 tells the CPU time of this one child and its children
            actions = [(os.POSIX_SPAWN_DUP2, stream.fileno(), fd) for fd in (1, 2)]
            with _working_in(folder):
                pid = os.posix_spawn(command[0], command, env, file_actions=actions)
            try:
                _, status, used = os.wait4(pid, 0)
            except BaseException:
                os.kill(pid, signal.SIGKILL)  # on SIGTERM the official one waits for its jobs
                os.waitpid(pid, 0)
                raise
        seconds = time.monotonic() - began
        if os.waitstatus_to_exitcode(status) != 0:
            raise ClusterError(f"{command[1]} failed:\n{_tail(log)}")
        after = cpu.usage(self.layout)
        return seconds, cpu.between(before, after, used.ru_utime + used.ru_stime)

    def _check(self, workload: Workload, prefix: str, log: Path) -> None:
        key = f"{prefix}/{workload.key}"
        body = self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read().decode()
        if body != workload.content:
            raise ClusterError(f"s3://{self.bucket}/{key} is wrong:\n{_tail(log)}")


@contextmanager
def prepared(cluster: str, report: Reporter) -> Iterator[Bench]:
    """Everything that runs need; afterwards nothing of it is in the cluster or the bucket."""
    info = find_by_context(f"byok8s-{cluster}")
    if info is None or info.s3 is None or info.driver != "native":
        raise ClusterError(
            f"There is no cluster '{cluster}' of the native driver; "
            f"run: byok8s cluster create {cluster} --driver native."
        )
    layout = Layout.of(cluster)
    python = official.environment(report)
    present = loading.refs(layout)
    ours, theirs = official.images(layout, report)
    client = KubeClient.load(KubeSettings(context=info.context))
    with (
        tempfile.TemporaryDirectory() as folder,
        _loaded_for_now(layout, {ours.ref, theirs.ref} - present),
        _bucket(info.s3) as (bucket, s3),
    ):
        kubeconfig = Path(folder, "kubeconfig")
        view = ["kubectl", "config", "view", "--raw", "--minify", "--flatten"]
        kubeconfig.write_text(run([*view, f"--context={info.context}"]))
        yield Bench(
            info=info,
            server=info.s3,
            layout=layout,
            client=client,
            kubeconfig=kubeconfig,
            bucket=bucket,
            s3=s3,
            official_python=python,
            image=ours.ref,
            official_image=theirs.ref,
            report=report,
        )


@contextmanager
def _loaded_for_now(layout: Layout, refs: Iterable[str]) -> Iterator[None]:
    try:
        yield
    finally:
        official.remove_images(layout, refs)


@contextmanager
def _bucket(server: S3Server) -> Iterator[tuple[str, Any]]:
    """A bucket of its own. Never empty: the official plugin deletes buckets that become so."""
    s3 = client_of(server)
    with own_bucket(s3, f"bench-{uuid.uuid4().hex[:8]}") as name:
        s3.put_object(Bucket=name, Key="marker", Body=b"")
        yield name, s3


@contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-40:])


def _times(runs: list[Timing]) -> str:
    """Markdown: wall times and ratios."""
    sides = [side for side in SIDES if any(t.side == side for t in runs)]
    ours = next((side for side in (OURS, APART) if side in sides), sides[0])
    lines = [
        f"| workload | {' | '.join(sides)} | as long as {ours} |",
        "|---" * (len(sides) + 2) + "|",
    ]
    for workload in dict.fromkeys(t.workload for t in runs):
        cells, medians = [], {}
        for side in sides:
            mine = [t for t in runs if t.workload == workload and t.side == side]
            medians[side] = statistics.median(t.seconds for t in mine)
            spread = sorted(t.seconds for t in mine)
            noise = "" if all(t.quiet for t in mine) else ", machine busy"
            several = f" ({spread[0]:.1f}–{spread[-1]:.1f})" if len(mine) > 1 else ""
            cells.append(f"{medians[side]:.1f} s{several}{noise}")
        ratios = [f"{medians[s] / medians[ours]:.2g}×" for s in sides if s != ours]
        lines.append(f"| {workload.title} | {' | '.join(cells)} | {' and '.join(ratios)} |")
    return "\n".join(lines)


def _cpu(runs: list[Timing]) -> str:
    """Markdown: where the CPU time of the largest workload went."""
    largest = max((t.workload for t in runs), key=lambda workload: workload.jobs)
    chosen = {t.side: t for t in runs if t.workload == largest}  # the last of each side
    lines = [f"| CPU seconds, {largest.title} | {' | '.join(chosen)} |"]
    lines.append("|---" * (len(chosen) + 1) + "|")
    for part in next(iter(chosen.values())).cpu:
        lines.append(f"| {part} | {' | '.join(f'{t.cpu[part]:.1f}' for t in chosen.values())} |")
    return "\n".join(lines)


def _counts(counted: list[Timing]) -> str:
    """Markdown: calls and requests of a run of their own, through the counting proxy."""
    lines = [
        f"| counted, {counted[0].workload.title} | jobs | leader: Kubernetes API calls per job "
        "| leader: S3 requests per job | pods: S3 requests per job |",
        "|---|---|---|---|---|",
    ]
    for t in counted:
        jobs = t.workload.jobs
        calls = ", ".join(f"{verb} {number}" for verb, number in sorted(t.calls.items()))
        leader, pods = (t.requests.get(who, 0) for who in ("leader", "pods"))
        lines.append(
            f"| {t.side} | {jobs} | {sum(t.calls.values()) / jobs:.1f} ({calls}) "
            f"| {leader / jobs:.1f} | {pods / jobs:.1f} |"
        )
    return "\n".join(lines)


def _check_file(workload: Workload, project: Path) -> None:
    if (project / workload.key).read_text() != workload.content:
        raise ClusterError(f"'{workload.key}' of {workload.title} is not what it should be.")


def header(bench: Bench) -> str:
    """When, where and what."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {memory:.0f} GiB, single node, "
        f"Kubernetes {bench.client.version()}; byok8s {byok8s.__version__}, "
        f"{official.snakemake()}, {official.EXECUTOR}, {official.STORAGE}, "
        f"Python {platform.python_version()}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cluster", default="dev")
    parser.add_argument("--workloads", default="one,diamond,fifty")
    default = ";".join(side for side in SIDES if side not in (HERE_ALONE, FLOOR))
    parser.add_argument("--sides", default=default, help="separated by semicolons")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each; the table has medians")
    parser.add_argument("--tries", type=int, default=3, help="of a run that others disturb")
    parser.add_argument("--count", action="store_true", help="also count API calls and requests")
    options = parser.parse_args()
    report = reporter()
    workloads = [WORKLOADS[name] for name in options.workloads.split(",")]
    sides = options.sides.split(";")
    try:
        with prepared(options.cluster, report) as bench:
            print(header(bench), flush=True)
            timings = [
                bench.time_in_peace(workload, side, options.tries)
                for workload in workloads
                for _ in range(options.repeat)
                for side in sides
            ]
            print("", _times(timings), "", _cpu(timings), sep="\n", flush=True)
            if options.count:
                counted = [bench.time(workloads[-1], side, count=True) for side in sides]
                print("", _counts(counted), sep="\n")
    except Byok8sError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
