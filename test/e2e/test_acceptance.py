"""Acceptance cases that it takes a whole run to show.

Each case is found by its number, as `pytest -k case_17`. 1 to 3, 11 to 13, 16, 17 and 20 are in
test_batch.py, 14 there and in test_causes.py, 15 in test_recovery.py, 4 to 6 in unit/batch. What
16 says of 1,200 jobs and a minute, a benchmark shows (bench/scale.py): 5,000 ends, each told within
a second.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from byok8s.cluster import ClusterInfo
from support.project import Project
from support.s3proxy import S3Proxy

SORT = """
rule sorted:
    input: "down.txt", "up.txt"
    output: "sorted.txt"
    shell: "sort -n {input} > {output}"
rule down:
    output: "down.txt"
    shell: "seq 50 -1 1 > {output}"
rule up:
    output: "up.txt"
    params: fail=config.get("fail", 0)
    shell: "test {params.fail} = 0 && seq 51 100 > {output}"
"""
ALL = "".join(f"{number}\n" for number in range(1, 101))


def test_case_10_after_a_failure_the_restart_completes(project: Project) -> None:
    project.write({"Snakefile": SORT})
    failed = project.run("--param=fail=1", "--keep-going")
    assert failed.code == 1, failed.text
    assert project.user_keys() == ["down.txt"]  # what was done stays done
    done = project.run("--param=fail=0")
    assert done.code == 0, done.text
    assert "2 jobs" in done.out
    assert project.get("sorted.txt") == ALL


def test_case_19_an_endpoint_without_a_port(
    project: Project, cluster: ClusterInfo, s3: Any
) -> None:
    server = cluster.s3
    assert server is not None
    host = urlsplit(server.endpoint_url).hostname or ""
    project.write({"Snakefile": SORT})
    project.env = {
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "AWS_REGION": server.region,
    }
    with S3Proxy(server.endpoint_url, host=host, port=80) as proxy:
        done = project.run("--s3-endpoint-url", host)
        leader, *_ = senders = proxy.senders  # the leader asks first
    assert done.code == 0, done.text
    assert project.get("sorted.txt") == ALL
    assert set(senders) - {leader}  # pods have addresses of their own
