"""The official side's installation: its Python environment and its image."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from byok8s.cluster.images import BuiltImage, worker_image
from byok8s.cluster.native import loading
from byok8s.cluster.native.layout import Layout
from byok8s.cluster.native.shell import run
from byok8s.progress import Reporter
from byok8s.settings import cache_folder

EXECUTOR = "snakemake-executor-plugin-kubernetes==0.5.1"
STORAGE = "snakemake-storage-plugin-s3==0.3.6"


def snakemake() -> str:
    """The Snakemake that both sides run."""
    return f"snakemake=={metadata.version('snakemake')}"


def environment(report: Reporter) -> Path:
    """The Python of an environment with the official plugins, made when it is not there yet."""
    return environment_of("bench", (snakemake(), EXECUTOR, STORAGE), report)


def environment_of(name: str, requirements: tuple[str, ...], report: Reporter) -> Path:
    """The Python of an environment of this name, made anew when its requirements have changed."""
    wanted = "\n".join((*requirements, sys.version))
    folder = cache_folder() / name
    python = folder / "bin" / "python"
    stamp = folder / "requirements.txt"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    with report.step(f"A Python environment with {', '.join(requirements)}"):
        uv = [sys.executable, "-m", "uv"]
        run([*uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
        install = [*uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python)]
        run([*install, *requirements], timeout=600)
    stamp.write_text(wanted)
    return python


def images(layout: Layout, report: Reporter) -> tuple[BuiltImage, BuiltImage]:
    """The image of both sides' pods: ours, and the same with the official storage plugin.

    The plugin is in the image so that no pod has to install it, which takes it 7 s more.
    """
    built = (
        worker_image(cache_folder(), report),
        worker_image(cache_folder(), report, extra=(STORAGE,)),
    )
    with report.step("Loading the images"):
        loading.load(layout, built)
    return built


def remove_images(layout: Layout, unwanted: Iterable[str]) -> None:
    """Take images out of containerd again."""
    command = ["ctr", "--address", str(layout.socket), "--namespace", "k8s.io", "images"]
    lines = [line.split() for line in run([*command, "list"]).splitlines()[1:]]
    listing = [(words[0], words[2]) for words in lines if len(words) > 2]
    names = loading.all_names(listing, list(unwanted))
    if names:
        run([*command, "remove", *names])
