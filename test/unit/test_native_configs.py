"""The native cluster's rendered configuration, by what the machine is like."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from byok8s.cluster.native import components, configs
from byok8s.cluster.native.driver import NativeDriver
from byok8s.cluster.native.host import Host
from byok8s.cluster.native.layout import Layout
from byok8s.cluster.store import S3Server
from byok8s.exceptions import ClusterError
from byok8s.progress import reporter

ORDINARY = Host(
    cgroup_v2=True, apparmor=True, may_raise_limits=True, open_files=2**20, overlay=True
)
SANDBOX = Host(
    cgroup_v2=False, apparmor=False, may_raise_limits=False, open_files=20_000, overlay=False
)
S3 = S3Server("http://10.88.0.1:7070", "ACCESSKEY", "SECRETKEY")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A layout below the test's folder."""
    made = Layout("dev", tmp_path / "native", tmp_path / "run")
    made.make()
    return made


def cri(layout: Layout, host: Host) -> dict[str, Any]:
    text = configs.containerd(layout, host, Path("/usr/lib/cni"), "localhost/pause:1")
    plugins: dict[str, Any] = tomllib.loads(text)["plugins"]
    found: dict[str, Any] = plugins["io.containerd.grpc.v1.cri"]
    return found


def test_containerd_on_an_ordinary_machine(layout: Layout) -> None:
    ordinary = cri(layout, ORDINARY)
    assert ordinary["restrict_oom_score_adj"] is False
    assert ordinary["disable_apparmor"] is False
    assert ordinary["containerd"]["snapshotter"] == "overlayfs"
    assert ordinary["sandbox_image"] == "localhost/pause:1"


def test_containerd_in_a_sandbox(layout: Layout) -> None:
    sandbox = cri(layout, SANDBOX)
    assert sandbox["restrict_oom_score_adj"] is True
    assert sandbox["disable_apparmor"] is True
    assert sandbox["containerd"]["snapshotter"] == "native"


def test_the_kubelet_asks_for_no_more_than_it_may_have(layout: Layout) -> None:
    sandbox, ordinary = configs.kubelet(layout, SANDBOX), configs.kubelet(layout, ORDINARY)
    assert (sandbox["oomScoreAdj"], sandbox["maxOpenFiles"]) == (0, 20_000)
    assert (ordinary["oomScoreAdj"], ordinary["maxOpenFiles"]) == (-999, 1_000_000)


def test_everything_is_rendered_into_the_cluster_folder(layout: Layout) -> None:
    configs.render(layout, ORDINARY, Path("/usr/lib/cni"), "localhost/pause:1", "nameserver x\n")
    for name in ("kubelet.json", "scheduler.json", "proxy.json", "admin.kubeconfig"):
        assert json.loads((layout.config / name).read_text())["kind"]
    network = json.loads((layout.config / "cni" / "10-byok8s.conflist").read_text())
    assert network["plugins"][0]["ipam"]["dataDir"].startswith(str(layout.root))


def test_rendering_again_asks_for_no_restart(layout: Layout) -> None:
    def digests() -> list[str]:
        (layout.pki / "ca.crt").write_text("certificate")
        configs.render(layout, ORDINARY, Path("/usr/lib/cni"), "localhost/pause:1", "")
        return [d.digest for d in components.daemons(layout, S3, bridge_filtered=True)]

    first, written = digests(), (layout.config / "proxy.json").stat().st_mtime_ns
    assert digests() == first
    assert (layout.config / "proxy.json").stat().st_mtime_ns == written


def test_components_are_those_that_are_looked_for(layout: Layout) -> None:
    daemons = components.daemons(layout, S3, bridge_filtered=True)
    assert sorted(daemon.name for daemon in daemons) == sorted(components.NAMES)
    assert set(components.PORTS) == set(components.NAMES) - {"containerd"}


def test_keys_are_passed_by_environment_only(layout: Layout) -> None:
    (server,) = [
        daemon
        for daemon in components.daemons(layout, S3, bridge_filtered=True)
        if daemon.name == "versitygw"
    ]
    assert server.env["ROOT_SECRET_KEY"] == "SECRETKEY"
    assert "SECRETKEY" not in " ".join(server.command)


def test_services_work_without_filtered_bridges_too(layout: Layout) -> None:
    def proxy(filtered: bool) -> str:
        daemons = components.daemons(layout, S3, bridge_filtered=filtered)
        return " ".join(next(d for d in daemons if d.name == "kube-proxy").command)

    assert "--masquerade-all" in proxy(False)
    assert "--masquerade-all" not in proxy(True)


@pytest.mark.parametrize(
    ("system", "user", "words"),
    [("darwin", 0, "needs Linux"), ("linux", 1000, "needs root")],
)
def test_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, system: str, user: int, words: str
) -> None:
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("os.geteuid", lambda: user)
    assert words in (NativeDriver().missing() or "")


def test_there_can_be_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tmp_path = tmp_path_factory.mktemp("s")  # short, for the sake of sockets
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(NativeDriver, "missing", lambda _: None)
    monkeypatch.setattr("byok8s.cluster.native.driver.RUN", tmp_path / "run")
    (tmp_path / "byok8s" / "clusters" / "first" / "native").mkdir(parents=True)
    with pytest.raises(ClusterError, match="there is 'first' already"):
        NativeDriver().create("second", reporter())


def test_a_folder_that_is_too_deep_is_refused() -> None:
    deep = Path("/home", "x" * 80)
    with pytest.raises(ClusterError, match="XDG_STATE_HOME"):
        Layout("dev", deep / "native", Path("/run/byok8s/dev")).check()
