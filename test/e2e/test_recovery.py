"""A leader that is killed or interrupted, and the next one: nothing runs twice, nothing is left."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.project import BYOK8S, Project, clean_environment, kubectl, objects_left

# Each run of a job leaves an object of its own
COUNT = """
import os, sys, uuid
from byok8s.worker.s3 import open_store
from byok8s.worker.names import CREDENTIALS_FILE
endpoint, region = os.environ["AWS_ENDPOINT_URL_S3"], os.environ["AWS_REGION"]
store = open_store(sys.argv[1], endpoint, region, CREDENTIALS_FILE)
store.put(f"count/{sys.argv[2]}/{uuid.uuid4()}", b"1")
"""
SNAKEFILE = """
SECONDS = {{"brief": 1, "long": 14, "late": 2}}
rule all:
    input: "sum.txt"
rule work:
    output: "out/{{name}}.txt"
    params: seconds=lambda wildcards: SECONDS[wildcards.name]
    resources: bundle=0
    shell: "python3 count.py {bucket} {{wildcards.name}}; sleep {{params.seconds}}; "
        "echo {{wildcards.name}} | tee {{output}}"
rule sum:
    input: expand("out/{{name}}.txt", name=SECONDS)
    output: "sum.txt"
    shell: "python3 count.py {bucket} sum; cat {{input}} > {{output}}"
"""


def start(project: Project, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            BYOK8S,
            "run",
            "flow",
            "params",
            f"--s3-bucket={project.bucket}",
            f"--context={project.context}",
            *arguments,
        ],
        cwd=project.folder,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pods(cluster: Any) -> dict[str, str]:
    """Phases of the pods of runs of `flow`, by job."""
    text = kubectl(cluster, "get", "pods", "-l", "app.kubernetes.io/managed-by=byok8s", "-o=json")
    return {
        item["metadata"]["labels"]["byok8s.io/job"]: item["status"]["phase"]
        for item in json.loads(text)["items"]
        if item["metadata"]["name"].startswith("flow-")
    }


def until(condition: Callable[[], Any], within: float = 90) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.3)


def in_namespace(project: Project, *arguments: str) -> Any:
    return project.byok8s(*arguments, f"--context={project.context}")


@pytest.fixture
def ready(project: Project) -> Project:
    snakefile = SNAKEFILE.format(bucket=project.bucket)
    project.write({"Snakefile": snakefile, "count.py": COUNT})
    return project


def test_case_15_after_kill_9_the_same_command_adopts_what_runs(
    ready: Project, cluster: Any, tmp_path: Path
) -> None:
    leader = start(ready)
    # of a rule nothing is known of, the third job gets its pod when the first has ended
    until(
        lambda: (
            pods(cluster).get("work-name-long") == "Running" and "work-name-brief" in pods(cluster)
        )
    )
    # from another folder the same command means the same run
    elsewhere = tmp_path / "elsewhere"
    for name in ("Snakefile", "count.py", "flow.json", "params.json"):
        ready.write({str(elsewhere / name): (ready.folder / name).read_text()})
    second = ready.run(cwd=elsewhere)
    assert second.code == 3, second.text
    refusal = re.search(
        r"The run '(flow-[0-9a-f]{8})' is led by \S+ on \S+ \(process (\d+)\)", second.err
    )
    assert refusal and refusal[2] == str(leader.pid)

    leader.kill()
    leader.communicate(timeout=30)
    until(lambda: pods(cluster).get("work-name-brief") == "Succeeded")
    listed = in_namespace(ready, "runs")
    assert re.search(rf"^{refusal[1]} .* dead for \d", listed.out, re.MULTILINE), listed.text
    assert "brief\n" in in_namespace(ready, "logs", refusal[1], "work").out

    done = ready.run(cwd=elsewhere)
    assert done.code == 0, done.text
    assert f"Going on with {refusal[1]}, which lost its leader" in done.out
    assert sorted(ready.get("sum.txt").split()) == ["brief", "late", "long"]
    assert times_run(ready) == {"brief": 1, "long": 1, "late": 1, "sum": 1}
    assert objects_left(cluster) == []
    # what was adopted is recorded like what was issued
    ready.write({"Snakefile": SNAKEFILE.format(bucket=ready.bucket).replace("; sleep", " ; sleep")})
    again = ready.run("--dry-run")
    assert again.code == 0 and "Code has changed" in again.text, again.text


def test_an_interrupted_run_may_leave_its_pods_and_clean_removes_them(
    ready: Project, cluster: Any
) -> None:
    leader = start(ready, "--on-exit=keep")
    until(lambda: pods(cluster).get("work-name-long") == "Running")
    leader.send_signal(signal.SIGINT)
    _, err = leader.communicate(timeout=30)
    assert leader.returncode == 130
    command = re.search(r"this removes them: byok8s (clean .*)$", err, re.MULTILINE)
    assert command and "Traceback" not in err
    assert pods(cluster)["work-name-long"] == "Running"
    done = ready.byok8s(*command[1].split())
    assert done.code == 0, done.text
    assert objects_left(cluster) == []


SHARED = """
NAMES = [f"n{{i}}" for i in range(8)] + ["slow"]
rule all:
    input: "sum.txt"
rule work:
    output: "out/{{name}}.txt"
    params: seconds=lambda wildcards: 9 if wildcards.name == "slow" else 1.2
    shell: "python3 count.py {bucket} {{wildcards.name}}; sleep {{params.seconds}}; "
        "echo {{wildcards.name}} | tee {{output}}"
rule sum:
    input: expand("out/{{name}}.txt", name=NAMES)
    output: "sum.txt"
    shell: "python3 count.py {bucket} sum; cat {{input}} > {{output}}"
"""


def times_run(project: Project) -> Counter[str]:
    return Counter(key.split("/")[1] for key in project.user_keys() if key.startswith("count/"))


def test_case_15_jobs_that_share_a_pod_are_adopted_too(project: Project, cluster: Any) -> None:
    project.write({"Snakefile": SHARED.format(bucket=project.bucket), "count.py": COUNT})
    for _ in range(2):
        leader = start(project)
        known = sum(times_run(project).values())
        until(lambda known=known: sum(times_run(project).values()) >= known + 2)
        leader.kill()
        leader.communicate(timeout=30)
    done = project.run()
    assert done.code == 0, done.text
    assert len(project.get("sum.txt").split()) == 9
    names = [f"n{i}" for i in range(8)] + ["slow", "sum"]
    assert times_run(project) == dict.fromkeys(names, 1), done.text
    assert objects_left(cluster) == []
    again = project.run("--dry-run")
    assert "Nothing to be done" in again.text, again.text


RETRIED = """
rule work:
    output: "out.txt"
    retries: 2
    resources: bundle=0, mem_mb=lambda wildcards, attempt: 200 * attempt
    shell: "python3 count.py {bucket} work-{{resources.mem_mb}}; "
        "if [ {{resources.mem_mb}} = 200 ]; then exit 3; fi; sleep 8; "
        "echo {{resources.mem_mb}} | tee {{output}}"
"""


def test_case_15_a_retried_job_is_adopted_with_its_attempt(project: Project, cluster: Any) -> None:
    project.write({"Snakefile": RETRIED.format(bucket=project.bucket), "count.py": COUNT})
    leader = start(project)
    until(lambda: times_run(project)["work-400"] == 1)
    leader.kill()
    leader.communicate(timeout=30)
    done = project.run()
    assert done.code == 0, done.text
    assert project.get("out.txt") == "400\n"
    assert times_run(project) == {"work-200": 1, "work-400": 1}, done.text
    assert objects_left(cluster) == []
