"""A pod that is killed while it stores a large file leaves none of its parts in the bucket."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from byok8s.cluster import ClusterInfo
from support.project import BYOK8S, Project, clean_environment, kubectl
from support.s3proxy import Fault, S3Proxy

BYTES = 20_000_000
SNAKEFILE = f"""
rule x:
    output: "big.bin"
    shell: "head -c {BYTES} /dev/zero > {{output}}"
"""
ELSE = "not-of-the-run.bin"


class Run:
    """A run whose first part of big.bin gets no answer."""

    def __init__(self, project: Project, cluster: ClusterInfo, proxy: S3Proxy) -> None:
        self._project, self._cluster, self._proxy = project, cluster, proxy

    def start(self) -> subprocess.Popen[str]:
        project, server = self._project, self._cluster.s3
        assert server is not None
        where = ["-b", project.bucket, f"--context={project.context}"]
        where += [f"--s3-endpoint-url={self._proxy.endpoint_url}"]
        keys = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
        return subprocess.Popen(
            [BYOK8S, "run", "flow", "params", *where, "--no-bundle"],
            cwd=project.folder,
            env=clean_environment() | keys,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for_a_part(self) -> None:
        until = time.monotonic() + 60
        while ("PUT", "big.bin") not in self._proxy.requests:
            assert time.monotonic() < until, "no part was sent"
            time.sleep(0.05)

    def kill_pod(self) -> None:
        pods = ["-l", "byok8s.io/rule=x", "--grace-period=0", "--force"]
        kubectl(self._cluster, "delete", "pod", *pods)

    def begun(self) -> list[str]:
        """Keys of the uploads that are begun and not ended."""
        found = self._project.s3.list_multipart_uploads(Bucket=self._project.bucket)
        return [upload["Key"] for upload in found.get("Uploads", [])]

    def stored(self) -> int:
        head = self._project.s3.head_object(Bucket=self._project.bucket, Key="big.bin")
        return int(head["ContentLength"])


@pytest.fixture
def run(project: Project, cluster: ClusterInfo) -> Iterator[Run]:
    assert cluster.s3 is not None
    server = cluster.s3.endpoint_url
    project.write({"Snakefile": SNAKEFILE})
    other = project.s3.create_multipart_upload(Bucket=project.bucket, Key=ELSE)["UploadId"]
    with S3Proxy(server, host=urlsplit(server).hostname or "") as proxy:
        proxy.faults.append(Fault("PUT", "hang", key="big.bin", times=1))
        yield Run(project, cluster, proxy)
    project.s3.abort_multipart_upload(Bucket=project.bucket, Key=ELSE, UploadId=other)


def test_a_pod_is_deleted(run: Run) -> None:
    leader = run.start()
    run.wait_for_a_part()
    run.kill_pod()
    said, _ = leader.communicate(timeout=120)
    assert leader.returncode == 0, said
    assert "was deleted by somebody else" in said
    assert run.stored() == BYTES
    assert run.begun() == [ELSE]


def test_the_run_is_interrupted(run: Run) -> None:
    leader = run.start()
    run.wait_for_a_part()
    assert "big.bin" in run.begun()
    leader.send_signal(signal.SIGINT)
    said, _ = leader.communicate(timeout=30)
    assert leader.returncode == 130, said
    assert run.begun() == [ELSE]


def test_the_leader_is_killed_with_its_pod(run: Run) -> None:
    leader = run.start()
    run.wait_for_a_part()
    leader.kill()
    leader.communicate()
    run.kill_pod()
    leader = run.start()
    said, _ = leader.communicate(timeout=120)
    assert leader.returncode == 0, said
    assert "which lost its leader" in said
    assert run.stored() == BYTES
    assert run.begun() == [ELSE]
