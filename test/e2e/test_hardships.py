"""Running pods on a real node that is short of memory or disk, lost, or needed for something else.

All on a cluster of its own in a private machine, which nobody else uses.
"""

from __future__ import annotations

from typing import Any

import pytest
from byok8s.cluster import ClusterInfo
from support.machines import told_by


@pytest.fixture(scope="module")
def told(cluster: ClusterInfo) -> dict[str, Any]:
    """What hardships.py saw. The session's cluster is only needed for all to be built."""
    return told_by("hardships")


@pytest.mark.parametrize(
    ("hardship", "cause", "words"),
    [
        (
            "memory",
            "evicted",
            "The node NODE evicted the pod: The node was low on resource: memory",
        ),
        ("disk", "evicted", "The node NODE evicted the pod: The node was low on resource: ephem"),
        (
            "lost",
            "node_lost",
            "The pod was deleted, but its node NODE does not confirm that it end",
        ),
        ("critical", "preempted", "The node NODE preempted the pod: Preempted in order to admit"),
    ],
)
def test_what_a_node_does_to_a_running_pod_costs_no_retry(
    told: dict[str, Any], hardship: str, cause: str, words: str
) -> None:
    end = told[hardship]
    assert (end["cause"], end["disruption"]) == (cause, True)
    assert (end["budget"], end["retry"]) == ("disruptions", True)
    assert end["message"].startswith(words)


def test_case_14_a_job_of_a_lost_node_runs_again_when_there_is_one(told: dict[str, Any]) -> None:
    assert told["lost"]["again"] == 2
