"""Which faults a seed means, when they strike, and for how long."""

from __future__ import annotations

import random
from dataclasses import dataclass

from chaos.workload import JOBS

LEADER, POD, NODE, API, S3 = "leader", "pod", "node", "API", "S3"
# Kind -> where it strikes, and what it is called in the table
KINDS = {
    "kill": (LEADER, "leader killed (SIGKILL), same command again"),
    "delete": (POD, "pod deleted"),
    "delete_now": (POD, "pod deleted with grace 0"),
    "evict": (POD, "pod evicted (eviction API)"),
    "taint": (NODE, "node tainted NoExecute for 1 to 4 s"),
    "kubelet": (NODE, "kubelet stopped (SIGSTOP) for 2 to 6 s"),
    "kubelet_minute": (NODE, "kubelet stopped for 60 s"),
    "api_gone": (API, "API cut for 2 to 6 s"),
    "api_gone_long": (API, "API cut for 30 s"),
    "api_429": (API, "burst of 5 to 30 answers 429"),
    "api_500": (API, "burst of 5 to 30 answers 500"),
    "api_lost": (API, "1 to 5 answers of the API lost"),
    "watch": (API, "watches and followed logs cut"),
    "s3_503": (S3, "burst of 5 to 40 answers 503 of S3"),
    "s3_cut": (S3, "3 to 15 connections to S3 cut"),
    "s3_lost": (S3, "1 to 5 answers of S3 lost"),
    "s3_gone": (S3, "S3 gone for 2 to 8 s"),
}
LONG = ("kubelet_minute", "api_gone_long")
BRIEF = tuple(kind for kind in KINDS if kind not in LONG)
MOST_KILLS = 3
# Leaders die often. A fault of the node hits all runs that are under way, and one that ends their
# pods excuses whatever ran at that moment: they are drawn seldom
_WEIGHTS = {"kill": 3.0, "taint": 0.3, "kubelet": 0.3}


@dataclass(frozen=True)
class Fault:
    """Strikes `delay` seconds after `after` commands of the workflow have begun."""

    kind: str
    after: int
    delay: float
    seconds: float = 0.0  # it lasts
    times: int = 0  # requests that it meets
    pick: float = 0.0  # which of the live pods, as a part of 1
    again: tuple[float, ...] = ()  # of a kill: seconds after each next start until the next one

    @property
    def where(self) -> str:
        return KINDS[self.kind][0]


def draw(seed: int) -> list[Fault]:
    """The faults of a seed: three to five, the first of a kind that goes round with the seeds.

    Every tenth seed has a long one besides.
    """
    chance = random.Random(seed)
    count = chance.randint(2, 4)
    kinds = [BRIEF[seed % len(BRIEF)]]
    kinds += chance.choices(BRIEF, [_WEIGHTS.get(kind, 1.0) for kind in BRIEF], k=count)
    if seed % 10 == 0:
        kinds.append(LONG[seed // 10 % 2])
    faults = [_fault(kind, chance) for kind in kinds]
    return sorted(faults, key=lambda fault: (fault.after, fault.delay))


def _fault(kind: str, chance: random.Random) -> Fault:
    # one in six before anything has begun, as many after everything has: a run's start and its
    # end are the leader's alone
    part = chance.uniform(-0.25, 1.25)
    after = min(JOBS, max(0, round(part * JOBS)))
    # a leader takes some seconds to begin, and about two to end
    delay = chance.uniform(0.0, {0: 5.0, JOBS: 2.5}.get(after, 1.0))
    return Fault(
        kind,
        after,
        round(delay, 2),
        seconds=_seconds(kind, chance),
        times=_times(kind, chance),
        pick=chance.random(),
        again=_again(kind, chance),
    )


def _seconds(kind: str, chance: random.Random) -> float:
    spans = {"taint": (1, 4), "kubelet": (2, 6), "api_gone": (2, 6), "s3_gone": (2, 8)}
    lengths = {"kubelet_minute": 60.0, "api_gone_long": 30.0}
    return round(chance.uniform(*spans[kind]), 1) if kind in spans else lengths.get(kind, 0.0)


def _times(kind: str, chance: random.Random) -> int:
    spans = {
        "api_429": (5, 30),
        "api_500": (5, 30),
        "api_lost": (1, 5),
        "s3_503": (5, 40),
        "s3_cut": (3, 15),
        "s3_lost": (1, 5),
    }
    return chance.randint(*spans[kind]) if kind in spans else 0


def _again(kind: str, chance: random.Random) -> tuple[float, ...]:
    if kind != "kill":
        return ()
    count = chance.choice([0, 0, 1, MOST_KILLS - 1])
    return tuple(round(chance.uniform(0.5, 8.0), 1) for _ in range(count))
