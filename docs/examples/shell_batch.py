"""Run shell commands, each in a pod of its own: a batch with byok8s.batch, and no Snakemake.

    python docs/examples/shell_batch.py FILE --image busybox

Each line of FILE (- is the standard input) is one command. What becomes of each is printed, with
what it wrote. Exit code: how many have failed, at most 100. Interrupted, it removes its pods;
killed, its pods run on, and the same command goes on with them.
"""

from __future__ import annotations

import argparse
import getpass
import heapq
import sys
import time
from collections import defaultdict
from pathlib import Path

from byok8s.batch import (
    BatchSystem,
    History,
    KubeClient,
    NeverFits,
    PodRequest,
    RetryPolicy,
    RunIdentity,
    Update,
)
from byok8s.exceptions import Byok8sError
from byok8s.settings import KubeSettings


def main() -> int:
    options = parser().parse_args()
    text = sys.stdin.read() if options.file == "-" else Path(options.file).read_text()
    requests = {
        f"line-{number}": PodRequest(
            f"line-{number}",
            image=options.image,
            command=("/bin/sh", "-c", line),
            cpu=options.cpu,
            memory_mb=options.memory_mb,
            deadline_seconds=options.seconds,
        )
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip()
    }
    client = KubeClient.load(KubeSettings(context=options.context, namespace=options.namespace))
    with BatchSystem(client, RunIdentity(options.name, getpass.getuser())) as batch:
        for variable in options.env:
            name, _, value = variable.partition("=")
            batch.set_env(name, value)
        return min(100, work(batch, requests, RetryPolicy(retries=options.retries)))


def work(batch: BatchSystem, requests: dict[str, PodRequest], policy: RetryPolicy) -> int:
    """Have all run, print what becomes of each, and return how many failed."""
    histories: dict[str, History] = defaultdict(History)
    later: list[tuple[float, str]] = []  # when which job is tried again
    left, failed = set(requests), 0
    for job, request in requests.items():
        try:
            batch.check(request)
            batch.issue(request)
        except NeverFits as error:
            left.remove(job)
            failed += 1
            print(f"{job}: not issued. {error}", flush=True)
    while left:
        while later and later[0][0] <= time.monotonic():
            batch.issue(requests[heapq.heappop(later)[1]])
        news = batch.updates(timeout=0.5)
        if news is None or news.state == "running":
            continue
        print(describe(news), flush=True)
        if news.state == "waiting":
            continue
        decision = None
        if news.state == "failed":
            decision = policy.decide(
                news,
                requests[news.id],
                histories[news.id],
                most_memory_mb=batch.most_memory_mb(),
            )
        if decision and decision.retry:
            print(f"{news.id}: {decision.message}", flush=True)
            histories[news.id] = decision.history
            requests[news.id] = decision.next_request(requests[news.id])
            heapq.heappush(later, (time.monotonic() + decision.wait_seconds, news.id))
            continue
        for line in batch.logs(news.id).splitlines():
            print(f"{news.id} | {line}", flush=True)
        left.remove(news.id)
        failed += news.state == "failed"
    return failed


def describe(news: Update) -> str:
    seconds = "" if news.wall_seconds is None else f" after {news.wall_seconds:.0f} s"
    return f"{news.id}: {news.state}{seconds}{news.message and f'. {news.message}'}"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("file", metavar="FILE", help="commands, one a line; -: the standard input")
    made.add_argument("--image", required=True, help="any image with /bin/sh")
    made.add_argument("--context", help="of the kubeconfig; default: the current one")
    made.add_argument("--namespace", help="default: the context's")
    made.add_argument("--name", default="shell-batch", help="of the run: a DNS label")
    made.add_argument("--cpu", type=float, default=1.0, help="for each command")
    made.add_argument("--memory-mb", type=int, help="for each command; also its limit")
    made.add_argument("--seconds", type=int, help="that a command may take")
    made.add_argument("--retries", type=int, default=0, help="of a command that failed by itself")
    made.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    return made


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Byok8sError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
