"""The batch system as a library, without Snakemake: the example, and what else it offers."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from byok8s.batch import BatchSystem, KubeClient, NeverFits, PodRequest, RunIdentity, Update
from byok8s.cluster import ClusterInfo
from byok8s.settings import KubeSettings

EXAMPLE = Path(__file__).parents[2] / "docs/examples/shell_batch.py"


@pytest.fixture(scope="module")
def client(cluster: ClusterInfo) -> Iterator[KubeClient]:
    name = f"library-{uuid.uuid4().hex[:6]}"
    made = KubeClient.load(KubeSettings(context=cluster.context, namespace=name))
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    made.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    yield made
    made.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def example(cluster: ClusterInfo, client: KubeClient) -> Callable[..., Any]:
    """Runs the example, with lines as its standard input."""

    def run(lines: str, *options: str) -> subprocess.CompletedProcess[str]:
        assert cluster.worker_image
        where = [f"--context={cluster.context}", f"--namespace={client.namespace}"]
        image = f"--image={cluster.worker_image}"
        command = [sys.executable, str(EXAMPLE), "-", image, *where, "--cpu=0.05", *options]
        return subprocess.run(
            command, input=lines, check=False, capture_output=True, text=True, timeout=120
        )

    return run


def pods(client: KubeClient) -> list[Any]:
    items: list[Any] = client.get(f"/api/v1/namespaces/{client.namespace}/pods")["items"]
    return items


def test_the_example_runs_a_file_of_commands(example: Callable[..., Any], client: KubeClient):
    lines = 'echo "$GREETING, pod"; sleep 1\n\nexit 7\nsh -c "kill -SEGV \\$\\$"; exit $?\n'
    done = example(lines, "--env=GREETING=hello", "--retries=1")
    said = done.stdout.splitlines()
    assert done.returncode == 2, done.stderr
    assert said.count("line-1 | hello, pod") == 1
    assert any(line.startswith("line-1: succeeded after ") for line in said)
    assert sum("line-3: failed after" in line for line in said) == 2
    assert any("The command failed with exit code 7." in line for line in said)
    assert "line-3: It has used up its 1 retry." not in said
    assert any(line.endswith("(retry 1 of 1).") for line in said)
    assert any("ended by signal SIGSEGV" in line for line in said)
    assert pods(client) == []


def test_the_example_says_what_never_fits(example: Callable[..., Any], client: KubeClient):
    done = example("true\n", "--cpu=2000")
    assert done.returncode == 1
    assert done.stdout.startswith("line-1: not issued. No node is large enough for the pod: it ")
    assert done.stderr == ""


def test_the_example_goes_on_with_what_a_killed_one_has_left(
    cluster: ClusterInfo, example: Callable[..., Any], client: KubeClient
):
    lines = "date +%s%N; sleep 6\n"
    where = [f"--context={cluster.context}", f"--namespace={client.namespace}"]
    image = f"--image={cluster.worker_image}"
    first = subprocess.Popen(
        [sys.executable, str(EXAMPLE), "-", image, *where, "--cpu=0.05"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert first.stdin
    first.stdin.write(lines)
    first.stdin.close()
    until(lambda: any(pod["status"]["phase"] == "Running" for pod in pods(client)))
    (before,) = pods(client)
    first.kill()
    first.wait()
    assert [pod["metadata"]["uid"] for pod in pods(client)] == [before["metadata"]["uid"]]
    done = example(lines)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("line-1 | ") == 1
    assert pods(client) == []


def test_environment_checks_and_what_is_waited_for(cluster: ClusterInfo, client: KubeClient):
    def request(job: str, script: str, **more: Any) -> PodRequest:
        assert cluster.worker_image
        more = {"cpu": 0.05, **more}
        return PodRequest(job, cluster.worker_image, ("bash", "-c", script), **more)

    identity = RunIdentity(f"library-{uuid.uuid4().hex[:6]}", "jane")
    with BatchSystem(client, identity) as batch:
        with pytest.raises(NeverFits, match="it asks for 2000 CPUs and the largest node has"):
            batch.check(request("large", "true", cpu=2000))
        with pytest.raises(NeverFits, match="it asks for 60000000 MB of disk"):
            batch.check(request("large", "true", disk_mb=60_000_000))
        batch.check(request("small", "true"))
        script = '[ "$FOO" = bar ] && exit 23; exit 42'
        batch.set_env("FOO", "bar")
        batch.issue(request("set", script))
        assert end(batch).exit_code == 23
        batch.set_env("FOO", None)
        batch.issue(request("unset", f"sleep 2; {script}"))
        told = end(batch)
        assert told.exit_code == 42 and told.wall_seconds and 2 <= told.wall_seconds < 30
        assert batch.status_message() is None
        gone = request("gone", "true")
        batch.issue(PodRequest("gone", "localhost/no-such-image:1", gone.command, cpu=0.05))
        until(lambda: "gone" in batch.waiting())
        message = batch.status_message()
        assert message and message.startswith(
            "Jobs that wait: 1 of 1. The image 'localhost/no-such-image:1' cannot be pulled; "
        )
    assert pods(client) == []


def end(batch: BatchSystem) -> Update:
    deadline = time.monotonic() + 60
    while (left := deadline - time.monotonic()) > 0:
        told = batch.updates(left)
        if told and told.state in ("succeeded", "failed"):
            return told
    raise AssertionError("nothing ended in 60 s")


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.1)
