"""The chaos gate: 25 seeds of faults, after which everything is as in a quiet run.

`bench/chaos` does the work and runs any seed alone: see docs/benchmarks.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from byok8s.cluster import ClusterInfo
from chaos.suite import Verdict, run_seeds, table

SEEDS = range(1, 26)
AT_ONCE = 4


@pytest.fixture(scope="module")
def verdicts(cluster: ClusterInfo, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Verdict]:
    keep: Path = tmp_path_factory.mktemp("chaos")
    found = run_seeds(cluster, SEEDS, AT_ONCE, keep, tell=lambda verdict: None)
    print(table(found))
    return {verdict.record.seed: verdict for verdict in found}


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_run_twice_or_left(seed: int, verdicts: dict[int, Any]) -> None:
    verdict = verdicts[seed]
    log = verdict.folder / "leader.log"
    said = log.read_text()[-5000:] if verdict.findings and log.exists() else ""
    assert not verdict.findings, f"{verdict}\n{said}"
    assert verdict.record.struck, "no fault struck: the run had ended before"
