"""The workflows that are timed: each a Snakefile, and what must be in the bucket afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ONE = """\
rule one:
    output: "one.txt"
    shell: "echo 1 > {output}"
"""

DIAMOND = """\
rule last:
    input: "left.txt", "right.txt"
    output: "last.txt"
    shell: "cat {input} > {output}"
rule first:
    output: "first.txt"
    shell: "sleep 1; echo 1 > {output}"
rule left:
    input: "first.txt"
    output: "left.txt"
    shell: "sleep 1; cp {input} {output}"
rule right:
    input: "first.txt"
    output: "right.txt"
    shell: "sleep 1; cp {input} {output}"
"""

FIFTY = """\
rule gather:
    input: expand("small/{i}.txt", i=range(50))
    output: "gathered.txt"
    shell: "cat {input} > {output}"
rule small:
    output: "small/{i}.txt"
    shell: "echo {wildcards.i} > {output}"
"""

THOUSAND = """\
rule gather:
    input: expand("small/{i}.txt", i=range(1000))
    output: "gathered.txt"
    shell: "cat {input} | wc -l > {output}"
rule small:
    output: "small/{i}.txt"
    shell: "echo {wildcards.i} > {output}"
"""


@dataclass(frozen=True)
class Workload:
    """One workflow. `key` is the object whose content proves that it was done."""

    name: str
    title: str
    snakefile: str
    jobs: int
    key: str
    content: str

    def write(self, folder: Path) -> None:
        """Make the project: the same files for everybody."""
        folder.mkdir(parents=True)
        (folder / "Snakefile").write_text(self.snakefile)
        (folder / "flow.json").write_text("{}\n")
        (folder / "params.json").write_text('{"name": "blue"}\n')


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("one", "one rule", ONE, 1, "one.txt", "1\n"),
        Workload(
            "diamond",
            "a diamond of four, three of them sleep 1 s",
            DIAMOND,
            4,
            "last.txt",
            "1\n1\n",
        ),
        Workload(
            "fifty",
            "50 rules `echo > file` and one gather of all 50",
            FIFTY,
            51,
            "gathered.txt",
            "".join(f"{i}\n" for i in range(50)),
        ),
        Workload(
            "thousand",
            "1,000 rules `echo > file` and one gather",
            THOUSAND,
            1001,
            "gathered.txt",
            "1000\n",
        ),
    )
}
