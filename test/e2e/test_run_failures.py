"""What byok8s says when something goes wrong, and what it leaves behind: nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
import uuid
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from byok8s.batch import KubeClient
from byok8s.settings import KubeSettings
from support.project import BYOK8S, Project, clean_environment, kubectl, objects_left
from support.webhook import webhook


def test_a_failed_command_is_told_with_rule_wildcards_reason_and_log(
    project: Project, cluster: Any
) -> None:
    project.write(
        {
            "Snakefile": """
rule all:
    input: "ok.txt", "out/s7.txt"
rule bad:
    output: "out/{sample}.txt"
    shell: "echo the-last-words; exit 3"
rule ok:
    output: "ok.txt"
    shell: "echo fine > {output}"
"""
        }
    )
    done = project.run("--keep-going")
    assert done.code == 1
    assert "Failed: bad (sample=s7): the command exited with code 3\n" in done.out
    assert "    the-last-words\n" in done.out
    assert "1 job failed: bad (sample=s7)" in done.err
    assert "Traceback" not in done.text
    assert project.user_keys() == ["ok.txt"]
    log = re.search(rf"s3://{project.bucket}/(\S+\.log)", done.out)
    assert log and "the-last-words" in project.get(log[1])
    assert objects_left(cluster) == []


def test_the_tail_of_the_rules_own_log_is_shown_and_the_log_kept(project: Project) -> None:
    project.write(
        {
            "Snakefile": """
rule bad:
    output: "x.txt"
    log: "logs/bad.log"
    shell: "echo written to the log > {log}; exit 4"
"""
        }
    )
    done = project.run()
    assert done.code == 1
    assert "the command exited with code 4" in done.out
    assert "    written to the log\n" in done.out
    assert project.get("logs/bad.log") == "written to the log\n"


def test_retries_run_again_until_it_works(project: Project) -> None:
    project.write(
        {
            "Snakefile": """
rule flaky:
    output: "x.txt"
    resources: attempt=lambda wildcards, attempt: attempt
    shell: "test {resources.attempt} = 3 && echo {resources.attempt} > {output}"
"""
        }
    )
    assert project.run("--retries", "1").code == 1
    done = project.run("--retries", "2")
    assert done.code == 0, done.text
    assert "it is tried again" in done.out
    assert project.get("x.txt") == "3\n"


def test_out_of_memory_is_named(project: Project) -> None:
    project.write(
        {
            "Snakefile": """
rule big:
    output: "x.txt"
    resources: mem_mb=200
    shell: "python3 -c 'x = bytearray(600_000_000)'; echo > {output}"
"""
        }
    )
    done = project.run("--memory-retries", "0")
    assert done.code == 1
    assert "memory" in done.out and "200MB" in done.out and "mem_mb" in done.out


def test_what_is_not_the_commands_fault_costs_no_retry(project: Project, cluster: Any) -> None:
    project.write(
        {
            "Snakefile": """
rule all:
    input: "big.txt", "long.txt"
rule big:
    output: "big.txt"
    resources: mem_mb=150, attempt=lambda wildcards, attempt: attempt
    shell: "python3 -c 'x = bytearray(220_000_000)' && echo {resources.attempt} > {output}"
rule long:
    output: "long.txt"
    resources: bundle=0, attempt=lambda wildcards, attempt: attempt
    shell: "sleep 3 && echo {resources.attempt} > {output}"
"""
        }
    )
    deleted: list[str] = []

    def delete_once() -> None:
        names = ("get", "pods", "--selector=byok8s.io/rule=long", "--output=name", "-A")
        running = "--field-selector=status.phase=Running"
        deadline = time.monotonic() + 60
        while not deleted and time.monotonic() < deadline:
            deleted.extend(kubectl(cluster, *names, running).split())
        kubectl(cluster, "delete", "--wait=false", *deleted)

    somebody = threading.Thread(target=delete_once)
    somebody.start()
    done = project.run()
    somebody.join()
    assert done.code == 0, done.text
    assert project.get("big.txt") == project.get("long.txt") == "1\n"
    assert re.search(r"Again: big: .*with 300 MB instead of 150 MB and charged no retry", done.out)
    assert re.search(r"Again: long: .*deleted by somebody else.*\(disruption 1 of 10\)", done.out)
    assert "Failed" not in done.out
    assert objects_left(cluster) == []


def test_an_image_that_is_not_there_is_named(project: Project) -> None:
    project.write({"Snakefile": 'rule x:\n    output: "x"\n    shell: "touch {output}"\n'})
    done = project.run("--image", "localhost/no-such-image:1")
    assert done.code == 1
    assert "localhost/no-such-image:1" in done.out
    assert "Failed: x:" in done.out


def test_a_missing_output_is_named(project: Project) -> None:
    project.write({"Snakefile": 'rule x:\n    output: "x.txt"\n    shell: "true"\n'})
    done = project.run()
    assert done.code == 1
    assert "x.txt" in done.out
    assert project.user_keys() == []


@pytest.mark.parametrize(
    ("snakefile", "said"),
    [
        ("rule x\n", "line 1"),
        ('rule x:\n    output: "x"\n    nonsense: 3\n    shell: "true"\n', "nonsense"),
        ('rule x:\n    input: "absent.txt"\n    output: "x"\n    shell: "true"\n', "absent.txt"),
        ("import no_such_module\n", "no_such_module"),
        ("", "rule"),
    ],
)
def test_a_bad_snakefile_is_the_users_to_mend(
    project: Project, snakefile: str, said: str, cluster: Any
) -> None:
    project.write({"Snakefile": snakefile})
    done = project.run()
    assert done.code == 2, done.text
    assert said in done.err
    assert "Traceback" not in done.text
    assert objects_left(cluster) == []


def test_an_unknown_target_is_named(project: Project) -> None:
    project.write({"Snakefile": 'rule x:\n    output: "x"\n    shell: "true"\n'})
    done = project.run("nowhere.txt")
    assert done.code == 2
    assert "nowhere.txt" in done.err


def start_long_run(project: Project) -> subprocess.Popen[str]:
    project.write(
        {"Snakefile": 'rule x:\n    output: "x.txt"\n    shell: "sleep 300; touch {output}"\n'}
    )
    return subprocess.Popen(
        [BYOK8S, "run", "flow", "params", "-b", project.bucket, f"--context={project.context}"],
        cwd=project.folder,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_running_pod(cluster: Any) -> None:
    for _ in range(240):
        pods = kubectl(cluster, "get", "pods", "--no-headers", "--ignore-not-found")
        if any(re.match(r"flow-\S+ +1/1 +Running", line) for line in pods.splitlines()):
            return
        time.sleep(0.5)
    pytest.fail("no pod ran within two minutes")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_run_within_ten_seconds_and_leaves_nothing(
    project: Project, cluster: Any, number: int
) -> None:
    process = start_long_run(project)
    wait_for_running_pod(cluster)
    began = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    took = time.monotonic() - began
    assert process.returncode == 130, out + err
    assert "Traceback" not in out + err
    assert objects_left(cluster) == []
    assert took < 15, took  # the promise is 10 s; the margin is the test machine's
    assert project.user_keys() == []


def test_a_second_signal_ends_at_once_and_names_what_remains_and_its_removal(
    project: Project, cluster: Any
) -> None:
    process = start_long_run(project)
    wait_for_running_pod(cluster)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    said = ""
    while "press Ctrl-C again" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 1.5
    assert process.returncode == 130 and "Traceback" not in said + out + err
    found = re.search(
        r"Stopped at once\. (.+) may be left in the cluster; remove them with: "
        rf"byok8s (clean \S+ --context={cluster.context} --k8s-namespace=\S+)\n",
        err,
    )
    assert found, err
    assert found[1].startswith(("Its pods, Secret", "1 running and 0 waiting pods, with their"))
    deadline = time.monotonic() + 15
    while objects_left(cluster) and time.monotonic() < deadline:
        # the command that was printed; what the first signal began may have removed all
        project.byok8s(*found[2].split())
    assert objects_left(cluster) == []


def test_a_second_run_in_the_same_folder_is_refused(project: Project, cluster: Any) -> None:
    process = start_long_run(project)
    wait_for_running_pod(cluster)
    second = project.run()
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert second.code == 2
    assert "Another byok8s runs in" in second.err


MARKER = "marker-4711-do-not-show"


def forms(text: str) -> list[str]:
    """A text, and what of its base64 does not depend on what is around it, however it is aligned.

    A pod without volumes gets its keys in base64.
    """
    shifted = [b64encode(b"x" * shift + text.encode()).decode() for shift in range(3)]
    return [text, *(shifted[shift][4 * (shift > 0) : -4] for shift in range(3))]


def test_no_secret_is_shown_anywhere(
    project: Project, cluster: Any, s3: Any, tmp_path: Path
) -> None:
    """The S3 secret key and a user's own token are the markers."""
    secret = cluster.s3.secret_key
    project.write(
        {
            "Snakefile": """
envvars: "LAB_TOKEN"
rule all:
    input: "a.txt", "b.txt"
rule a:
    output: "a.txt"
    shell: "sleep 6; echo ${{#LAB_TOKEN}} > {output}"
rule b:
    output: "b.txt"
    shell: "echo failing; exit 1"
"""
        }
    )
    watches = [
        subprocess.Popen(
            ["kubectl", f"--context={cluster.context}", "get", kind, "-A", "-o", "json", "--watch"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for kind in ("pods", "events", "configmaps")
    ]
    try:
        done = project.run("--keep-going", "--debug", LAB_TOKEN=MARKER)
    finally:
        for watch in watches:
            watch.terminate()
    seen = "".join(watch.communicate(timeout=30)[0] for watch in watches)
    assert done.code == 1, done.text
    assert "BYOK8S_S3" in seen, "the watch saw no pod"
    texts = {"what the API shows": seen, "the output": done.text}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=project.bucket):
        for entry in page["Contents"]:
            body = s3.get_object(Bucket=project.bucket, Key=entry["Key"])["Body"].read()
            texts[f"s3 object {entry['Key']}"] = body.decode(errors="replace")
    for path in project.folder.rglob("*"):
        if path.is_file():
            texts[str(path)] = path.read_bytes().decode(errors="replace")
    assert project.get("a.txt") == f"{len(MARKER)}\n"
    for place, text in texts.items():
        for marker, what in ((secret, "secret key"), (MARKER, "token")):
            assert not [form for form in forms(marker) if form in text], f"the {what} is in {place}"


@pytest.mark.parametrize("options", [(), ("--no-bundle",)])
def test_where_a_policy_refuses_variables_from_secrets_pods_have_volumes(
    project: Project, cluster: Any, tmp_path: Path, options: tuple[str, ...]
) -> None:
    project.write(
        {
            "Snakefile": """
rule all:
    input: expand("{n}.txt", n=range(5))
rule one:
    output: "{n}.txt"
    shell: "grep -c ' /work ' /proc/mounts > {output}"
"""
        }
    )
    name = f"test-{uuid.uuid4().hex[:8]}"
    client = KubeClient.load(KubeSettings(context=cluster.context, namespace=name))
    refused: list[str] = []

    def refusal(pod: dict[str, Any]) -> str | None:
        variables = [v for c in pod["spec"]["containers"] for v in c.get("env", ())]
        if any("valueFrom" in variable for variable in variables):
            refused.append(pod["metadata"]["name"])
            return "no variables from Secrets"
        return None

    kubectl(cluster, "create", "namespace", name)
    try:
        with webhook(client, tmp_path) as hook:
            hook.refusal = refusal
            done = project.run("-k", name, *options)
        assert done.code == 0, done.text
        assert {project.get(f"{n}.txt") for n in range(5)} == {"1\n"}
        assert refused and "Failed" not in done.text
        assert objects_left(cluster) == []
    finally:
        kubectl(cluster, "delete", "namespace", name, "--wait=false")
