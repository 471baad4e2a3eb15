"""What a failed job is told of files beside its inputs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from byok8s.workflow import companions

BUCKET = ["data/genome.fa", "data/genome.fa.bwt", "data/genome.fasta.gz", "data/deep/genome.fa.sa"]


def in_bucket(keys: list[str]) -> Any:
    def keys_below(folder: str) -> list[str]:
        return [key for key in keys if key.startswith(f"{folder}/" if folder else "")]

    return SimpleNamespace(keys_below=keys_below)


@pytest.mark.parametrize(
    ("inputs", "outputs", "told"),
    [
        (
            ["data/genome.fa"],
            [],
            "data/genome.fa.amb, data/genome.fa.ann, data/genome.fa.bwt and 1 m",
        ),
        (
            ["data/genome.fa", "data/genome.fa.amb"],
            ["data/genome.fa.ann"],
            "data/genome.fa.bwt, data",
        ),
        (["data/genome.fasta"], [], "data/genome.fasta.gz b"),
        (["reads.bam"], [], "reads.bam.bai b"),
        (["data/deep/genome.fa"], [], "data/deep/genome.fa.sa b"),
        (["nowhere/x", "data/genome.f"], [], ""),
        (["reads.bam"], ["reads.bam.bai"], ""),
        ([], [], ""),
    ],
)
def test_files_called_as_an_input_with_more_after_a_dot(
    folder: Path, inputs: list[str], outputs: list[str], told: str
) -> None:
    for name in ("data/genome.fa.amb", "data/genome.fa.ann", "data/genome.fa.pac", "reads.bam.bai"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    said = companions.hint(inputs, outputs, in_bucket(BUCKET), Path.cwd())
    start = f"The pod had only the inputs that the rule names, and not {told}"
    assert said.startswith(start if told else "")
    assert bool(said) == bool(told)
