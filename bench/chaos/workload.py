"""A workflow of thirty jobs whose commands tell each time they begin and end."""

from __future__ import annotations

import json
from pathlib import Path

SNAKEFILE = """\
rule all:
    input: "out/sum.txt"
rule short:
    output: "out/short-{i}.txt"
    shell: "bash step.sh {config[counter]} 0.1 {output}"
rule brief:
    output: "out/brief-{i}.txt"
    shell: "bash step.sh {config[counter]} 0.7 {output}"
rule apart:
    output: "out/apart-{i}.txt"
    resources: bundle=0
    shell: "bash step.sh {config[counter]} 0.8 {output}"
rule slow:
    output: "out/slow-{i}.txt"
    resources: bundle=0
    shell: "bash step.sh {config[counter]} 3.{wildcards.i} {output}"
rule long:
    output: "out/long.txt"
    shell: "bash step.sh {config[counter]} 2.5 {output}"
rule three:
    input: lambda w: [f"out/short-{3 * int(w.i) + k}.txt" for k in range(3)]
    output: "out/three-{i}.txt"
    shell: "bash step.sh {config[counter]} 0.1 {output} {input}"
rule script:
    input: "out/three-0.txt"
    output: "out/script.txt"
    script: "in_pod.py"
rule sum:
    input:
        expand("out/three-{i}.txt", i=range(4)), expand("out/brief-{i}.txt", i=range(5)),
        expand("out/apart-{i}.txt", i=range(4)), expand("out/slow-{i}.txt", i=range(2)),
        "out/long.txt", "out/script.txt"
    output: "out/sum.txt"
    shell: "bash step.sh {config[counter]} 0.1 {output} {input}"
"""
OUTPUTS = (
    *(f"out/short-{i}.txt" for i in range(12)),
    *(f"out/brief-{i}.txt" for i in range(5)),
    *(f"out/apart-{i}.txt" for i in range(4)),
    *(f"out/slow-{i}.txt" for i in range(2)),
    "out/long.txt",
    *(f"out/three-{i}.txt" for i in range(4)),
    "out/script.txt",
    "out/sum.txt",
)
JOBS = len(OUTPUTS)  # each job has one

# The output is made of the inputs' content, so that one wrong byte is seen in the last file.
# Plain bash: thirty starts of Python would be most of what a run costs.
STEP = """\
# step.sh HOST/PORT SECONDS OUTPUT [INPUT...]
set -euo pipefail
counter=$1 seconds=$2 output=$3
shift 3
name=${output##*/}  # where it is differs from run to run
id=$(cat /proc/sys/kernel/random/uuid)

tell() { # began | ended: goes on when it has been counted
  until [ "$(ask "$1" || true)" = counted ]; do sleep 0.2; done
}
ask() {
  exec 3<> "/dev/tcp/$counter" && echo "$1 $id $name $HOSTNAME" >&3 && cat <&3
}

tell began
digest=$({ echo "$name"; cat "$@" < /dev/null; } | sha256sum)
sleep "$seconds"
for ((line = 0; line < 300; line++)); do echo "$line ${digest%% *} $name"; done > "$output"
tell ended
"""
IN_POD = """\
import subprocess
command = ["bash", "step.sh", snakemake.config["counter"], "0.1", snakemake.output[0]]
subprocess.run([*command, *snakemake.input], check=True)
"""


def write(folder: Path, counter: str) -> None:
    """Write the project; `counter` is HOST/PORT of what commands tell that they begin and end."""
    folder.mkdir(parents=True)
    files = {
        "Snakefile": SNAKEFILE,
        "step.sh": STEP,
        "in_pod.py": IN_POD,
        "flow.json": "{}",
        "params.json": json.dumps({"counter": counter}),
    }
    for name, content in files.items():
        (folder / name).write_text(content)
