"""Which kubeconfig, context and namespace are taken."""

from __future__ import annotations

from pathlib import Path

import pytest
from byok8s.batch.access import find_access
from byok8s.exceptions import ClusterError
from byok8s.settings import KubeSettings

ONE = """
current-context: one
contexts:
- {name: one, context: {cluster: c, user: u, namespace: lab}}
- {name: shared, context: {cluster: c, user: u, namespace: first}}
"""
TWO = """
current-context: two
contexts:
- {name: two, context: {cluster: c, user: u}}
- {name: shared, context: {cluster: c, user: u, namespace: second}}
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "one").write_text(ONE)
    (tmp_path / "two").write_text(TWO)
    return tmp_path / "one", tmp_path / "two"


def test_the_first_file_wins_as_with_kubectl(files: tuple[Path, Path]):
    environ = {"KUBECONFIG": f"{files[0]}:{files[1]}"}
    access = find_access(KubeSettings(), environ)
    assert (access.context, access.namespace) == ("one", "lab")
    assert find_access(KubeSettings(context="shared"), environ).namespace == "first"
    assert find_access(KubeSettings(context="two"), environ).namespace == "default"
    assert find_access(KubeSettings(namespace="mine"), environ).namespace == "mine"


def test_the_given_file_comes_before_the_environment(files: tuple[Path, Path]):
    access = find_access(KubeSettings(kubeconfig=files[1]), {"KUBECONFIG": str(files[0])})
    assert access.context == "two"


def test_no_kubeconfig_says_where_it_looked(tmp_path: Path):
    with pytest.raises(ClusterError, match=r"looked for .*/\.kube/config"):
        find_access(KubeSettings(), {})
    with pytest.raises(ClusterError, match="/nowhere, /elsewhere"):
        find_access(KubeSettings(), {"KUBECONFIG": "/nowhere:/elsewhere"})


def test_an_unknown_context_lists_the_known_ones(files: tuple[Path, Path]):
    with pytest.raises(ClusterError, match=r"no context 'nine' in .*\(it has one, shared\)"):
        find_access(KubeSettings(kubeconfig=files[0], context="nine"), {})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("contexts: [", "line 1, column"),
        ("", "empty"),
        ("contexts: []", "No context is current"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: str, says: str):
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(ClusterError, match=says) as caught:
        find_access(KubeSettings(kubeconfig=path), {})
    assert str(path) in str(caught.value)


def test_a_context_without_its_cluster_is_told(files: tuple[Path, Path]):
    with pytest.raises(ClusterError, match=r"context 'one' in .* cannot be used"):
        find_access(KubeSettings(kubeconfig=files[0]), {}).configuration()
