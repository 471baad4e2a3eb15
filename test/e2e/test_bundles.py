"""Short jobs share pods, and none of them suffers for what happens to another one."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

from support.project import BYOK8S, Project, clean_environment, kubectl, objects_left

# Each job tells its pod, and whether it found its folder as it should: without what others left
SNAKEFILE = """
rule all:
    input: expand("out/{name}.txt", name=config["names"])
rule work:
    output: "out/{name}.txt"
    resources: mem_mb=200, bundle=lambda wildcards: 0 if wildcards.name == "alone" else 1
    shell:
        '''
        [ ! -e mark ]; touch mark
        case {wildcards.name} in
            fails) echo last words; exit 7;;
            hungry) python3 -c "bytearray(400_000_000)";;
            long) sleep 20;;
            slow*) sleep 0.7;;
        esac
        hostname > {output}
        '''
"""


def given(project: Project, *names: str) -> None:
    project.write({"Snakefile": SNAKEFILE, "params.json": json.dumps({"names": names})})


def hosts(project: Project, *names: str) -> dict[str, str]:
    return {name: project.get(f"out/{name}.txt").strip() for name in names}


def done_in_order(text: str) -> list[str]:
    return re.findall(r"^\[.*work \(name=(\w+)\) done", text, re.MULTILINE)


def test_one_that_fails_one_beyond_its_memory_and_a_long_one_touch_no_other(
    project: Project, cluster: Any
) -> None:
    plain = [f"p{i}" for i in range(12)]
    given(project, *plain[:3], "fails", *plain[3:6], "hungry", *plain[6:9], "long", *plain[9:],
          "alone")  # fmt: skip
    done = project.run("--keep-going", "--memory-retries=0")
    assert done.code == 1
    assert re.search(r"Failed: work \(name=fails\): the command exited with code 7\n.*\n"
                     r" +last words", done.out), done.text  # fmt: skip
    assert re.search(r"Failed: work \(name=hungry\): .*memory", done.out), done.text
    assert len(re.findall("^Failed: ", done.out, re.MULTILINE)) == 2
    order = done_in_order(done.out)
    assert sorted(order) == sorted([*plain, "long", "alone"]), "each once"
    assert order[-1] == "long", "it makes nobody wait"
    where = hosts(project, *plain, "long", "alone")
    assert len({where[name] for name in plain}) < len(plain), "pods are shared"
    assert where["alone"] not in {where[name] for name in (*plain, "long")}
    assert objects_left(cluster) == []


def test_jobs_of_a_pod_that_is_deleted_run_elsewhere_and_finished_ones_do_not(
    project: Project, cluster: Any
) -> None:
    names = [f"slow{i}" for i in range(8)]
    given(project, *names)
    command = [BYOK8S, "run", "flow", "params", "-b", project.bucket, "--retries=0"]
    with subprocess.Popen(
        [*command, f"--context={project.context}"],
        cwd=project.folder,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as leader:
        assert leader.stdout is not None
        text = ""
        while not done_in_order(text):
            line = leader.stdout.readline()
            assert line, text
            text += line
        first = done_in_order(text)[0]
        lost = project.get(f"out/{first}.txt").strip()
        kubectl(cluster, "delete", "pod", lost, "--grace-period=0", "--force")
        text += leader.stdout.read()
    assert leader.returncode == 0, text
    where = hosts(project, *names)
    assert where[first] == lost, "it is not run again"
    assert len(set(where.values())) > 1, "the others have gone elsewhere"
    assert "Failed: " not in text, text
    assert sorted(done_in_order(text)) == names, "each once"
    assert objects_left(cluster) == []
