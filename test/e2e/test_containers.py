"""`container:` is the pod's image: images made of distribution packages, unmodified."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import Any

import pytest
from byok8s.cluster.images import PAUSE_REF
from support.images import load_image
from support.project import Project

# What a maintainer script would link to where programs look for it
ALTERNATIVES = ":".join(
    f"/usr/lib/{machine}-linux-gnu/{library}"
    for machine in ("x86_64", "aarch64")
    for library in ("blas", "lapack")
)


@dataclass(frozen=True)
class Images:
    busybox: str
    samtools: str
    perl: str
    python: str
    r: str


@pytest.fixture(scope="module")
def images(cluster: Any) -> Images:
    """One with busybox alone, one with bash, and one with neither bash nor any small program."""
    return Images(
        busybox=load_image(cluster.name, "busybox", "busybox-static"),
        samtools=load_image(cluster.name, "samtools", "samtools", "bash", "dash", "coreutils"),
        perl=load_image(cluster.name, "perl", "perl-base", "dash"),
        python=load_image(cluster.name, "python", "python3", "dash"),
        r=load_image(
            cluster.name,
            "r",
            *("r-base-core", "bash", "coreutils", "sed", "dash"),
            LD_LIBRARY_PATH=ALTERNATIVES,
        ),
    )


def snakefile(images: Images, text: str) -> str:
    for name, image in vars(images).items():
        text = text.replace(f"[{name}]", f"docker://{image}")
    return textwrap.dedent(text).lstrip()


WORKFLOW = """
    envvars: "TOKEN"
    rule all:
        input: "sorted.txt", "perl.txt", "told.txt", "script.txt", "plain.txt", "r.txt",
            "python.txt"
    rule sort:
        input: "data/in.sam"
        output: "sorted.txt"
        log: "logs/sort.log"
        params: order="coordinate"
        container: "[samtools]"
        threads: 1
        shell:
            "samtools sort -@ {threads} {input} 2> {log} | samtools view - | cut -f1,4 > {output}; "
            "echo {params.order} >> {log}"
    rule perl:
        input: "sorted.txt"
        output: "perl.txt"
        container: "[perl]"
        shell: "perl -ne 'print uc' {input} > {output}"
    rule told:
        output: "told.txt"
        resources: mem_mb=100
        container: "[busybox]"
        shell:
            "exec >{output}; echo shell=$0 uid=$(id -u) home=$HOME tmpdir={resources.tmpdir}; "
            "echo mem_mb={resources.mem_mb} token=$TOKEN; touch $TMPDIR/x /var/tmp/y; "
            "(touch /usr/x) 2>/dev/null || echo read-only; ls -A /var/run/byok8s 2>&1 || true; "
            "env | grep BYOK8S_ || echo nothing of ours"
    rule script:
        output: "script.txt"
        params: word="it's"
        container: "[samtools]"
        script: "scripts/a.sh"
    rule r:
        input: "sorted.txt"
        output: "r.txt"
        params: numbers=[1, 2, 3.5]
        container: "[r]"
        script: "scripts/a.R"
    rule python:
        input: "sorted.txt"
        output: table="python.txt"
        params: numbers=[1, 2, None]
        log: "logs/python.log"
        container: "[python]"
        script: "scripts/a.py"
    rule plain:
        output: "plain.txt"
        shell: "python3 -c 'print(1)' > {output}"
"""
SAM = """
@SQ SN:chr1 LN:100
b 0 chr1 9 60 1M * 0 0 A *
a 0 chr1 3 60 1M * 0 0 C *
""".lstrip().replace(" ", "\t")


def test_rules_run_in_their_own_images(project: Project, images: Images) -> None:
    project.write(
        {
            "Snakefile": snakefile(images, WORKFLOW),
            "data/in.sam": SAM,
            "scripts/a.sh": 'echo "${snakemake_params[word]}" "${snakemake[rule]}" '
            '"$(ls "${snakemake[scriptdir]}/a.sh")" >"${snakemake_output[0]}"\n',
            # base alone: the others need what maintainer scripts make
            "scripts/a.R": "lines <- readLines(snakemake@input[[1]])\n"
            'cat(length(lines), sum(unlist(snakemake@params[["numbers"]])), snakemake@rule, "\\n", '
            "file=snakemake@output[[1]])\n",
            "scripts/a.py": "import neighbour, sys\n"
            "lines = open(snakemake.input[0]).read().split()\n"
            "print(lines, snakemake.params.numbers, neighbour.WORD, snakemake.threads,"
            " file=open(snakemake.output.table, 'w'))\n"
            "logger.info('told'); print('log', file=open(snakemake.log[0], 'w'))\n",
            "scripts/neighbour.py": "WORD = 'beside'\n",
        }
    )
    done = project.run(TOKEN="it's $secret")
    assert done.code == 0, done.text
    assert project.get("sorted.txt") == "a\t3\nb\t9\n"
    assert project.get("logs/sort.log") == "coordinate\n"
    assert project.get("perl.txt") == "A\t3\nB\t9\n"
    assert project.get("script.txt") == "it's script /work/scripts/a.sh\n"
    assert project.get("r.txt") == "2 6.5 r \n"
    assert project.get("python.txt") == "['a', '3', 'b', '9'] [1, 2, None] beside 1\n"
    assert project.get("logs/python.log") == "log\n"
    assert project.get("told.txt").splitlines() == [
        "shell=sh uid=65532 home=/tmp tmpdir=/tmp",
        "mem_mb=100 token=it's $secret",
        "read-only",
        "ls: /var/run/byok8s: No such file or directory",
        "nothing of ours",
    ]
    assert "Nothing to be done" in project.run("--dry-run", TOKEN="it's $secret").out
    # another image may make other outputs
    project.write({"Snakefile": snakefile(images, WORKFLOW.replace("[perl]", "[samtools]"))})
    again = project.run("--dry-run", TOKEN="it's $secret")
    assert "rule perl" in again.out and "rule sort" not in again.out


FAILURES = """
    rule all:
        input: expand("{x}.txt", x=["seven", "memory", "missing", "absent", "shell", "killed"])
    rule seven:
        output: "seven.txt"
        log: "logs/seven.log"
        container: "[perl]"
        shell: "echo half > {output}; echo why > {log}; exit 7"
    rule memory:
        output: "memory.txt"
        resources: mem_mb=64
        container: "[perl]"
        shell: "perl -e '$x = \\"x\\" x 200e6' > {output}"
    rule missing:
        output: "missing.txt"
        container: "[busybox]"
        shell: "true"
    rule absent:
        output: "absent.txt"
        container: "docker://localhost/no-such-image:1"
        shell: "true"
    rule shell:
        output: "shell.txt"
        container: "docker://PAUSE"
        shell: "true"
    rule killed:
        output: "killed.txt"
        container: "[busybox]"
        shell: "echo last words; kill -KILL $$"
"""


def test_failures_are_told_apart(project: Project, images: Images) -> None:
    text = FAILURES.replace("PAUSE", PAUSE_REF)
    project.write({"Snakefile": snakefile(images, text)})
    done = project.run("--keep-going", "--wait-limit", "image-absent=2s", "--memory-retries=0")
    assert done.code == 1, done.text
    for says in (
        "the command exited with code 7",
        "The job used more memory than its limit of 64MB",
        "the command did not make missing.txt",
        "The image 'localhost/no-such-image:1' cannot be pulled",
        f"The image '{PAUSE_REF}' has no /bin/sh",
        "the command exited with code 137",
    ):
        assert says in done.text, done.text
    assert project.get("logs/seven.log") == "why\n"
    assert project.user_keys() == ["logs/seven.log"]
    assert "last words" in done.text


REFUSED = """
    container: "[samtools]"
    rule all:
        input: expand("{x}.txt", x="julia conda sif bench out fine fine2 local".split())
    rule julia:
        output: "julia.txt"
        script: "a.jl"
    rule conda:
        output: "conda.txt"
        conda: "env.yaml"
        shell: "true"
    rule sif:
        output: "sif.txt"
        container: "images/a.sif"
        shell: "true"
    rule bench:
        output: "bench.txt"
        benchmark: repeat("b.tsv", 2)
        shell: "true"
    rule out:
        output: "out.txt"
        container: None
        script: "a.py"
    rule fine:
        output: "fine.txt"
        run:
            print(1, file=open(output[0], "w"))
    rule local:
        output: "local.txt"
        script: "a.py"
    localrules: local
    rule fine2:
        output: "fine2.txt"
        container: "[busybox]"
        conda: "env.yaml"
        shell: "true > {output}"
"""


def test_what_cannot_run_in_an_image_is_told_before_anything_is_submitted(
    project: Project, images: Images
) -> None:
    files = {
        "Snakefile": snakefile(images, REFUSED),
        "a.py": "",
        "a.jl": "",
        "env.yaml": "dependencies: []",
    }
    project.write(files)
    done = project.run("--dry-run")
    assert done.code == 2, done.text
    told = [line for line in done.err.splitlines() if "cannot run in its container" in line]
    reasons = {line.split("'")[1]: line.split(": it ")[1] for line in told}
    assert reasons.keys() == {"julia", "conda", "sif", "bench"}
    assert "is a script: rule" in reasons["julia"]
    assert "conda environment" in reasons["conda"]
    assert "docker://" in reasons["sif"]
    assert "has a benchmark of another form" in reasons["bench"]


SHELL = """
    shell.prefix(f"set -eu; . {workflow.basedir}/scripts/functions.sh; ")
    rule all:
        input: "bash.txt", "sh.txt"
    rule bash:
        output: report("bash.txt")
        params: script=workflow.source_path("scripts/say.sh")
        container: "[samtools]"
        shell: "greet $BASH_VERSION > {output}; cd /; bash {params.script} >> $OLDPWD/{output}"
    rule sh:
        output: ensure("sh.txt", non_empty=True)
        params: script=workflow.source_path("scripts/say.sh")
        benchmark: "sh.tsv"
        container: "[perl]"
        shell: "greet $0 $(perl -e 'print $<') > {output}; sh {params.script} >> {output}"
"""
USER = "spec: {containers: [{name: job, securityContext: {runAsUser: 1234}}]}"


def test_the_shell_and_the_paths_of_the_snakefile_and_another_user(
    project: Project, images: Images
) -> None:
    project.write(
        {
            "Snakefile": snakefile(images, SHELL),
            "scripts/functions.sh": 'greet() { echo hello "$@"; }\n',
            "scripts/say.sh": "echo said\n",
            "user.yaml": USER,
        }
    )
    done = project.run("--pod-template=user.yaml")
    assert done.code == 0, done.text
    assert re.fullmatch(r"hello 5\.\S+\nsaid\n", project.get("bash.txt"))
    assert project.get("sh.txt") == "hello sh 1234\nsaid\n"
    assert re.fullmatch(
        r"s\t.*\tcpu_time\n[0-9.]+\t0:00:\d\d(\tNA){7}\t[0-9.]+\n", project.get("sh.tsv")
    )
