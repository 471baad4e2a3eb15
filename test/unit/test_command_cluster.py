"""`byok8s cluster`: what it passes on, prints and exits with."""

import json
import os
import shlex
import subprocess

import pytest
from byok8s import cluster
from byok8s.cluster import ClusterInfo, S3Server, kubeconfig, store
from byok8s.command.cluster import DRIVERS
from byok8s.command.root import root

SECRET = "MARKER'secret key"
SERVER = S3Server("http://10.88.0.1:7070", "AKIDEXAMPLE", SECRET)


class FakeDriver:
    """Clusters are the keys of a dictionary, their value tells whether they run."""

    def __init__(self, name, s3):
        self.name = name
        self.s3 = s3
        self.clusters = {}

    def missing(self):
        return None

    def create(self, name, report):
        with report.step("Starting the API server"):
            self.clusters[name] = True
        context = store.context_name(name)
        kubeconfig.merge(context, "https://x:6443", b"ca", b"cert", b"key")
        return ClusterInfo(name, self.name, context, "localhost/byok8s-worker:1", self.s3)

    def running(self, name):
        return self.clusters.get(name, False)

    def status(self, name):
        return [("API server", "ready" if self.running(name) else "not there"), ("etcd", "ready")]

    def delete(self, name, report):
        self.clusters.pop(name, None)


@pytest.fixture(autouse=True)
def drivers(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    fakes = {
        name: FakeDriver(name, SERVER if name == "native" else None) for name in cluster.DRIVERS
    }
    fakes["kind"].missing = lambda: "The command kind is not installed; see kind.example."
    fakes["minikube"].missing = fakes["k3d"].missing = fakes["kind"].missing
    monkeypatch.setattr(cluster, "load_driver", fakes.__getitem__)
    return fakes


@pytest.fixture
def byok8s(capsys):
    """Runs a command line; gives the exit code, stdout and stderr."""

    def call(line):
        with pytest.raises(SystemExit) as exit_:
            root.main(shlex.split(line), prog_name="byok8s")
        out = capsys.readouterr()
        return exit_.value.code, out.out, out.err

    return call


def test_create_says_what_was_made_and_what_to_type_next(byok8s, tmp_path):
    code, out, err = byok8s("cluster create")
    assert code == 0
    assert out.splitlines() == [
        "Cluster 'dev' is ready.",
        "  driver        native",
        f"  context       byok8s-dev (now the current one of {tmp_path / 'config'})",
        "  worker image  localhost/byok8s-worker:1",
        "  S3 server     http://10.88.0.1:7070, bucket 'byok8s'",
        "Next, in a folder with a Snakefile, a workflow file and a parameter file:",
        "  byok8s workflow-alpha params-blue --s3-bucket=byok8s",
    ]
    assert err.startswith("Starting the API server ...\n")
    assert SECRET not in out + err


def test_create_on_a_running_cluster_says_so(byok8s):
    byok8s("cluster create lab --driver native")
    code, out, _ = byok8s("cluster create lab")
    assert code == 0
    assert out.startswith("Cluster 'lab' is already running.")


def test_create_brings_a_stopped_cluster_back(byok8s, drivers):
    byok8s("cluster create")
    drivers["native"].clusters["dev"] = False
    code, out, _ = byok8s("cluster create")
    assert (code, out.splitlines()[0]) == (0, "Cluster 'dev' is ready.")


def test_create_without_an_s3_server_says_which_keys_to_give(byok8s, drivers):
    drivers["native"].s3 = None
    _, out, _ = byok8s("cluster create")
    assert "AWS_ACCESS_KEY_ID" in out and "--s3-endpoint-url" in out
    assert out.endswith("--s3-bucket=YOUR-BUCKET\n")


@pytest.mark.parametrize(
    ("line", "code", "sentence"),
    [
        ("create --driver kind", 3, "The command kind is not installed; see kind.example."),
        ("create Dev", 2, "'Dev' cannot name a cluster"),
        ("create --provider aws", 2, "--provider aws is not available in this version"),
        ("delete --provider aws", 2, "--provider aws is not available in this version"),
        ("create --driver docker", 2, "Invalid value for '--driver'"),
        ("status", 3, "There is no cluster 'dev'; byok8s cluster list"),
        ("env other", 3, "There is no cluster 'other'"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(byok8s, line, code, sentence):
    got, out, err = byok8s(f"cluster {line}")
    assert (got, out) == (code, "")
    assert err.startswith(f"Error: {sentence}")
    assert err.count("\n") == 1


def test_list(byok8s, drivers):
    assert byok8s("cluster list") == (
        0,
        "There is no cluster; make one with: byok8s cluster create\n",
        "",
    )
    byok8s("cluster create")
    byok8s("cluster create laboratory")
    drivers["native"].clusters["dev"] = False
    assert byok8s("cluster list")[1].splitlines() == [
        "NAME         DRIVER   STATE     CONTEXT",
        "dev          native   stopped   byok8s-dev",
        "laboratory   native   running   byok8s-laboratory",
    ]
    assert byok8s("cluster list --driver kind")[1].startswith("There is no cluster")


def test_status(byok8s, drivers):
    byok8s("cluster create")
    table = ["COMPONENT    STATE", "API server   ready", "etcd         ready"]
    assert byok8s("cluster status")[:2] == (0, "\n".join(table) + "\n")
    drivers["native"].clusters["dev"] = False
    code, out, err = byok8s("cluster status")
    assert code == 3
    assert "not there" in out
    assert err == (
        "Error: Cluster 'dev' is not running; bring it back with: byok8s cluster create dev\n"
    )


def test_env_can_be_evaluated_by_a_shell(byok8s):
    byok8s("cluster create")
    code, out, _ = byok8s("cluster env")
    assert code == 0
    show = "import json, os; print(json.dumps(dict(os.environ)))"
    script = f"AWS_SESSION_TOKEN=old; export AWS_SESSION_TOKEN; {out}\npython3 -c '{show}'"
    printed = subprocess.run(
        ["sh", "-c", script], env={"PATH": os.environ["PATH"]}, capture_output=True, check=True
    )
    seen = json.loads(printed.stdout)
    assert {
        name: value for name, value in seen.items() if name.startswith(("AWS_", "BYOK8S_"))
    } == {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL_S3": "http://10.88.0.1:7070",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "BYOK8S_S3_BUCKET": "byok8s",
    }


def test_env_of_a_cluster_without_an_s3_server(byok8s):
    store.save(ClusterInfo("dev", "kind", "byok8s-dev"))
    code, out, err = byok8s("cluster env")
    assert (code, out) == (3, "")
    assert "'dev' has no S3 server" in err


def test_delete_and_delete_again(byok8s, tmp_path):
    byok8s("cluster create")
    assert byok8s("cluster delete")[:2] == (0, "Cluster 'dev' is deleted.\n")
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "state"])
    assert not (tmp_path / "state" / "byok8s").exists()
    assert byok8s("cluster delete")[:2] == (0, "There is no cluster 'dev'; nothing to delete.\n")


def test_a_cluster_of_another_driver(byok8s):
    byok8s("cluster create")
    code, _, err = byok8s("cluster create --driver minikube")
    assert code == 2
    assert "made by driver 'native', not by 'minikube'" in err
    assert byok8s("cluster status --driver minikube")[0] == 3


def test_every_driver_can_be_named():
    assert tuple(cluster.DRIVERS) == DRIVERS
