"""The native cluster's life in a machine of its own: nothing lost when killed, nothing left."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from byok8s.cluster import ClusterInfo
from support.machines import PRIVATE_MACHINE, told_by


@pytest.fixture(scope="module")
def told(cluster: ClusterInfo) -> dict[str, Any]:
    """What lifecycle.py saw. The session's cluster is only needed for all to be built."""
    answer = told_by("lifecycle")
    times = {key: value for key, value in answer.items() if isinstance(value, float)}
    print("seconds:", times)
    return answer


def test_pods_run_and_their_logs_can_be_read(told: dict[str, Any]) -> None:
    assert told["logs"] == "from a pod\n"


def test_only_the_dead_components_are_started_again(told: dict[str, Any]) -> None:
    assert told["some"]["restarted"] == told["some"]["killed"]
    assert told["some"]["pod restarts"] == "0"


def test_comes_back_after_kill_9_of_everything_with_its_data(told: dict[str, Any]) -> None:
    assert told["killed"] >= 8 + 2  # the components, a shim and a container at least
    assert told["after kill"] == {"ConfigMap": "value", "object": "content"}


def test_comes_back_after_a_reboot_with_its_data(told: dict[str, Any]) -> None:
    assert told["after reboot"] == {"ConfigMap": "value", "object": "content"}
    assert told["logs again"] == "from a pod again\n"


@pytest.mark.parametrize(
    ("obstacle", "sentence"),
    [
        (
            "ip link add podman0 type bridge; ip address add 10.88.0.1/16 dev podman0",
            "podman0 has 10.88.0.1/16",
        ),
        (
            "python3 -m http.server --bind 127.0.0.1 2379 & sleep 1",
            "etcd needs 127.0.0.1:2379, and another program listens there",
        ),
    ],
)
def test_what_is_in_the_way_is_named(
    cluster: ClusterInfo,
    tmp_path_factory: pytest.TempPathFactory,
    obstacle: str,
    sentence: str,
) -> None:
    folder = tmp_path_factory.mktemp("m")  # short, for the sake of sockets
    create = f"{sys.executable} -m byok8s cluster create --driver native x"
    done = subprocess.run(
        [PRIVATE_MACHINE, folder, "bash", "-c", f"{obstacle}; {create}"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 3
    assert sentence in done.stderr.splitlines()[-1]


KINDS = (
    "processes",
    "mounts",
    "links",
    "addresses",
    "routes",
    "network namespaces",
    "iptables",
    "ip6tables",
    "control groups",
    "files",
    "kubeconfig",
)


@pytest.mark.parametrize("kind", KINDS)
def test_the_comparison_can_see_a_cluster(told: dict[str, Any], kind: str) -> None:
    assert told["meanwhile"][kind] != told["before"][kind]


@pytest.mark.parametrize("kind", [*KINDS, "settings"])
@pytest.mark.parametrize("moment", ["after delete", "after delete of the dead"])
def test_delete_leaves_nothing(told: dict[str, Any], moment: str, kind: str) -> None:
    before, after = without_current(told["before"][kind]), without_current(told[moment][kind])
    assert set(after) - set(before) == set()
    assert set(before) - set(after) == set()


def without_current(lines: list[str]) -> list[str]:
    """As with kind, the current context becomes empty when it was the cluster's."""
    return [line for line in lines if not line.startswith("current-context:")]
