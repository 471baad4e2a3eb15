"""Our entries in the user's kubeconfig: added and removed without touching anything else."""

import os
import stat
import subprocess
import sys

import pytest
import yaml
from byok8s.cluster import kubeconfig, kubefile
from byok8s.exceptions import ClusterError

PEM = {"ca_data": b"CA", "client_cert_data": b"CERT", "client_key_data": b"KEY"}

OTHERS = """\
apiVersion: v1
kind: Config
preferences: {colors: true}
current-context: lab
x-unknown: {since: 2024-01-01, mode: 0755, on: yes, number: 1_000, text: "1.10"}
clusters:
- name: lab
  cluster:
    server: https://lab.example:6443
    insecure-skip-tls-verify: true
    extensions:
    - name: minikube.sigs.k8s.io
      extension: {version: v1.37.0, provider: minikube.sigs.k8s.io}
users:
- name: lab
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1
      command: aws
      args: [eks, get-token, --cluster-name, "lab"]
      env: null
contexts:
- name: lab
  context: {cluster: lab, user: lab, namespace: team}
"""


@pytest.fixture(autouse=True)
def config(tmp_path, monkeypatch):
    path = tmp_path / "kube" / "config"
    monkeypatch.setenv("KUBECONFIG", str(path))
    return path


@pytest.fixture
def others(config):
    config.parent.mkdir()
    config.write_text(OTHERS)
    config.chmod(0o600)
    return config


def merge(context="byok8s-dev", server="https://10.88.0.1:6443"):
    return kubeconfig.merge(context, server, **PEM)


def read(path):
    return yaml.safe_load(path.read_text())


def tokens(text):
    """What the YAML says, with the spelling of each value, without its layout."""
    return [
        getattr(event, "value", type(event).__name__)
        for event in yaml.parse(text, Loader=yaml.SafeLoader)
    ]


def test_a_new_file_is_complete_current_and_private(config):
    assert merge() == config
    data = read(config)
    assert data["apiVersion"] == "v1" and data["kind"] == "Config"
    assert data["current-context"] == "byok8s-dev"
    assert data["clusters"] == [
        {
            "name": "byok8s-dev",
            "cluster": {"server": "https://10.88.0.1:6443", "certificate-authority-data": "Q0E="},
        }
    ]
    assert data["users"] == [
        {
            "name": "byok8s-dev",
            "user": {"client-certificate-data": "Q0VSVA==", "client-key-data": "S0VZ"},
        }
    ]
    assert data["contexts"] == [
        {"name": "byok8s-dev", "context": {"cluster": "byok8s-dev", "user": "byok8s-dev"}}
    ]
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert stat.S_IMODE(config.parent.stat().st_mode) == 0o700
    assert kubeconfig.current_context() == "byok8s-dev"


def test_our_own_reader_understands_it(config):
    merge()
    access = kubeconfig.parse(config.read_text())
    assert access == kubeconfig.Access("https://10.88.0.1:6443", b"CA", b"CERT", b"KEY")
    assert "KEY" not in repr(access)


def test_a_file_that_was_made_by_us_goes_with_its_folder(config):
    merge()
    kubeconfig.remove("byok8s-dev")
    assert not config.parent.exists()


def test_a_folder_that_was_there_stays(config):
    config.parent.mkdir()
    merge()
    kubeconfig.remove("byok8s-dev")
    assert list(config.parent.iterdir()) == []


def test_two_clusters_go_one_after_the_other(config):
    merge("byok8s-a")
    merge("byok8s-b")
    kubeconfig.remove("byok8s-a")
    assert [c["name"] for c in read(config)["contexts"]] == ["byok8s-b"]
    assert read(config)["current-context"] == "byok8s-b"
    kubeconfig.remove("byok8s-b")
    assert not config.exists()


def test_what_is_not_ours_stays_as_it_is_spelt(others):
    merge()
    data = read(others)
    assert [c["name"] for c in data["contexts"]] == ["lab", "byok8s-dev"]
    assert "2024-01-01, mode: 0755, on: yes, number: 1_000" in others.read_text()
    kubeconfig.remove("byok8s-dev")
    expected = tokens(OTHERS.replace("current-context: lab", 'current-context: ""'))
    assert tokens(others.read_text()) == expected


def test_merging_again_replaces_our_entries_only(others):
    merge()
    once = others.read_text()
    merge(server="https://10.88.0.1:7443")
    assert others.read_text() == once.replace("10.88.0.1:6443", "10.88.0.1:7443")


def test_the_current_context_is_left_alone_when_it_is_not_ours(others):
    merge()
    others.write_text(
        others.read_text().replace("current-context: byok8s-dev", "current-context: lab")
    )
    kubeconfig.remove("byok8s-dev")
    assert read(others)["current-context"] == "lab"


def test_removing_what_is_not_there_writes_nothing(others):
    before = (others.read_bytes(), others.stat().st_mtime_ns)
    kubeconfig.remove("byok8s-dev")
    assert (others.read_bytes(), others.stat().st_mtime_ns) == before


def test_removing_without_a_file_is_fine(config):
    kubeconfig.remove("byok8s-dev")
    assert not config.parent.exists()


def test_an_empty_file_is_filled_and_stays(config):
    config.parent.mkdir()
    config.write_text("")
    merge()
    assert read(config)["current-context"] == "byok8s-dev"
    kubeconfig.remove("byok8s-dev")
    assert read(config)["contexts"] == []


@pytest.mark.parametrize("nothing", ["clusters: null", "clusters: []", "clusters:"])
def test_null_and_empty_sections_are_filled(config, nothing):
    config.parent.mkdir()
    config.write_text(f"apiVersion: v1\nkind: Config\n{nothing}\ncontexts: null\n")
    merge()
    assert [c["name"] for c in read(config)["clusters"]] == ["byok8s-dev"]
    kubeconfig.remove("byok8s-dev")
    assert not read(config)["clusters"]


def test_json_is_a_kubeconfig_too(config):
    config.parent.mkdir()
    config.write_text(
        '{"apiVersion":"v1","kind":"Config","clusters":[{"name":"lab","cluster":{}}]}'
    )
    merge()
    assert [c["name"] for c in read(config)["clusters"]] == ["lab", "byok8s-dev"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("clusters: [\n  {name: lab\n", r"line 3, column 1"),
        ("just words", "not a mapping"),
        ("clusters: {name: lab}", "'clusters' is not a list"),
        ("contexts: [lab]", "'contexts' has an entry that is not a mapping"),
        ("name: \x00", "special characters are not allowed"),
    ],
)
def test_a_broken_file_is_one_sentence_and_untouched(config, content, why):
    config.parent.mkdir()
    config.write_text(content)
    for change in (merge, lambda: kubeconfig.remove("byok8s-dev")):
        with pytest.raises(ClusterError, match=rf"(?s)kube/config is not valid.*{why}.*correct it"):
            change()
    assert config.read_text() == content
    assert [path.name for path in config.parent.iterdir()] == ["config"]


def test_bytes_that_are_no_text_are_one_sentence(config):
    config.parent.mkdir()
    config.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ClusterError, match="not UTF-8 text"):
        merge()


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400])
def test_the_mode_stays(others, mode):
    others.chmod(mode)
    merge()
    assert stat.S_IMODE(others.stat().st_mode) == mode


def test_a_link_stays_a_link(others, tmp_path):
    real = tmp_path / "real"
    others.rename(real)
    others.symlink_to(real)
    merge()
    assert others.is_symlink()
    assert read(real)["current-context"] == "byok8s-dev"


def test_the_first_file_of_kubeconfig_is_written_and_all_are_cleaned(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    second.write_text(OTHERS)
    monkeypatch.setenv("KUBECONFIG", f"{first}{os.pathsep}{second}")
    assert merge() == first
    assert kubeconfig.current_context() == "byok8s-dev"
    monkeypatch.setenv("KUBECONFIG", f"{os.pathsep}{second}{os.pathsep}{first}")
    kubeconfig.remove("byok8s-dev")
    assert not first.exists()
    assert second.read_text() == OTHERS


def test_without_kubeconfig_it_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert merge() == tmp_path / ".kube" / "config"
    kubeconfig.remove("byok8s-dev")
    assert not (tmp_path / ".kube").exists()


def test_a_lock_of_another_program_is_waited_for_then_named(others, monkeypatch):
    monkeypatch.setattr(kubefile, "LOCK_SECONDS", 0.1)
    lock = others.with_name("config.lock")
    lock.touch()
    with pytest.raises(ClusterError, match=r"is locked by another program.*config\.lock"):
        merge()
    assert others.read_text() == OTHERS
    assert lock.exists()


@pytest.mark.parametrize("below", ["config", "kube/config"])
def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path, monkeypatch, below):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "file" / below))
    with pytest.raises(ClusterError, match=r"cannot be written \((Not a directory|File exists)\)"):
        merge()


MERGE_AND_MAYBE_REMOVE = """
import sys
from byok8s.cluster import kubeconfig
for turn in range(10):
    name = f"byok8s-{sys.argv[1]}{turn}"
    kubeconfig.merge(name, "https://x", ca_data=b"a", client_cert_data=b"b", client_key_data=b"c")
    if turn % 2:
        kubeconfig.remove(name)
"""


def test_concurrent_changes_lose_nothing(others):
    workers = [
        subprocess.Popen([sys.executable, "-c", MERGE_AND_MAYBE_REMOVE, letter])
        for letter in "abcd"
    ]
    assert [worker.wait() for worker in workers] == [0, 0, 0, 0]
    names = {context["name"] for context in read(others)["contexts"]}
    assert names == {"lab"} | {
        f"byok8s-{letter}{turn}" for letter in "abcd" for turn in (0, 2, 4, 6, 8)
    }
    assert [path.name for path in others.parent.iterdir()] == ["config"]


def test_kubectl_reads_it(others):
    kubectl = ["kubectl", "config", "view", "--output=json", f"--kubeconfig={others}"]
    try:
        subprocess.run([*kubectl[:1], "version", "--client"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("kubectl is not installed")
    merge()
    view = subprocess.run(kubectl, check=True, capture_output=True, text=True).stdout
    assert '"current-context": "byok8s-dev"' in view


@pytest.mark.parametrize(
    "text",
    ["", "{", "clusters: []", "clusters: [{cluster: {server: x}}]\nusers: [{user: {token: t}}]"],
)
def test_a_kubeconfig_without_certificates_is_one_sentence(text):
    with pytest.raises(ClusterError, match="without the cluster's address"):
        kubeconfig.parse(text)
