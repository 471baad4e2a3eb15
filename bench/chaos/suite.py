"""Many seeds, several at once, and the table of what came of them."""

from __future__ import annotations

import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from byok8s.batch import KubeClient
from byok8s.cluster import ClusterInfo, find_by_context
from byok8s.cluster.native.layout import Layout
from byok8s.exceptions import ClusterError
from byok8s.settings import KubeSettings
from support.project import client_of, own_bucket

from chaos.drive import Place, run
from chaos.faults import KINDS, draw
from chaos.inject import Node
from chaos.judge import Finding, Record, judge


@dataclass
class Verdict:
    """A seed's run and what is wrong with it; `folder` holds what the leader wrote."""

    record: Record
    findings: list[Finding] = field(default_factory=list)
    folder: Path = Path()

    @property
    def command(self) -> str:
        return f".venv/bin/python bench/chaos --seeds {self.record.seed}"

    def briefly(self) -> Iterator[str]:
        """The findings, at most three of each kind: a run that fails early lacks everything."""
        for kind in dict.fromkeys(finding.kind for finding in self.findings):
            texts = [finding.text for finding in self.findings if finding.kind == kind]
            yield from (f"{kind}: {text}" for text in texts[:3])
            if len(texts) > 3:
                yield f"{kind}: and {len(texts) - 3} more"

    def __str__(self) -> str:
        texts = "; ".join(self.briefly())
        faults = ", ".join(s.kind for s in self.record.struck)
        return f"seed {self.record.seed} ({faults}): {texts}\n  {self.folder}\n  {self.command}"


def run_seeds(
    info: ClusterInfo,
    seeds: Sequence[int],
    at_once: int,
    keep: Path,
    tell: Callable[[Verdict], None],
) -> list[Verdict]:
    """Run the workflow in peace and then under the faults of each seed, and judge the runs.

    What the leaders of failed seeds wrote is in `keep` afterwards. Raises ClusterError.
    """
    with prepared(info) as place:
        quiet = run(place, 0, [], keep)
        expected = quiet.outputs
        first = Verdict(quiet, judge(quiet, expected), keep / "seed-0")
        if first.findings:
            raise ClusterError(f"The quiet run is not as it must be: {first}")
        shutil.rmtree(first.folder)
        verdicts = []
        with ThreadPoolExecutor(at_once) as pool:
            running = {pool.submit(run, place, seed, draw(seed), keep): seed for seed in seeds}
            for future in as_completed(running):
                verdict = _verdict(future, running[future], expected, keep)
                verdicts.append(verdict)
                tell(verdict)
                if not verdict.findings:
                    shutil.rmtree(verdict.folder)
    return sorted(verdicts, key=lambda v: v.record.seed)


def _verdict(future: Any, seed: int, expected: dict[str, str], keep: Path) -> Verdict:
    folder = keep / f"seed-{seed}"
    try:
        record = future.result()
    except Exception as error:  # the others go on
        text = f"{type(error).__name__}: {error}"
        return Verdict(Record(seed), [Finding("failed", text)], folder)
    return Verdict(record, judge(record, expected), folder)


@contextmanager
def prepared(info: ClusterInfo) -> Iterator[Place]:
    """A bucket of its own; afterwards it is gone, and the node as it was."""
    server = info.s3
    if server is None or info.driver != "native":
        raise ClusterError("The faults of the node need a cluster of the native driver.")
    s3 = client_of(server)
    with (
        closing(KubeClient.load(KubeSettings(context=info.context))) as client,
        own_bucket(s3, f"chaos-{uuid.uuid4().hex[:8]}") as bucket,
    ):
        node = Node(client, Layout.of(info.name))
        try:
            yield Place(info, bucket, s3, node)
        finally:
            node.restore()


def find_cluster(name: str) -> ClusterInfo:
    info = find_by_context(f"byok8s-{name}")
    if info is None:
        raise ClusterError(f"There is no cluster '{name}'; run: byok8s cluster create {name}.")
    return info


def table(verdicts: Sequence[Verdict]) -> str:
    """Markdown: for each kind of fault, what came of the runs that met it."""
    lines = [
        "| Fault | injected | runs that met it | commands run twice for nothing | left behind "
        "| outputs wrong or missing | failed | seconds of a run, mean |",
        "|" + " --- |" * 8,
    ]
    for kind, (_, title) in KINDS.items():
        met = [v for v in verdicts if any(s.kind == kind for s in v.record.struck)]
        strikes = {(s.kind, s.at) for v in met for s in v.record.struck if s.kind == kind}
        lines.append(_row(title, str(len(strikes)), met))
    lines.append(_row("all", "", verdicts))
    return "\n".join(lines)


def _row(title: str, strikes: str, met: Sequence[Verdict]) -> str:
    found = Counter(finding.kind for verdict in met for finding in verdict.findings)
    twice = found["duplicate"] + found["together"]
    failed = found["failed"] + found["never"]
    mean = f"{sum(v.record.seconds for v in met) / len(met):.0f}" if met else "–"
    cells = [title, strikes, len(met), twice, found["orphan"], found["output"], failed, mean]
    return f"| {' | '.join(map(str, cells))} |"


def totals(verdicts: Sequence[Verdict]) -> str:
    """One sentence on what the runs were made of."""
    leads = [lead for v in verdicts for lead in v.record.leads]
    begun = sum(len(v.record.executions) for v in verdicts)
    again = begun - sum(len({e.job for e in v.record.executions}) for v in verdicts)
    return (
        f"{len(leads)} leaders, of which {sum(lead.killed for lead in leads)} were killed and "
        f"{sum(lead.refused for lead in leads)} ended at their first checks, which a fault met; "
        f"{begun} commands, of which {again} once more"
    )


def as_json(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Everything that was seen, for a program."""
    return [{**asdict(v.record), "findings": [asdict(f) for f in v.findings]} for v in verdicts]
