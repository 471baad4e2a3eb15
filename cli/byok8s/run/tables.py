"""Runs and their pods as tables."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from byok8s.progress import elapsed
from byok8s.run.runs import jobs_of, led_by

if TYPE_CHECKING:
    from rich.table import Table

    from byok8s.batch.runs import Run


def print_runs(found: Iterable[Run], *, everywhere: bool) -> None:
    """A row per run."""
    heads = ["NAME", "OWNER", "STARTED (UTC)", "LEADER", "RUNNING", "WAITING", "ENDED"]
    rows = [
        [
            run.name,
            run.owner,
            _time(run.started),
            led_by(run),
            str(run.count("running")),
            str(run.count("waiting", "ending")),
            str(run.count("succeeded", "failed")),
        ]
        for run in found
    ]
    if everywhere:
        heads.insert(0, "NAMESPACE")
        rows = [[run.namespace, *row] for run, row in zip(found, rows, strict=True)]
    _print(heads, rows)


def print_status(run: Run) -> None:
    """What a run is, and a row per pod."""
    for name, text in _description(run):
        print(f"{name:<10} {text}")
    if run.pods:
        print()
        heads = ["JOB", "STATE", "FOR", "NODE", "POD", "WHY"]
        _print(heads, [_pod_row(run, i) for i in range(len(run.pods))])


def _description(run: Run) -> Iterator[tuple[str, str]]:
    yield "Run", run.name
    workflow = " with ".join(filter(None, map(run.about.get, ("workflow", "params"))))
    files = f", files in {run.about['storage']}" if "storage" in run.about else ""
    if workflow or files:
        yield "Workflow", f"{workflow}{files}".removeprefix(", ")
    yield "Owner", run.owner
    if run.started is not None:
        yield "Started", f"{_time(run.started)} UTC, {elapsed(run.now - run.started)} ago"
    yield "Leader", led_by(run)
    yield "Pods", jobs_of(run)
    if not run.is_led:
        yield "Next", f"the same command goes on with it; byok8s clean {run.name} removes it"


def _pod_row(run: Run, index: int) -> list[str]:
    pod = run.pods[index]
    since = pod.started or pod.created
    age = "" if since is None else elapsed(max(0.0, run.now - since))
    return [pod.job or pod.id, pod.state, age, pod.node, pod.name, pod.message]


def _time(seconds: float | None) -> str:
    from byok8s.batch.lease import clock

    return "" if seconds is None else clock(seconds)


def _print(heads: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    terminal = sys.stdout.isatty()
    table: Table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(head, no_wrap=not terminal, overflow="fold")
    for row in rows:
        table.add_row(*row)
    # in a pipe a row is a line, however long
    console = Console(markup=False, highlight=False, width=None if terminal else 10_000)
    console.print(table)
