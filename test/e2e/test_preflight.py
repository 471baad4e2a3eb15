"""What is checked before a run, on the real cluster: each sentence and exit code, nothing left."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.project import Done, Project, kubectl

MARKER = "marker-secret-3d8e"
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def ready(project: Project) -> Project:
    """A project in which nothing is wrong."""
    project.write({"Snakefile": 'rule one:\n    output: "one.txt"\n    shell: "touch {output}"\n'})
    return project


@pytest.fixture
def namespace(cluster: Any) -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex[:8]}"
    kubectl(cluster, "create", "namespace", name)
    yield name
    kubectl(cluster, "delete", "namespace", name, "--wait=false")


def refused(done: Done, code: int) -> list[str]:
    """The sentences of a command that ended before anything was submitted."""
    assert done.code == code, done.text
    assert "Traceback" not in done.text and MARKER not in done.text
    assert done.out == ""
    told = done.err.partition("Error: ")[2].strip()
    assert told
    return told.split("\n")


def objects_in(cluster: Any, namespace: str) -> str:
    """byok8s's objects in a namespace of the test's own: other runs may be at work in others."""
    selector = "app.kubernetes.io/managed-by=byok8s"
    kinds = "pods,secrets,configmaps"
    return kubectl(cluster, "get", kinds, "-n", namespace, "-l", selector, "-o", "name").strip()


def checking_seconds(done: Done) -> float:
    (seconds,) = re.findall(r"Checking the files.*: done in ([\d.]+) s", done.err)
    return float(seconds)


def account_kubeconfig(cluster: Any, namespace: str, folder: Path) -> Path:
    """A kubeconfig for a new ServiceAccount, which may do nothing yet."""
    kubectl(cluster, "create", "serviceaccount", "runner", "-n", namespace)
    token = kubectl(cluster, "create", "token", "runner", "-n", namespace).strip()
    path = folder / "account.yaml"
    text = kubectl(cluster, "config", "view", "--minify", "--raw", "-o", "json")
    content = json.loads(text)
    content["users"][0]["user"] = {"token": token}
    path.write_text(json.dumps(content))
    return path


# --- all is well


def test_a_ready_environment_passes_quickly_and_nothing_is_left(
    ready: Project, cluster: Any, namespace: str
) -> None:
    done = ready.run("--dry-run", "-k", namespace)
    assert done.code == 0, done.text
    assert checking_seconds(done) < 10  # under 3 s on an idle machine; tests share theirs
    assert ready.user_keys() == []
    assert objects_in(cluster, namespace) == ""


def test_the_documented_role_is_enough_to_run(
    ready: Project, cluster: Any, namespace: str, tmp_path: Path
) -> None:
    kubeconfig = account_kubeconfig(cluster, namespace, tmp_path)
    arguments = ("-k", namespace, f"--kubeconfig={kubeconfig}")
    (line,) = refused(ready.run(*arguments), 3)
    assert line == (
        f"The account of context '{ready.context}' may not create pods, get pods, list pods, watch "
        "pods, delete pods, deletecollection pods, get pods/log, create configmaps, get "
        "configmaps, list configmaps, patch configmaps, delete configmaps, create secrets, "
        "patch secrets or delete secrets in "
        f"namespace '{namespace}'; ask for a Role that allows it (docs/errors.md has one to "
        "apply)."
    )
    (block,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "errors.md").read_text(), re.DOTALL)
    role, binding = yaml.safe_load_all(block)
    binding["subjects"] = [{"kind": "ServiceAccount", "name": "runner", "namespace": namespace}]
    path = tmp_path / "role.yaml"
    path.write_text(yaml.safe_dump_all([role, binding]))
    kubectl(cluster, "apply", "-n", namespace, "-f", str(path))
    done = ready.run(*arguments)
    assert done.code == 0, done.text
    assert ready.get("one.txt") == ""
    assert objects_in(cluster, namespace) == ""


# --- what is wrong


def test_bad_files_end_with_2(ready: Project) -> None:
    ready.write({"flow.json": '{"workflow_target": 5}', "params.json": '{\n"a": 1,\n}'})
    workflow, params = refused(ready.run("--dry-run"), 2)
    assert "'flow.json': workflow_target is 5, but must be one target or a list" in workflow
    assert "'params.json' is not valid JSON: " in params and "(line " in params


def test_a_bad_file_and_a_bad_environment_are_told_together(ready: Project) -> None:
    (ready.folder / "Snakefile").unlink()
    lines = refused(ready.run("-k", "ghost", "--s3-endpoint-url=http://10.88.0.1:1"), 2)
    assert [line.split(" ")[0] for line in lines] == ["Snakefile", "Namespace", "No"]


def test_a_missing_namespace(ready: Project, cluster: Any) -> None:
    for dry in ([], ["--dry-run"]):
        (line,) = refused(ready.run("-k", "ghost", *dry), 3)
        assert line == (
            f"Namespace 'ghost' not found in context '{ready.context}'; "
            f"create it with: kubectl create namespace ghost --context {ready.context}."
        )


def test_an_unknown_context(ready: Project) -> None:
    (line,) = refused(ready.run("--context=ghost"), 3)
    assert "no context 'ghost'" in line and ready.context in line


def test_no_kubeconfig_and_a_broken_one(ready: Project, tmp_path: Path) -> None:
    (line,) = refused(ready.run("--kubeconfig=none"), 2)
    assert line.startswith("The kubeconfig 'none' is not there")
    lines = refused(ready.run(KUBECONFIG=str(tmp_path / "none")), 3)
    assert lines[0].startswith("No kubeconfig was found")
    broken = tmp_path / "broken"
    broken.write_text("a: [")
    assert "is not YAML" in refused(ready.run(f"--kubeconfig={broken}"), 3)[0]


@pytest.mark.parametrize(
    ("part", "key", "value", "words"),
    [
        (
            "cluster",
            "server",
            "https://10.88.0.1:1",
            "does not answer at https://10.88.0.1:1; bring it",
        ),
        ("cluster", "server", "https://10.88.0.1:7070", "does not answer at"),  # the S3 server
        ("user", "token", MARKER, "does not accept the credentials of context"),
    ],
)
def test_a_kubeconfig_that_leads_nowhere(
    ready: Project, cluster: Any, tmp_path: Path, part: str, key: str, value: str, words: str
) -> None:
    content = json.loads(kubectl(cluster, "config", "view", "--minify", "--raw", "-o", "json"))
    entry = content[f"{part}s"][0]
    entry[part] = ({} if part == "user" else entry[part]) | {key: value}
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(content))
    (line,) = refused(ready.run(f"--kubeconfig={path}"), 3)
    assert words in line


def test_a_certificate_of_another_cluster(ready: Project, cluster: Any, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=other",
         "-days", "1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    content = json.loads(kubectl(cluster, "config", "view", "--minify", "--raw", "-o", "json"))
    authority = base64.b64encode(certificate.read_bytes()).decode()
    content["clusters"][0]["cluster"]["certificate-authority-data"] = authority
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(content))
    (line,) = refused(ready.run(f"--kubeconfig={path}"), 3)
    assert line.startswith("The certificate of the API server") and "is not trusted" in line


def test_a_missing_bucket(ready: Project, cluster: Any) -> None:
    ready.bucket = f"test-{uuid.uuid4().hex[:12]}"
    (line,) = refused(ready.run("--dry-run"), 3)
    assert line == (
        f"Bucket '{ready.bucket}' does not exist at {cluster.s3.endpoint_url}; create it with: "
        f"aws s3 mb s3://{ready.bucket} --endpoint-url {cluster.s3.endpoint_url}."
    )


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "No AWS credentials were found in the environment"),
        ({"AWS_ACCESS_KEY_ID": "AKIA"}, "AWS_SECRET_ACCESS_KEY is not; set both"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "AWS_ACCESS_KEY_ID is empty"),
        ({"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": MARKER}, "does not know them"),
        ({"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": MARKER + " "}, "holds a space"),
        ({"AWS_PROFILE": "ghost"}, "profile 'ghost' do not exist"),
    ],
)  # fmt: skip
def test_credentials_that_do_not_work(
    ready: Project, cluster: Any, keys: dict[str, str], words: str
) -> None:
    endpoint = f"--s3-endpoint-url={cluster.s3.endpoint_url}"
    (line,) = refused(ready.run(endpoint, AWS_EC2_METADATA_DISABLED="true", **keys), 3)
    assert words in line


def test_a_wrong_secret_key(ready: Project, cluster: Any) -> None:
    keys = {"AWS_ACCESS_KEY_ID": cluster.s3.access_key, "AWS_SECRET_ACCESS_KEY": MARKER}
    done = ready.run(f"--s3-endpoint-url={cluster.s3.endpoint_url}", **keys)
    assert refused(done, 3)[0].endswith("; check the secret key.")


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("http://10.88.0.1:1", "cannot be reached"),
        ("https://10.88.0.1:7070", "makes no TLS connection"),
        ("https://10.88.0.1:6443", "makes no TLS connection"),  # the API server's own authority
        ("localhost:7070", "is this machine only"),
    ],
)
def test_an_endpoint_that_does_not_work(ready: Project, endpoint: str, words: str) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": MARKER}
    (line,) = refused(ready.run(f"--s3-endpoint-url={endpoint}", **keys), 3)
    assert words in line


def test_an_endpoint_that_is_no_url_is_bad_usage(ready: Project) -> None:
    (line,) = refused(ready.run("--s3-endpoint-url=ftp://x"), 2)
    assert "'ftp://x' is not an http or https URL" in line


# --- what is found by itself, and what was told otherwise


def test_an_endpoint_without_a_scheme_and_keys_from_the_environment_or_a_profile(
    ready: Project, cluster: Any, tmp_path: Path
) -> None:
    address = cluster.s3.endpoint_url.removeprefix("http://")
    keys = {
        "AWS_ACCESS_KEY_ID": cluster.s3.access_key,
        "AWS_SECRET_ACCESS_KEY": cluster.s3.secret_key,
    }
    done = ready.run("-n", AWS_ENDPOINT_URL=address, **keys)
    assert done.code == 0, done.text
    config = tmp_path / "config"
    lines = [f"{name.lower()} = {value}\n" for name, value in keys.items()]
    config.write_text("[profile lab]\n" + "".join(lines))
    profile = {"AWS_PROFILE": "lab", "AWS_CONFIG_FILE": str(config)}
    done = ready.run("-n", AWS_ENDPOINT_URL_S3=address, **profile)
    assert done.code == 0, done.text


def test_foreign_keys_and_region_in_the_environment_do_not_disturb(ready: Project) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": MARKER, "AWS_REGION": "eu-west-1"}
    done = ready.run("-n", **keys)
    assert done.code == 0, done.text


def test_the_bucket_from_the_environment(ready: Project) -> None:
    context = f"--context={ready.context}"
    done = ready.byok8s("flow", "params", "-n", context, BYOK8S_S3_BUCKET=f"s3://{ready.bucket}/p")
    assert done.code == 0, done.text
    assert f"s3://{ready.bucket}/p" in done.text
    (line,) = refused(ready.byok8s("flow", "params", "-n", context), 2)
    assert line.startswith("No S3 bucket given; name one with --s3-bucket (-b) or BYOK8S_S3_BUCKET")


def test_a_server_that_never_answers_does_not_hold_us_up(ready: Project) -> None:
    """10.88.0.254 is an address of the cluster's own bridge at which nobody is."""
    keys = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": MARKER}
    began = time.monotonic()
    (line,) = refused(ready.run("--s3-endpoint-url=http://10.88.0.254:9000", **keys), 3)
    assert "cannot be reached" in line
    assert time.monotonic() - began < 20
