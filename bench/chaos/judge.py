"""What a run under faults must be like: told from its record alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from chaos.faults import API, KINDS, POD

# A job's end that was stored this long before its pod was hit has reached a leader that listened
TOLD_SECONDS = 5.0
# A new leader reads the Snakefile and takes over before it listens
TAKE_OVER_SECONDS = 15.0
# After a taint the pods still end, and a bundle may begin one more command
ENDING_SECONDS = 10.0


@dataclass(frozen=True)
class Struck:
    """A fault that struck, and the pods that it hit if it was meant for one. Epoch seconds."""

    kind: str
    at: float
    until: float
    pods: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        return KINDS[self.kind][0]


@dataclass(frozen=True)
class Lead:
    """A leader's process; `refused` when it ended because a fault met its first checks."""

    began: float
    ended: float
    code: int
    killed: bool = False
    refused: bool = False


@dataclass(frozen=True)
class Execution:
    """A command that began in a pod; `stored` is when its output was in the bucket."""

    job: str
    pod: str
    began: float
    ended: float | None = None
    stored: float | None = None


@dataclass
class Record:
    """All that is known of a run."""

    seed: int
    seconds: float = 0.0
    struck: list[Struck] = field(default_factory=list)
    leads: list[Lead] = field(default_factory=list)
    executions: list[Execution] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)  # key -> digest; all but byok8s's own
    objects: list[str] = field(default_factory=list)  # left in the cluster


@dataclass(frozen=True)
class Finding:
    """Something that must not be. kinds: failed, duplicate, together, never, output, orphan."""

    kind: str
    text: str


def judge(record: Record, expected: Mapping[str, str]) -> list[Finding]:
    """What is wrong with a run; `expected` are the outputs of a quiet one."""
    return [
        *_end(record),
        *_executions(record, expected),
        *_outputs(record, expected),
        *(Finding("orphan", f"{name} is left in the cluster") for name in record.objects),
        *(
            Finding("orphan", f"{key} is left in the bucket")
            for key in record.outputs
            if key not in expected
        ),
    ]


def _end(record: Record) -> Iterator[Finding]:
    last = record.leads[-1] if record.leads else None
    if last is None or last.killed or last.code != 0:
        how = "never began" if last is None else f"ended with code {last.code}"
        yield Finding("failed", f"the last leader {how}")


def _executions(record: Record, expected: Mapping[str, str]) -> Iterator[Finding]:
    by_job: dict[str, list[Execution]] = defaultdict(list)
    for execution in sorted(record.executions, key=lambda e: e.began):
        by_job[execution.job].append(execution)
    for job in expected:
        if not by_job[job]:
            yield Finding("never", f"{job} is of no execution")
    for job, some in by_job.items():
        for one, after in pairwise(e for e in some if not _is_ghost(e, record.struck)):
            if not is_disturbed(one, record):
                yield Finding(
                    "duplicate",
                    f"{job} ran in {one.pod}, which nothing disturbed, and again in {after.pod} "
                    f"{after.began - one.began:.1f} s later",
                )
            if _together(one, after, record.struck):
                yield Finding("together", f"{job} ran in {one.pod} and {after.pod} at once")


def _outputs(record: Record, expected: Mapping[str, str]) -> Iterator[Finding]:
    for key, digest in expected.items():
        if key not in record.outputs:
            yield Finding("output", f"{key} is missing")
        elif record.outputs[key] != digest:
            yield Finding("output", f"{key} differs from that of the quiet run")


def is_disturbed(execution: Execution, record: Record) -> bool:
    """Whether a fault ended an execution, or took its pod before a leader could know its end."""
    for struck in record.struck:
        in_pod = struck.where == POD and execution.pod in struck.pods
        on_node = struck.kind == "taint" and execution.began <= struck.until + ENDING_SECONDS
        if (in_pod or on_node) and not _is_told(execution, struck.at, record):
            return True
    return False


def _is_ghost(execution: Execution, struck: Sequence[Struck]) -> bool:
    """Whether a command began in a pod that had been deleted with grace 0, and lived on unseen."""
    return any(
        each.kind == "delete_now" and execution.pod in each.pods and each.at <= execution.began
        for each in struck
    )


def _is_told(execution: Execution, by: float, record: Record) -> bool:
    stored = execution.stored
    if stored is None or by - stored < TOLD_SECONDS:
        return False
    return not any(a < by and stored <= b for a, b in _deaf(record.struck, record.leads))


def _deaf(struck: Sequence[Struck], leads: Sequence[Lead]) -> Iterator[tuple[float, float]]:
    """When no leader may have heard of what ends."""
    for one in struck:
        if one.where == API or one.kind.startswith("kubelet"):
            yield one.at, one.until + TOLD_SECONDS
    for before, after in pairwise(leads):
        yield before.ended, after.began + TAKE_OVER_SECONDS


def _together(one: Execution, after: Execution, struck: Sequence[Struck]) -> bool:
    """Whether two pods worked on one job at once.

    With grace 0 the API server forgets a pod that may still run: nobody can wait for its end.
    """
    forced = {pod for s in struck if s.kind == "delete_now" for pod in s.pods}
    ended = one.ended
    return (
        ended is not None and after.began < ended and one.pod != after.pod and one.pod not in forced
    )
