"""Writes container images as archives, with no registry and no container tool.

An archive is an OCI image layout in one tar, with Docker's manifest.json beside it, so that
`ctr images import`, `kind load image-archive`, `docker load` and `minikube image load` take it.
The same files always give the same bytes: order, times and owners are fixed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import stat
import tarfile
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

TIME = 1577836800  # 2020-01-01, of every file; zip tools refuse times before 1980
_CREATED = "2020-01-01T00:00:00Z"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True)
class Layer:
    """One layer: an uncompressed tar, its SHA-256 digest ("sha256:...") and its size in bytes."""

    path: Path
    digest: str
    size: int


@dataclass(frozen=True)
class Config:
    """How containers of an image start."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = "65532:65532"
    folder: str = "/"
    labels: Mapping[str, str] = field(default_factory=dict)


def architecture() -> str:
    """This machine's architecture as images name it: "amd64", "arm64"."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def pack(root: Path, target: Path, *, owners: bool = False, empty: Collection[str] = ()) -> None:
    """Write the files below `root` as a layer's tar.

    With `owners` the files keep their owners and modes; otherwise everything is root's, and
    modes are 0755 and 0644. Of the folders in `empty` only the folder itself is taken.
    """
    seen: dict[tuple[int, int], str] = {}
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for path, name in _walk(root, frozenset(empty)):
            if stat.S_ISSOCK(path.lstat().st_mode):
                continue  # not a thing of an image
            info = tar.gettarinfo(path, name)
            _link(info, path, seen)
            _level(info, owners)
            if info.isreg():
                with path.open("rb") as stream:
                    tar.addfile(info, stream)
            else:
                tar.addfile(info)


def cached_layer(tar: Path, build: Callable[[Path], None]) -> Layer:
    """The layer kept in the file `tar`; `build` writes it, to the path it is given, when missing.

    The digest is kept beside it, so that a layer is read once only.
    """
    known = tar.with_suffix(".sha256")
    if not (tar.exists() and known.exists()):
        with replacing(tar) as new:
            build(new)
            with new.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        known.write_text(digest)
    return Layer(tar, f"sha256:{known.read_text()}", tar.stat().st_size)


def describe(layers: list[Layer], config: Config) -> bytes:
    """The image's configuration; its SHA-256 identifies the image's content."""
    return _json(
        {
            "architecture": architecture(),
            "os": "linux",
            "created": _CREATED,
            "config": {
                "Cmd": list(config.command),
                "Env": [f"{name}={value}" for name, value in config.environment.items()],
                "User": config.user,
                "WorkingDir": config.folder,
                "Labels": dict(config.labels),
            },
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
            "history": [{"created": _CREATED, "created_by": "byok8s"} for _ in layers],
        }
    )


def write_archive(target: Path, ref: str, layers: list[Layer], description: bytes) -> None:
    """Write the archive of the image called `ref`, at once and whole."""
    config = _descriptor("application/vnd.oci.image.config.v1+json", description)
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": layer.digest,
                    "size": layer.size,
                }
                for layer in layers
            ],
        }
    )
    index = _descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
    index["platform"] = {"architecture": architecture(), "os": "linux"}
    index["annotations"] = {
        "io.containerd.image.name": ref,
        "org.opencontainers.image.ref.name": ref.rpartition(":")[2],
    }
    docker = {
        "Config": _blob(config["digest"]),
        "RepoTags": [ref],
        "Layers": [_blob(layer.digest) for layer in layers],
    }
    with replacing(target) as new, tarfile.open(new, "w") as tar:
        _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", _json({"schemaVersion": 2, "manifests": [index]}))
        _add(tar, "manifest.json", _json([docker]))
        _add(tar, _blob(index["digest"]), manifest)
        _add(tar, _blob(config["digest"]), description)
        for layer in {layer.digest: layer for layer in layers}.values():
            with layer.path.open("rb") as stream:
                _add(tar, _blob(layer.digest), stream, layer.size)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary path beside `target`, which it replaces when the block ends well."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    os.close(descriptor)
    try:
        yield Path(name)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _walk(root: Path, empty: frozenset[str]) -> Iterator[tuple[Path, str]]:
    for folder, subfolders, files in os.walk(root):
        here = Path(folder)
        for entry in sorted(subfolders + files):
            path = here / entry
            yield path, path.relative_to(root).as_posix()
        subfolders[:] = sorted(
            entry
            for entry in subfolders
            if not (here / entry).is_symlink()
            and (here / entry).relative_to(root).as_posix() not in empty
        )


def _link(info: tarfile.TarInfo, path: Path, seen: dict[tuple[int, int], str]) -> None:
    """Make the second name of one file a link to the first; tarfile's own way is by archive."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        return
    first = seen.setdefault((status.st_dev, status.st_ino), info.name)
    info.type = tarfile.REGTYPE if first == info.name else tarfile.LNKTYPE
    info.linkname = "" if first == info.name else first
    info.size = status.st_size if first == info.name else 0


def _level(info: tarfile.TarInfo, owners: bool) -> None:
    info.mtime = TIME
    info.uname = info.gname = ""
    if owners:
        return
    info.uid = info.gid = 0
    if not info.issym():
        info.mode = 0o755 if info.isdir() or info.mode & 0o100 else 0o644


def _add(tar: tarfile.TarFile, name: str, data: bytes | IO[bytes], size: int = 0) -> None:
    info = tarfile.TarInfo(name)
    info.mtime, info.mode = TIME, 0o644
    info.size = len(data) if isinstance(data, bytes) else size
    tar.addfile(info, io.BytesIO(data) if isinstance(data, bytes) else data)


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
