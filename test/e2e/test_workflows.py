"""The 2019 test set: workflows alpha, gamma and zeta with parameters blue and red."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.project import Project, clean_environment, kubectl

FOLDER = Path(__file__).parent.parent
CONTENTS = {
    "alpha": ("alpha.txt", "alpha {}\n"),
    "gamma": ("gamma.txt", "gamma {}\n"),
    "zeta": ("zeta.txt", "zetaA {0}\nzetaB {0}\n"),
}


@pytest.fixture
def old_set(project: Project) -> Project:
    for path in [FOLDER / "Snakefile", *FOLDER.glob("*.json")]:
        project.write({path.name: path.read_bytes()})
    return project


def run(project: Project, workflow: str, params: str) -> Any:
    context = f"--context={project.context}"
    return project.byok8s(f"workflow-{workflow}", f"params-{params}", "-b", project.bucket, context)


@pytest.mark.parametrize("params", ["blue", "red"])
@pytest.mark.parametrize("workflow", CONTENTS)
def test_contents(old_set: Project, workflow: str, params: str) -> None:
    done = run(old_set, workflow, params)
    assert done.code == 0, done.text
    file, content = CONTENTS[workflow]
    assert old_set.get(file) == content.format(params)


def test_red_after_blue_runs_again_and_blue_after_blue_does_not(old_set: Project) -> None:
    assert run(old_set, "alpha", "blue").code == 0
    again = run(old_set, "alpha", "blue")
    assert again.code == 0 and "Nothing to be done" in again.text
    assert run(old_set, "alpha", "red").code == 0
    assert old_set.get("alpha.txt") == "alpha red\n"


def test_zetas_chains_run_at_the_same_time(old_set: Project, cluster: Any) -> None:
    command = [sys.executable, "-m", "byok8s", "workflow-zeta", "params-blue", "-b", old_set.bucket]
    with subprocess.Popen(
        [*command, f"--context={old_set.context}"],
        cwd=old_set.folder,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        together: set[str] = set()
        while process.poll() is None and len(together) < 2:
            together = running_chains(cluster)
            time.sleep(0.3)
        text, _ = process.communicate(timeout=120)
    assert process.returncode == 0, text
    assert together == {"A", "B"}, text


def running_chains(cluster: Any) -> set[str]:
    """Which of the two chains have a pod that runs just now."""
    selector = "app.kubernetes.io/managed-by=byok8s"
    pods = json.loads(kubectl(cluster, "get", "pods", "-A", "-l", selector, "-o", "json"))["items"]
    rules = [
        pod["metadata"]["labels"].get("byok8s.io/rule", "")
        for pod in pods
        if pod["status"].get("phase") == "Running"
    ]
    return {rule[5] for rule in rules if rule.startswith("chain")}
