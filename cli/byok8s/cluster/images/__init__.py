"""Container images made here, with no registry.

The worker image runs a workflow's jobs; the pause and CoreDNS images are for the native cluster.
Each is kept as an archive in the folder `images` of the cache that is given.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import byok8s
from byok8s.cluster.images import docker, local, oci
from byok8s.cluster.images.commands import run
from byok8s.cluster.images.recipe import Recipe, config, fingerprint
from byok8s.exceptions import ClusterError
from byok8s.progress import Reporter

PAUSE_REF = "localhost/byok8s-pause:1"
COREDNS_REF = "localhost/coredns:1.13.1"
_WORKER = "localhost/byok8s-worker"
_KEPT = 3  # of each layer and archive; some have more than 100 MB


@dataclass(frozen=True)
class BuiltImage:
    """An image's name and its archive, for `ctr images import`, `docker load` and the like."""

    ref: str
    archive: Path


def worker_image(cache: Path, report: Reporter, extra: tuple[str, ...] = ()) -> BuiltImage:
    """The image that runs a workflow's jobs, built when it is not there yet.

    `extra` are further pip requirements to put in. Raises ClusterError when it cannot be built.
    """
    recipe = Recipe.load(extra)
    with _locked(cache, report) as folder:
        log = folder / "worker.log"
        if (no_local := local.missing()) is None:
            layers = local.LocalBuild(folder / "layers", log, recipe, report).all_layers()
            return _image(folder, _WORKER, layers, config(), report)
        if (no_docker := docker.missing()) is None:
            ref = f"{_WORKER}:{byok8s.__version__}-{docker.content(recipe)}"
            archive = folder / _file_name(ref)
            if not archive.exists():
                docker.build(recipe, ref, archive, log, report)
            return BuiltImage(ref, archive)
    raise ClusterError(
        "The worker image cannot be built on this machine: "
        f"{no_local}, and {no_docker}; install Docker, or become root on Debian."
    )


def pause_image(cache: Path, report: Reporter) -> BuiltImage:
    """The image that holds a pod's namespaces; needs Go."""
    source = Path(__file__).parent / "pause/main.go"

    def build(tar: Path) -> None:
        with report.step("Pause image") as step, tempfile.TemporaryDirectory() as root:
            command = ["go", "build", "-trimpath", "-ldflags=-s -w", "-o", f"{root}/pause"]
            run([*command, str(source)], tar.parent / "pause.log", step, _go_environment())
            oci.pack(Path(root), tar)

    start = oci.Config(command=("/pause",))
    key = fingerprint(source.read_bytes())
    return _single(cache, PAUSE_REF, key, build=build, start=start, report=report)


def coredns_image(binary: Path, cache: Path, report: Reporter) -> BuiltImage:
    """The image of a CoreDNS that was built before: a static binary."""

    def build(tar: Path) -> None:
        with report.step("CoreDNS image"), tempfile.TemporaryDirectory() as root:
            target = Path(root, "coredns")
            shutil.copyfile(binary, target)
            target.chmod(0o755)
            oci.pack(Path(root), tar)

    with binary.open("rb") as stream:
        key = hashlib.file_digest(stream, "sha256").hexdigest()[:12]
    start = oci.Config(command=("/coredns", "-conf", "/etc/coredns/Corefile"))
    return _single(cache, COREDNS_REF, key, build=build, start=start, report=report)


def _single(
    cache: Path,
    ref: str,
    key: str,
    *,
    build: Callable[[Path], None],
    start: oci.Config,
    report: Reporter,
) -> BuiltImage:
    """An image of one layer."""
    with _locked(cache, report) as folder:
        name = ref.rpartition("/")[2].replace(":", "-")
        layer = oci.cached_layer(folder / "layers" / f"{name}-{key}.tar", build)
        archive = folder / f"{name}-{key}.tar"
        if not archive.exists():
            oci.write_archive(archive, ref, [layer], oci.describe([layer], start))
    return BuiltImage(ref, archive)


def _image(
    folder: Path, name: str, layers: list[oci.Layer], start: oci.Config, report: Reporter
) -> BuiltImage:
    """The image NAME:VERSION-CONTENT of these layers."""
    description = oci.describe(layers, start)
    content = hashlib.sha256(description).hexdigest()[:12]
    ref = f"{name}:{byok8s.__version__}-{content}"
    archive = folder / _file_name(ref)
    if not archive.exists():
        with report.step(f"Worker image: {ref}"):
            oci.write_archive(archive, ref, layers, description)
    for path in (archive, *(layer.path for layer in layers)):
        os.utime(path)
    _prune(archive.parent.glob(f"{name.rpartition('/')[2]}-*.tar"))
    for layer in layers:
        kind = layer.path.name.rpartition("-")[0]
        _prune(layer.path.parent.glob(f"{kind}-*.tar"))
    return BuiltImage(ref, archive)


def _file_name(ref: str) -> str:
    return ref.rpartition("/")[2].replace(":", "-") + ".tar"


def _prune(files: Iterable[Path]) -> None:
    """Remove all but the files that were used last, and the digests beside them."""
    for path in sorted(files, key=lambda path: path.stat().st_mtime)[:-_KEPT]:
        path.unlink()
        path.with_suffix(".sha256").unlink(missing_ok=True)


def _go_environment() -> dict[str, str]:
    return {**os.environ, "CGO_ENABLED": "0", "GO111MODULE": "off", "GOFLAGS": ""}


@contextmanager
def _locked(cache: Path, report: Reporter) -> Iterator[Path]:
    """The cache's folder of images, for one builder at a time; ends with the process."""
    folder = cache / "images"
    (folder / "layers").mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report.note("Another byok8s is building images; waiting for it to end.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        _sweep(folder)
        yield folder


def _sweep(folder: Path) -> None:
    """Remove what a killed build left; with the lock held, nobody is at work on it."""
    for left in (folder / "layers").glob(f"{local.TEMPORARY}*"):
        shutil.rmtree(left)
    for left in (*folder.glob(".*.tar-*"), *folder.glob("layers/.*.tar-*")):
        left.unlink()
