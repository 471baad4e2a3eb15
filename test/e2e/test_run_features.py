"""Snakemake's features, one by one, in pods with files in the bucket."""

from __future__ import annotations

import json
import re
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest
from support.project import BYOK8S, Project, clean_environment, objects_left


def snakefile(text: str) -> str:
    return textwrap.dedent(text).lstrip()


def ok(done: Any) -> Any:
    assert done.code == 0, done.text
    return done


def test_one_rule_one_output_and_nothing_left(project: Project, cluster: Any) -> None:
    project.write(
        {"Snakefile": 'rule one:\n    output: "one.txt"\n    shell: "echo 1 > {output}"\n'}
    )
    done = ok(project.run())
    assert project.get("one.txt") == "1\n"
    assert "Done: 1 job" in done.out
    assert objects_left(cluster) == []


def test_same_command_again_does_nothing_from_anywhere(
    project: Project, tmp_path: Any, cluster: Any
) -> None:
    files = {
        "Snakefile": snakefile(
            """
            colour = config["name"]
            rule all:
                input: "b.txt", "c.txt"
            rule a:
                output: "a.txt"
                shell: "echo {colour} > {output}"
            rule b:
                input: "a.txt"
                output: "b.txt"
                script: "copy.py"
            rule c:
                output: "c.txt"
                shell: "echo steady > {output}"
            """
        ),
        "copy.py": "import shutil; shutil.copy(snakemake.input[0], snakemake.output[0])\n",
        "params.json": '{"name": "blue"}',
    }
    project.write(files)
    ok(project.run())
    again = ok(project.run())
    assert "Nothing to be done" in again.out
    elsewhere = Project(tmp_path / "elsewhere", project.bucket, project.s3, project.context)
    elsewhere.write({**files, "flow.json": "{}"})
    assert "Nothing to be done" in ok(elsewhere.run()).out
    # a changed value of the params re-runs what depends on it, and only that
    elsewhere.write({"params.json": '{"name": "red"}'})
    changed = ok(elsewhere.run())
    assert project.get("b.txt") == "red\n"
    assert "Done: 2 jobs" in changed.out or "Done: 3 jobs" in changed.out  # with rule all
    assert "c done" not in changed.out
    # a changed script too
    elsewhere.write({"copy.py": "open(snakemake.output[0], 'w').write('new')\n"})
    ok(elsewhere.run())
    assert project.get("b.txt") == "new"
    assert "Nothing to be done" in ok(elsewhere.run()).out


def test_independent_jobs_run_at_the_same_time(project: Project) -> None:
    project.write(
        {
            "Snakefile": snakefile(
                """
                rule all:
                    input: "a.txt", "b.txt"
                rule sleep:
                    output: "{x}.txt"
                    shell: "date +%s.%N > {output}; sleep 4; date +%s.%N >> {output}"
                """
            )
        }
    )
    ok(project.run())
    spans = [[float(line) for line in project.get(f"{x}.txt").split()] for x in "ab"]
    (first_start, first_end), (second_start, second_end) = spans
    assert first_start < second_end and second_start < first_end, spans


def test_temp_is_removed(project: Project) -> None:
    project.write(
        {
            "Snakefile": snakefile(
                """
                rule last:
                    input: "middle.txt"
                    output: "last.txt"
                    shell: "cat {input} > {output}"
                rule middle:
                    output: temp("middle.txt")
                    shell: "echo x > {output}"
                """
            )
        }
    )
    ok(project.run())
    assert project.user_keys() == ["last.txt"]
    assert "Nothing to be done" in ok(project.run()).out


def test_touch_also_on_dotfiles(project: Project) -> None:
    project.write(
        {
            "Snakefile": snakefile(
                """
                rule after:
                    input: ".mark", "flags/visible"
                    output: "after.txt"
                    shell: "echo after > {output}"
                rule mark:
                    output: touch(".mark"), touch("flags/visible")
                    shell: "true"
                """
            )
        }
    )
    ok(project.run())
    assert project.user_keys() == [".mark", "after.txt", "flags/visible"]
    assert "Nothing to be done" in ok(project.run()).out


def test_directory_output(project: Project) -> None:
    project.write(
        {
            "Snakefile": snakefile(
                """
                rule count:
                    input: "many"
                    output: "count.txt"
                    shell: "ls {input} | wc -l > {output}; cat {input}/sub/x >> {output}"
                rule many:
                    output: directory("many")
                    shell: "mkdir -p {output}/sub; for i in 1 2 3; do echo $i > {output}/$i; done; "
                           "echo deep > {output}/sub/x"
                """
            )
        }
    )
    ok(project.run())
    assert project.get("count.txt").split() == ["4", "deep"]
    assert "many/sub/x" in project.user_keys()
    assert "Nothing to be done" in ok(project.run()).out


def test_protected_output(project: Project) -> None:
    project.write(
        {
            "Snakefile": snakefile(
                """
                rule keep:
                    output: protected("keep.txt")
                    shell: "echo kept > {output}"
                """
            )
        }
    )
    ok(project.run())
    assert project.get("keep.txt") == "kept\n"
    assert "Nothing to be done" in ok(project.run()).out


def test_checkpoint(project: Project) -> None:
    project.write(
        {
            "Snakefile": snakefile(
                """
                def parts(wildcards):
                    folder = checkpoints.split.get().output[0]
                    found = glob_wildcards(folder + "/{i}.txt").i
                    return expand("upper/{i}.txt", i=sorted(found))
                rule gather:
                    input: parts
                    output: "all.txt"
                    shell: "cat {input} > {output}"
                checkpoint split:
                    output: directory("parts")
                    shell: "mkdir {output}; for i in a b c; do echo $i > {output}/$i.txt; done"
                rule upper:
                    input: "parts/{i}.txt"
                    output: "upper/{i}.txt"
                    shell: "tr a-z A-Z < {input} > {output}"
                """
            )
        }
    )
    ok(project.run())
    assert project.get("all.txt") == "A\nB\nC\n"
    assert "Nothing to be done" in ok(project.run()).out


def test_glob_wildcards_on_inputs_in_the_bucket(project: Project) -> None:
    for sample in ("s1", "s2"):
        project.put(f"data/{sample}.txt", sample)
    project.write(
        {
            "Snakefile": snakefile(
                """
                SAMPLES = sorted(glob_wildcards("data/{sample}.txt").sample)
                rule all:
                    input: expand("out/{sample}.txt", sample=SAMPLES), "names.txt"
                rule copy:
                    input: "data/{sample}.txt"
                    output: "out/{sample}.txt"
                    shell: "cp {input} {output}"
                rule names:
                    input: expand("data/{sample}.txt", sample=SAMPLES)
                    output: "names.txt"
                    run:
                        open(output[0], "w").write(" ".join(SAMPLES))
                """
            )
        }
    )
    ok(project.run())
    assert project.get("out/s2.txt") == "s2"
    assert project.get("names.txt") == "s1 s2"


def test_input_functions(project: Project) -> None:
    project.put("raw/x.txt", "from x\n")
    project.write(
        {
            "Snakefile": snakefile(
                """
                rule pick:
                    input: lambda wildcards: f"raw/{config['which']}.txt"
                    output: "picked.txt"
                    shell: "cat {input} > {output}"
                """
            ),
            "params.json": '{"which": "x"}',
        }
    )
    ok(project.run())
    assert project.get("picked.txt") == "from x\n"


PARAMS: dict[str, Any] = {
    "text": "1.10",
    "int": 5,
    "big": 12345678901234567890,
    "float": 2.5,
    "true": True,
    "false": False,
    "null": None,
    "list": [1, "two", None, [3.0]],
    "nested": {"a": {"b": {"c": "deep"}}, "empty": {}, "none": []},
    "quote": 'it\'s "quoted" and `ticked` $HOME \\ back',
    "newline": "one\ntwo\n",
    "unicode": "Ünïcödé – 測試 🧬",
    "yes": "yes",
    "date": "2026-01-01",
}


def test_params_of_every_type_reach_the_rule_unchanged(project: Project) -> None:
    project.write(
        {
            "Snakefile": snakefile(
                """
                import json
                rule dump:
                    output: "run.json"
                    run:
                        json.dump(dict(config), open(output[0], "w"))
                rule script:
                    output: "script.json"
                    params: quote=config["quote"], newline=config["newline"]
                    script: "scripts/dump.py"
                rule shell:
                    output: "shell.txt"
                    params: text=config["quote"]
                    shell: "printf %s {params.text:q} > {output}"
                """
            ),
            "scripts/dump.py": "import json\njson.dump([dict(snakemake.config), "
            "snakemake.params.quote, snakemake.params.newline], open(snakemake.output[0], 'w'))\n",
            "params.json": json.dumps(PARAMS),
            "flow.json": '{"workflow_target": ["run.json", "script.json", "shell.txt"]}',
        }
    )
    ok(project.run())
    assert json.loads(project.get("run.json")) == PARAMS
    config, quote, newline = json.loads(project.get("script.json"))
    assert (config, quote, newline) == (PARAMS, PARAMS["quote"], PARAMS["newline"])
    assert project.get("shell.txt") == PARAMS["quote"]
    assert "Nothing to be done" in ok(project.run()).out


def test_include_and_several_targets(project: Project) -> None:
    project.write(
        {
            "Snakefile": 'include: "rules/more.smk"\n',
            "rules/more.smk": snakefile(
                """
                rule a:
                    output: "a.txt"
                    shell: "echo a > {output}"
                rule b:
                    output: "b.txt"
                    shell: "echo b > {output}"
                rule c:
                    output: "c.txt"
                    shell: "echo c > {output}"
                """
            ),
        }
    )
    ok(project.run("a.txt", "b"))
    assert project.user_keys() == ["a.txt", "b.txt"]


def test_a_snakefile_in_another_folder(project: Project) -> None:
    project.write(
        {
            "pipeline/Snakefile": snakefile(
                """
                rule hello:
                    output: "hello.txt"
                    script: "scripts/hello.py"
                """
            ),
            "pipeline/scripts/hello.py": "open(snakemake.output[0], 'w').write('hello')\n",
            "work/flow.yaml": "workflow_target: hello.txt\n",
            "work/params.yaml": "{}\n",
        }
    )
    ok(project.run("-s", "../pipeline/Snakefile", cwd=project.folder / "work"))
    assert project.get("hello.txt") == "hello"


def test_local_inputs_are_uploaded_once_and_again_when_changed(project: Project) -> None:
    project.write(
        {
            "Snakefile": snakefile(
                """
                rule copy:
                    input: "data/in put.txt", "data/folder"
                    output: "copy.txt"
                    shell: "cat {input[0]:q} {input[1]:q}/* > {output}"
                """
            ),
            "data/in put.txt": "first\n",
            "data/folder/x": "x\n",
        }
    )
    dry = ok(project.run("-n"))
    assert re.search(r"Would upload 2 ", dry.out), dry.out
    assert project.user_keys() == []
    first = ok(project.run(prefix="deep/er"))
    assert "Uploaded 2 input files" in first.out
    assert project.get("deep/er/copy.txt") == "first\nx\n"
    again = ok(project.run(prefix="deep/er"))
    assert "Uploaded" not in again.out and "Nothing to be done" in again.out
    project.write({"data/in put.txt": "second\n"})
    changed = ok(project.run(prefix="deep/er"))
    assert "Uploaded 1 input file" in changed.out
    assert project.get("deep/er/copy.txt") == "second\nx\n"


def test_download_brings_the_targets_here(project: Project) -> None:
    project.write(
        {
            "Snakefile": snakefile(
                """
                rule all:
                    input: "out/a.txt", "folder"
                rule a:
                    output: "out/a.txt"
                    shell: "echo a > {output}"
                rule folder:
                    output: directory("folder")
                    shell: "mkdir {output}; echo f > {output}/f.txt"
                """
            )
        }
    )
    ok(project.run("--download"))
    assert (project.folder / "out/a.txt").read_text() == "a\n"
    assert (project.folder / "folder/f.txt").read_text() == "f\n"
    # what was downloaded is a copy, never an input
    assert "Nothing to be done" in ok(project.run()).out


def test_force_and_dry_run(project: Project) -> None:
    project.write({"Snakefile": 'rule x:\n    output: "x.txt"\n    shell: "date +%N > {output}"\n'})
    dry = ok(project.run("-n"))
    assert "rule x" in dry.out and project.user_keys() == []
    ok(project.run())
    before = project.get("x.txt")
    ok(project.run("--force"))
    assert project.get("x.txt") != before


def test_threads_and_memory_reach_the_pod_whatever_the_number_of_jobs(
    project: Project, cluster: Any
) -> None:
    project.write(
        {
            "Snakefile": snakefile(
                """
                rule x:
                    output: "x.txt"
                    threads: 2
                    resources: mem_mb=300
                    shell: "echo {threads} > {output}; sleep 4"
                """
            )
        }
    )
    command = ["kubectl", f"--context={cluster.context}", "get", "pods", "-o", "json", "--watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        done = project.run("--jobs", "1")
        watch.terminate()
        assert watch.stdout is not None
        seen = watch.stdout.read()
    ok(done)
    assert project.get("x.txt") == "2\n"
    assert '"cpu": "1900m"' in seen  # two threads of CPU_PER_THREAD
    assert '"memory": "300M"' in seen


def test_local_rules_run_here(project: Project) -> None:
    project.write(
        {
            "Snakefile": snakefile(
                """
                localrules: here
                rule here:
                    input: "there.txt"
                    output: "here.txt"
                    shell: "cat {input} > {output}; echo here >> {output}"
                rule there:
                    output: "there.txt"
                    shell: "echo there > {output}"
                """
            )
        }
    )
    ok(project.run())
    assert project.get("here.txt") == "there\nhere\n"


def test_groups_run_in_one_pod(project: Project) -> None:
    project.write(
        {
            "Snakefile": snakefile(
                """
                rule second:
                    input: "first.txt"
                    output: "second.txt"
                    group: "both"
                    shell: "cat {input} > {output}; hostname >> {output}"
                rule first:
                    output: "first.txt"
                    group: "both"
                    shell: "hostname > {output}"
                """
            )
        }
    )
    ok(project.run())
    first, second = project.get("second.txt").split()
    assert first == second


def test_pipes(project: Project) -> None:
    project.write(
        {
            "Snakefile": snakefile(
                """
                rule all:
                    input: "out.txt"
                rule write:
                    output: pipe("numbers")
                    shell: "for i in 1 2 3; do echo $i; done > {output}"
                rule read:
                    input: "numbers"
                    output: "out.txt"
                    shell: "cat {input} > {output}"
                """
            )
        }
    )
    ok(project.run())
    assert project.get("out.txt") == "1\n2\n3\n"
    assert project.user_keys() == ["out.txt"]


def test_a_table_that_a_rule_could_make_is_seen_by_the_pods(project: Project) -> None:
    project.write(
        {
            "Snakefile": snakefile(
                """
                rows = open("samples.tsv").read().split()
                rule first:
                    output: "first.txt"
                    run:
                        open(output[0], "w").write(rows[0])
                rule table:
                    output: "{x}.tsv"
                    shell: "touch {output}"
                """
            ),
            "samples.tsv": "s1 s2\n",
        }
    )
    ok(project.run())
    assert project.get("first.txt") == "s1"


def test_plain_snakemake(project: Project, cluster: Any) -> None:
    project.write(
        {"Snakefile": 'rule a:\n    output: "a.txt"\n    shell: "echo {config[word]} > {output}"\n'}
    )
    command = [
        str(Path(BYOK8S).parent / "snakemake"), "--executor", "byok8s", "--jobs", "2",
        "--default-storage-provider", "byok8s",
        "--default-storage-prefix", f"s3://{project.bucket}",
        "--byok8s-image", cluster.worker_image, "--byok8s-context", cluster.context,
        "--config", "word=1",
    ]  # fmt: skip
    server = {
        "AWS_ENDPOINT_URL": cluster.s3.endpoint_url,
        "AWS_ACCESS_KEY_ID": cluster.s3.access_key,
        "AWS_SECRET_ACCESS_KEY": cluster.s3.secret_key,
    }
    for said in ("1 of 1 steps (100%) done", "Nothing to be done"):
        done = subprocess.run(
            command,
            cwd=project.folder,
            env=clean_environment() | server,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert said in done.stderr
    assert project.get("a.txt") == "1\n"
    assert objects_left(cluster) == []


def test_envvars_reach_the_rule_and_no_pod_spec(project: Project) -> None:
    project.write(
        {
            "Snakefile": snakefile(
                """
                envvars: "LAB_TOKEN"
                rule x:
                    output: "x.txt"
                    shell: "echo ${{#LAB_TOKEN}} > {output}"
                """
            )
        }
    )
    ok(project.run(LAB_TOKEN="marker-token-4711"))
    assert project.get("x.txt") == "17\n"


def test_short_jobs_have_the_keys_without_a_volume_and_not_in_their_environment(
    project: Project, cluster: Any
) -> None:
    """In a pod of one job and in a bundle; with a limit of the disk there are volumes."""
    project.write(
        {
            "Snakefile": """
NAMES = {"own": {"bundle": 0}, "shared": {}, "limited": {"bundle": 0, "disk_mb": 50}}
rule all:
    input: expand("{name}.txt", name=NAMES)
for name, resources in NAMES.items():
    rule:
        name: name
        output: f"{name}.txt"
        resources: **resources
        shell:
            "env > {output}; wc -l < $AWS_SHARED_CREDENTIALS_FILE >> {output}; "
            "grep -cE ' (/work|/tmp|(/var)?/run/byok8s) ' /proc/mounts >> {output} || true"
"""
        }
    )
    done = project.run()
    assert done.code == 0, done.text
    for name, mounts in (("own", "0"), ("shared", "0"), ("limited", "3")):
        *variables, lines, mounted = project.get(f"{name}.txt").splitlines()
        environment = dict(line.partition("=")[::2] for line in variables)
        assert mounted == mounts, name
        assert int(lines) >= 3, "the profile and two keys"
        assert environment["AWS_REGION"] and environment["AWS_ENDPOINT_URL_S3"]
        assert "BYOK8S_FILES" not in environment
        assert cluster.s3.secret_key not in "".join(variables)


@pytest.mark.parametrize("bucketed", [True, False])
def test_local_execution(project: Project, bucketed: bool) -> None:
    project.write(
        {
            "Snakefile": snakefile(
                """
                rule b:
                    input: "a.txt"
                    output: "b.txt"
                    shell: "cat {input} {input} > {output}"
                rule a:
                    output: "a.txt"
                    shell: "echo {config[name]} > {output}"
                """
            ),
            "params.json": '{"name": "blue"}',
        }
    )
    if bucketed:
        server = {
            "AWS_ENDPOINT_URL": project.s3.meta.endpoint_url,
            "AWS_ACCESS_KEY_ID": project.s3._request_signer._credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": project.s3._request_signer._credentials.secret_key,
        }
        ok(project.byok8s("flow", "params", "--local", "-b", project.bucket, **server))
        assert project.get("b.txt") == "blue\nblue\n"
    else:
        ok(project.byok8s("flow", "params", "--local"))
        assert (project.folder / "b.txt").read_text() == "blue\nblue\n"
        assert "Nothing to be done" in ok(project.byok8s("flow", "params", "--local")).out
        project.write({"params.json": '{"name": "red"}'})
        ok(project.byok8s("flow", "params", "--local"))
        assert (project.folder / "b.txt").read_text() == "red\nred\n"
