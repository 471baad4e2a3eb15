"""Builds the worker image with Docker, where there is one: on a laptop with kind, for example."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from byok8s.cluster.images import oci
from byok8s.cluster.images.commands import run
from byok8s.cluster.images.recipe import FILES, Recipe, code_fingerprint, fingerprint
from byok8s.progress import Reporter


def missing() -> str | None:
    """None when Docker's command is here; else what is lacking, as the end of a sentence."""
    return None if shutil.which("docker") else "there is no docker command"


def content(recipe: Recipe) -> str:
    """Twelve hexadecimal digits for what goes into the image."""
    files = [(FILES / name).read_bytes() for name in ("Dockerfile", "image.sh")]
    return fingerprint(
        recipe.packages, recipe.requirements, recipe.constraints, *files, code_fingerprint()
    )


def build(recipe: Recipe, ref: str, archive: Path, log: Path, report: Reporter) -> None:
    """Build the image `ref` and save it to `archive`; raises ClusterError when a step fails."""
    with (
        report.step("Worker image: docker build") as step,
        tempfile.TemporaryDirectory() as folder,
        oci.replacing(archive) as new,
    ):
        recipe.write(Path(folder))
        run(["docker", "build", "--tag", ref, folder], log, step, _environment())
        run(["docker", "save", "--output", str(new), ref], log, step)


def _environment() -> dict[str, str]:
    # `kind load` cannot take the attestations that newer Docker versions add to an image
    return {**os.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
