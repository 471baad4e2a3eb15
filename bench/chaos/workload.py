"""A workflow of thirty jobs whose commands leave an object each time they begin and end."""

from __future__ import annotations

import json
from pathlib import Path

SNAKEFILE = """\
rule all:
    input: "out/sum.txt"
rule short:
    output: "out/short-{i}.txt"
    shell: "python3 step.py {config[ran]} 0.1 {output}"
rule brief:
    output: "out/brief-{i}.txt"
    shell: "python3 step.py {config[ran]} 0.7 {output}"
rule apart:
    output: "out/apart-{i}.txt"
    resources: bundle=0
    shell: "python3 step.py {config[ran]} 0.8 {output}"
rule slow:
    output: "out/slow-{i}.txt"
    resources: bundle=0
    shell: "python3 step.py {config[ran]} 3.{wildcards.i} {output}"
rule long:
    output: "out/long.txt"
    shell: "python3 step.py {config[ran]} 2.5 {output}"
rule three:
    input: lambda w: [f"out/short-{3 * int(w.i) + k}.txt" for k in range(3)]
    output: "out/three-{i}.txt"
    shell: "python3 step.py {config[ran]} 0.1 {output} {input}"
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
    shell: "python3 step.py {config[ran]} 0.1 {output} {input}"
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

# The output is made of the inputs' content, so that one wrong byte is seen in the last file
STEP = '''\
"""step.py BUCKET/PREFIX SECONDS OUTPUT [INPUT...]"""
import hashlib, json, os, socket, sys, time, uuid
from byok8s.worker.s3 import open_store
from byok8s.worker.spec import CREDENTIALS_FILE

def step(where, seconds, output, *inputs):
    bucket, _, prefix = where.partition("/")
    endpoint, region = os.environ["AWS_ENDPOINT_URL_S3"], os.environ["AWS_REGION"]
    store = open_store(bucket, endpoint, region, CREDENTIALS_FILE)
    name = os.path.basename(output)  # where it is differs from run to run
    key = f"{prefix}/{name}/{uuid.uuid4().hex}"

    def tell(what):
        told = json.dumps({"pod": socket.gethostname(), "at": time.time()}).encode()
        until = time.monotonic() + 90  # the count is right whatever happens to S3
        while True:
            try:
                return store.put(f"{key}.{what}", told)
            except Exception:
                if time.monotonic() > until:
                    raise
                time.sleep(0.5)

    tell("began")
    digest = hashlib.sha256(name.encode())
    for path in inputs:
        with open(path, "rb") as file:
            digest.update(file.read())
    time.sleep(float(seconds))
    with open(output, "w") as file:
        for line in range(300):
            file.write(f"{line} {digest.hexdigest()} {name}\\n")
    tell("ended")

if __name__ == "__main__":
    step(*sys.argv[1:])
'''
IN_POD = """\
import os, sys
sys.path.insert(0, os.getcwd())
from step import step
step(snakemake.config["ran"], 0.1, snakemake.output[0], *snakemake.input)
"""


def write(folder: Path, ran: str) -> None:
    """Write the project; `ran` is BUCKET/PREFIX of the objects that commands leave."""
    folder.mkdir(parents=True)
    files = {
        "Snakefile": SNAKEFILE,
        "step.py": STEP,
        "in_pod.py": IN_POD,
        "flow.json": "{}",
        "params.json": json.dumps({"ran": ran}),
    }
    for name, content in files.items():
        (folder / name).write_text(content)
