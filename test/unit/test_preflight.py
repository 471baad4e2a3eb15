"""Everything that is wrong is found before a run, told in one sentence each, with its exit code.

The cluster and the bucket are HTTP servers on this machine, so that the real clients are tried.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from byok8s.cluster import ClusterInfo, S3Server, store
from byok8s.exceptions import Byok8sError, ClusterError, SettingsError, StorageError
from byok8s.run.preflight import NEEDED, Ready, preflight
from byok8s.settings import WORKER_IMAGE, KubeSettings, RunSettings, S3Location
from click.testing import CliRunner

MARKER = "marker-secret-91c5"
LIST = '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"></ListBucketResult>'
MD5 = hashlib.md5(b"byok8s\n").hexdigest()  # of the object that is made to see


class FakeCluster:
    """What the API server knows: its namespaces and what is not allowed."""

    def __init__(self, loopback: Any) -> None:
        self.url: str = loopback.url
        self.namespaces = {"default", "lab"}
        self.forbidden: set[str] = set()
        self.rules: list[dict[str, Any]] = []  # none: as where another authorizer decides
        self.delay = 0.0
        self.asked: list[str] = []
        loopback.answer = self.answer

    def answer(self, request: Any) -> tuple[int, str, dict[str, str]]:
        time.sleep(self.delay)
        status, body = self.respond(request)
        return status, json.dumps(body), {"Content-Type": "application/json"}

    def respond(self, request: Any) -> tuple[int, dict[str, Any]]:
        path = request.path.partition("?")[0]
        if path == "/version":
            return 200, {"gitVersion": "v1.35.4"}
        if path.startswith("/api/v1/namespaces/"):
            found = path.rsplit("/", 1)[1] in self.namespaces
            return (200, {}) if found else (404, {"kind": "Status", "code": 404})
        review = json.loads(request.body)
        if path.endswith("selfsubjectrulesreviews"):
            return 201, {"status": {"resourceRules": self.rules, "incomplete": not self.rules}}
        what = review["spec"]["resourceAttributes"]
        part = f"/{what['subresource']}" if what.get("subresource") else ""
        action = f"{what['verb']} {what['resource']}{part}"
        self.asked.append(f"{action} {what['namespace']}")
        return 201, {"status": {"allowed": action not in self.forbidden}}


class FakeS3:
    """A bucket that answers well, but for the methods in `broken`."""

    def __init__(self, loopback: Any) -> None:
        self.url: str = loopback.url
        self.requests: list[Any] = loopback.requests
        self.broken: dict[str, tuple[int, str]] = {}
        loopback.answer = self.answer

    def answer(self, request: Any) -> tuple[int, str, dict[str, str]]:
        if request.method in self.broken:
            status, code = self.broken[request.method]
            return status, f"<Error><Code>{code}</Code></Error>", {}
        made = {"ETag": f'"{MD5}"', "Last-Modified": "Sat, 21 Nov 2026 12:00:00 GMT"}
        return 200, LIST if request.method == "GET" else "", made


@pytest.fixture
def cluster(start_loopback: Callable[[], Any]) -> FakeCluster:
    fake = FakeCluster(start_loopback())
    write_kubeconfig(fake.url)
    return fake


@pytest.fixture
def s3(start_loopback: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> FakeS3:
    """A bucket, keys for it in the environment, and no complaint about a loopback address."""
    fake = FakeS3(start_loopback())
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", MARKER)
    monkeypatch.setattr("byok8s.run.preflight.is_loopback", lambda _: False)
    return fake


@pytest.fixture(autouse=True)
def files(folder: Path) -> Path:
    Path("Snakefile").write_text("rule a:\n    output: 'a'\n    shell: 'touch a'\n")
    Path("workflow.json").write_text('{"workflow_target": "a"}')
    Path("params.json").write_text('{"name": "blue"}')
    return folder


def write_kubeconfig(server: str, context: str = "minikube", namespace: str | None = None) -> Path:
    inner = {"cluster": "c", "user": "u"} | ({"namespace": namespace} if namespace else {})
    path = Path.home() / ".kube/config"
    path.parent.mkdir(exist_ok=True)
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": context,
        "contexts": [{"name": context, "context": inner}],
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {}}],
    }
    path.write_text(json.dumps(content))
    return path


def settings(s3: FakeS3 | None = None, **changes: Any) -> RunSettings:
    basics = {
        "workflow": "workflow",
        "params": "params",
        "location": S3Location("mybucket", "p"),
        "endpoint_url": s3.url if s3 else None,
    }
    return RunSettings(**basics | changes)


def refusal(told: RunSettings, kind: type[Byok8sError]) -> list[str]:
    with pytest.raises(kind) as caught:
        preflight(told)
    assert type(caught.value) is kind
    assert MARKER not in str(caught.value)
    return str(caught.value).split("\n")


# --- all is well


def test_all_is_ready(cluster: FakeCluster, s3: FakeS3) -> None:
    ready = preflight(settings(s3, kube=KubeSettings(namespace="lab")))
    assert ready.client is not None and ready.s3 is not None and ready.account is not None
    assert (ready.client.context, ready.client.namespace) == ("minikube", "lab")
    assert ready.s3.endpoint_url == s3.url
    assert ready.account.current().access_key == "AKIAENV"
    assert ready.files.targets == ("a",)
    assert ready.image == WORKER_IMAGE
    assert ready.cluster is None
    assert MARKER not in repr(ready)


def test_every_permission_is_asked_for_in_the_namespace(cluster: FakeCluster, s3: FakeS3) -> None:
    preflight(settings(s3, kube=KubeSettings(namespace="lab")))
    wanted = {
        f"{verb} {resource}{'/' if part else ''}{part} lab"
        for verbs, resource, part in NEEDED
        for verb in verbs.split()
    }
    assert set(cluster.asked) == wanted
    assert {"create pods lab", "get pods/log lab", "delete secrets lab"} <= wanted


def test_the_contexts_namespace_is_taken(cluster: FakeCluster, s3: FakeS3) -> None:
    write_kubeconfig(cluster.url, namespace="lab")
    ready = preflight(settings(s3))
    assert ready.client is not None and ready.client.namespace == "lab"


def test_an_image_that_was_named_is_taken(cluster: FakeCluster, s3: FakeS3) -> None:
    assert preflight(settings(s3, image="localhost/x:1")).image == "localhost/x:1"


def test_the_parts_are_asked_at_the_same_time(cluster: FakeCluster, s3: FakeS3) -> None:
    preflight(settings(s3))  # imports what is slow to import
    cluster.delay = 0.1
    began = time.monotonic()
    preflight(settings(s3))
    assert time.monotonic() - began < 0.1 * 13  # as many calls, one after the other


# --- files: exit code 2


def test_all_bad_files_are_told(cluster: FakeCluster, s3: FakeS3) -> None:
    Path("Snakefile").unlink()
    Path("workflow.json").write_text("{")
    Path("params.json").write_text("[]")
    snakefile, workflow, params = refusal(settings(s3), SettingsError)
    assert "Snakefile 'Snakefile' not found" in snakefile
    assert "'workflow.json' is not valid JSON" in workflow and "(line 1, column 2)" in workflow
    assert "'params.json' holds empty ([]), but" in params


def test_a_kubeconfig_that_is_not_there_is_bad_usage(s3: FakeS3) -> None:
    told = settings(s3, kube=KubeSettings(kubeconfig=Path("none")))
    assert refusal(told, SettingsError) == [
        "The kubeconfig 'none' is not there; check --kubeconfig."
    ]


def test_bad_files_come_before_the_environment(cluster: FakeCluster, s3: FakeS3) -> None:
    Path("params.json").unlink()
    cluster.forbidden = {"create pods"}
    s3.broken = {"PUT": (403, "AccessDenied")}
    params, permissions, bucket = refusal(settings(s3), SettingsError)
    assert "Cannot find the parameter file" in params
    assert "may not create pods" in permissions
    assert "s3:PutObject" in bucket


# --- cluster: exit code 3


def test_no_kubeconfig(s3: FakeS3) -> None:
    (line,) = refusal(settings(s3), ClusterError)
    assert line.startswith("No kubeconfig was found (looked for ")


def test_without_a_context_only_a_server_that_was_named_is_asked(s3: FakeS3) -> None:
    (line,) = refusal(settings(), ClusterError)
    assert line.startswith("No kubeconfig was found") and s3.requests == []
    s3.broken = {"PUT": (403, "AccessDenied")}
    _, bucket = refusal(settings(s3), ClusterError)
    assert "s3:PutObject" in bucket


def test_an_unknown_context(cluster: FakeCluster, s3: FakeS3) -> None:
    (line,) = refusal(settings(s3, kube=KubeSettings(context="lab")), ClusterError)
    assert "no context 'lab'" in line and "minikube" in line


def test_a_cluster_out_of_reach(s3: FakeS3) -> None:
    write_kubeconfig("http://127.0.0.1:1")
    (line,) = refusal(settings(s3), ClusterError)
    assert "minikube" in line and "http://127.0.0.1:1" in line


def test_a_missing_namespace(cluster: FakeCluster, s3: FakeS3) -> None:
    told = settings(s3, kube=KubeSettings(namespace="ghost"))
    assert refusal(told, ClusterError) == [
        "Namespace 'ghost' not found in context 'minikube'; "
        "create it with: kubectl create namespace ghost --context minikube."
    ]


def test_all_missing_permissions_are_in_one_sentence(cluster: FakeCluster, s3: FakeS3) -> None:
    cluster.forbidden = {"create pods", "get pods/log", "create secrets"}
    (line,) = refusal(settings(s3), ClusterError)
    assert line.startswith(
        "The account of context 'minikube' may not create pods, get pods/log or create secrets "
        "in namespace 'default'; "
    )


# --- storage: exit code 3


def test_a_bucket_that_is_not_there(cluster: FakeCluster, s3: FakeS3) -> None:
    s3.broken = {"GET": (404, "NoSuchBucket")}
    (line,) = refusal(settings(s3), StorageError)
    assert f"create it with: aws s3 mb s3://mybucket --endpoint-url {s3.url}." in line


def test_no_credentials(cluster: FakeCluster, s3: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    (line,) = refusal(settings(s3), StorageError)
    assert line.startswith("No AWS credentials were found in the environment")
    assert s3.requests == []


def test_an_endpoint_on_this_machine_only(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = refusal(settings(endpoint_url="localhost:9000"), StorageError)
    assert line.startswith("The S3 endpoint http://localhost:9000 is this machine only")


def test_dry_run_checks_the_same(cluster: FakeCluster, s3: FakeS3) -> None:
    s3.broken = {"DELETE": (403, "AccessDenied")}
    assert "s3:DeleteObject" in refusal(settings(s3, dry_run=True), StorageError)[0]


# --- a cluster that byok8s made


@pytest.fixture
def made(cluster: FakeCluster, s3: FakeS3) -> ClusterInfo:
    server = S3Server(s3.url, "AKIACLUSTER", "cluster-" + MARKER, region="here")
    info = ClusterInfo("dev", "native", "byok8s-dev", "localhost/byok8s-worker:x", server)
    store.save(info)
    write_kubeconfig(cluster.url, "byok8s-dev")
    return info


def test_its_server_keys_region_and_image_are_found(made: ClusterInfo) -> None:
    ready = preflight(settings(region="elsewhere"))
    assert ready.s3 and ready.account and made.s3
    assert (ready.s3.endpoint_url, ready.s3.region) == (made.s3.endpoint_url, "here")
    assert ready.account.current().access_key == "AKIACLUSTER"
    assert ready.account.source == "cluster 'dev'"
    assert ready.image == made.worker_image
    assert ready.cluster == made
    assert MARKER not in repr(ready)


def test_with_an_endpoint_given_the_keys_are_the_environments(
    made: ClusterInfo, s3: FakeS3
) -> None:
    ready = preflight(settings(s3, region="elsewhere"))
    assert ready.s3 and ready.account
    assert ready.account.current().access_key == "AKIAENV"
    assert ready.s3.region == "elsewhere"


def test_when_it_is_down_the_command_that_brings_it_back_is_named(made: ClusterInfo) -> None:
    write_kubeconfig("http://127.0.0.1:1", "byok8s-dev")
    assert refusal(settings(), ClusterError) == [
        "Cluster 'dev' does not answer at http://127.0.0.1:1; "
        "bring it back with: byok8s cluster create dev."
    ]


# --- without a cluster


def test_local_without_a_bucket_asks_nobody(cluster: FakeCluster, s3: FakeS3) -> None:
    ready = preflight(RunSettings("workflow", "params", local=True))
    assert (ready.client, ready.s3, ready.account, ready.image) == (None, None, None, "")
    assert s3.requests == [] and cluster.asked == []


def test_local_with_a_bucket_checks_it_alone(cluster: FakeCluster, s3: FakeS3) -> None:
    ready: Ready = preflight(settings(s3, local=True))
    assert ready.client is None and ready.s3 is not None
    assert cluster.asked == []
    s3.broken = {"PUT": (403, "AccessDenied")}
    assert "s3:PutObject" in refusal(settings(s3, local=True), StorageError)[0]


# --- through the command line


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_the_sentences_and_the_exit_code_of_the_command(
    cluster: FakeCluster, s3: FakeS3, dry: list[str]
) -> None:
    from byok8s.command.root import root

    s3.broken = {"GET": (404, "NoSuchBucket")}
    arguments = ["workflow", "params", "-b", "mybucket", "-k", "ghost", *dry]
    result = CliRunner().invoke(root, [*arguments, "--s3-endpoint-url", s3.url])
    assert result.exit_code == 3
    assert "Namespace 'ghost' not found in context 'minikube'" in result.stderr
    assert "Bucket 'mybucket' does not exist" in result.stderr
    assert "Traceback" not in result.output and MARKER not in result.output
    debug = CliRunner().invoke(root, [*arguments, "--s3-endpoint-url", s3.url, "--debug"])
    assert "Traceback" in debug.stderr and MARKER not in debug.output
