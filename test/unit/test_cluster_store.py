"""What byok8s remembers of its clusters, and choosing, making and deleting one."""

import os
import stat
import threading
import time

import pytest
from byok8s import cluster
from byok8s.cluster import ClusterInfo, S3Server, kubeconfig, store
from byok8s.exceptions import ClusterError, SettingsError

MARKER = "MARKER-secret-key"
SERVER = S3Server("http://10.88.0.1:7070", "AKIDEXAMPLE", MARKER)


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kube" / "config"))
    return tmp_path / "state" / "byok8s"


class Report:
    """Remembers notes; has no steps."""

    def __init__(self):
        self.notes = []

    def note(self, line):
        self.notes.append(line)


class FakeDriver:
    """A driver whose clusters are names in a set."""

    name = "native"

    def __init__(self):
        self.clusters = set()
        self.absent = None
        self.error = None

    def missing(self):
        return self.absent

    def create(self, name, report):
        self.clusters.add(name)
        if self.error:
            raise self.error
        context = store.context_name(name)
        kubeconfig.merge(context, "https://10.88.0.1:6443", b"ca", b"cert", b"key")
        return ClusterInfo(name, self.name, context, "localhost/byok8s-worker:1", SERVER)

    def running(self, name):
        return name in self.clusters

    def status(self, name):
        return [("node", "ready")]

    def delete(self, name, report):
        self.clusters.discard(name)


@pytest.fixture
def driver(monkeypatch):
    fake = FakeDriver()
    monkeypatch.setattr(cluster, "load_driver", lambda name: fake)
    return fake


def test_a_saved_cluster_comes_back_equal_and_is_for_its_owner_only(state):
    info = ClusterInfo("dev", "native", "byok8s-dev", "localhost/w:1", SERVER)
    store.save(info)
    assert store.load("dev") == info
    file = state / "clusters" / "dev" / "cluster.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [path.name for path in file.parent.iterdir()] == ["cluster.json"]


def test_a_cluster_without_an_s3_server_comes_back_equal():
    info = ClusterInfo("dev", "kind", "byok8s-dev")
    store.save(info)
    assert store.load("dev") == info


def test_the_secret_key_is_in_no_repr():
    info = ClusterInfo("dev", "native", "byok8s-dev", s3=SERVER)
    assert MARKER not in f"{info!r} {info} {SERVER!r} {SERVER}"


def test_an_unknown_cluster_is_none():
    assert store.load("dev") is None
    assert cluster.list_clusters() == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"colour": "red"}'])
def test_a_damaged_record_is_one_sentence_with_the_way_out(state, content):
    store.save(ClusterInfo("dev", "native", "byok8s-dev"))
    (state / "clusters" / "dev" / "cluster.json").write_text(content)
    with pytest.raises(ClusterError, match=r"'dev'.*damaged.*cluster delete dev --driver"):
        store.load("dev")


def test_a_damaged_record_can_be_deleted_when_the_driver_is_named(state, driver):
    store.save(ClusterInfo("dev", "native", "byok8s-dev"))
    (state / "clusters" / "dev" / "cluster.json").write_text("{")
    assert cluster.delete("dev", "native", Report())
    assert not state.exists()


@pytest.mark.parametrize("name", ["dev", "a", "x1", "my-lab", "a" * 24])
def test_names_that_are_fine(name):
    assert store.check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "Dev", "1a", "-a", "a-", "a_b", "a.b", "../up", "a" * 25, "dev\n"]
)
def test_names_that_are_not(name):
    with pytest.raises(SettingsError, match="cannot name a cluster"):
        store.check_name(name)


def test_create_records_the_cluster_and_finds_it_by_its_context(driver):
    made = cluster.create("dev", None, Report())
    assert cluster.find_by_context("byok8s-dev") == made
    assert cluster.list_clusters() == [made]
    assert cluster.is_running(made)
    assert kubeconfig.current_context() == "byok8s-dev"


@pytest.mark.parametrize("context", ["dev", "byok8s-", "byok8s-other", "minikube", "byok8s-../dev"])
def test_other_contexts_are_not_ours(driver, context):
    cluster.create("dev", None, Report())
    assert cluster.find_by_context(context) is None


def test_what_a_failed_create_leaves_is_found_by_delete(state, driver):
    driver.error = ClusterError("etcd did not start; see etcd.log.")
    with pytest.raises(ClusterError, match="etcd"):
        cluster.create("dev", None, Report())
    assert [info.name for info in cluster.list_clusters()] == ["dev"]
    assert cluster.delete("dev", None, Report())
    assert driver.clusters == set()
    assert not state.exists()


def test_a_failed_second_create_keeps_what_was_known(driver):
    made = cluster.create("dev", None, Report())
    driver.error = ClusterError("no")
    with pytest.raises(ClusterError):
        cluster.create("dev", None, Report())
    assert store.load("dev") == made


def test_delete_leaves_no_folder_and_no_kubeconfig(state, driver, tmp_path):
    cluster.create("dev", None, Report())
    assert cluster.delete("dev", None, Report()) is True
    assert not state.exists()
    assert not (tmp_path / "kube").exists()


def test_delete_of_a_missing_cluster_does_nothing(state, driver):
    assert cluster.delete("dev", None, Report()) is False
    assert not state.exists()


def test_a_cluster_of_another_driver_is_not_touched(driver):
    cluster.create("dev", None, Report())
    with pytest.raises(SettingsError, match=r"made by driver 'native', not by 'kind'"):
        cluster.create("dev", "kind", Report())


def test_the_first_driver_that_can_be_used_is_chosen(monkeypatch):
    fakes = {name: FakeDriver() for name in cluster.DRIVERS}
    for name, fake in fakes.items():
        fake.absent = f"Install {name}."
    monkeypatch.setattr(cluster, "load_driver", fakes.__getitem__)
    with pytest.raises(ClusterError, match=r"install kind.*or be root on Linux"):
        cluster.choose()
    fakes["native"].absent = None
    assert cluster.choose() is fakes["native"]
    fakes["minikube"].absent = None
    assert cluster.choose() is fakes["minikube"]
    with pytest.raises(ClusterError, match=r"Install kind\."):
        cluster.choose("kind")


def test_a_second_change_waits_for_the_first():
    order = []
    inside = threading.Event()

    def first():
        with store.exclusive(order.append):
            inside.set()
            time.sleep(0.1)
            order.append("first ends")

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait()
    with store.exclusive(lambda note: order.append("waiting")):
        order.append("second")
    thread.join()
    assert order == ["waiting", "first ends", "second"]


def test_a_state_folder_that_cannot_be_made_is_one_sentence(tmp_path, monkeypatch, driver):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(
        ClusterError, match=r"file/byok8s/clusters cannot be used \(Not a directory"
    ):
        cluster.create("dev", None, Report())


def test_the_state_folder_is_never_made_by_looking(state):
    store.load("dev")
    cluster.list_clusters()
    cluster.find_by_context("byok8s-dev")
    assert not os.path.exists(state)
