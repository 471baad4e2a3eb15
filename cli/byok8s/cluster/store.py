"""What byok8s remembers of its clusters: STATE/clusters/NAME/cluster.json, for its owner only."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from byok8s import settings
from byok8s.exceptions import ClusterError, SettingsError

CONTEXT_PREFIX = "byok8s-"
# "byok8s-" and the name must fit in k3d's 32 characters
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,22}[a-z0-9])?")


@dataclass(frozen=True)
class S3Server:
    """An S3 server that came with a cluster; host and pods reach it at the same address."""

    endpoint_url: str
    access_key: str
    secret_key: str = field(repr=False)
    region: str = "us-east-1"
    bucket: str = "byok8s"  # made at create


@dataclass(frozen=True)
class ClusterInfo:
    """A cluster that byok8s made."""

    name: str
    driver: str
    context: str  # in the kubeconfig: byok8s-NAME
    worker_image: str | None = None
    s3: S3Server | None = None


def check_name(name: str) -> str:
    """The name itself; raises SettingsError when it cannot name a cluster."""
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"'{name}' cannot name a cluster: use up to 24 lower-case letters, digits and hyphens, "
            "beginning with a letter and ending with a letter or a digit."
        )
    return name


def context_name(name: str) -> str:
    """The kubeconfig context of the cluster NAME."""
    return CONTEXT_PREFIX + name


def clusters_folder() -> Path:
    """The folder that holds one folder per cluster."""
    return settings.state_folder() / "clusters"


def folder(name: str) -> Path:
    """The folder of the cluster NAME (not made by this call)."""
    return clusters_folder() / check_name(name)


def save(info: ClusterInfo) -> None:
    """Write cluster.json at once and whole, readable by its owner only."""
    target = folder(info.name) / "cluster.json"
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".cluster-")  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as stream:
            json.dump(asdict(info), stream, indent=2)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def load(name: str) -> ClusterInfo | None:
    """The cluster NAME, or None when byok8s made no such cluster.

    Raises ClusterError when its cluster.json is damaged.
    """
    path = folder(name) / "cluster.json"
    try:
        data = json.loads(path.read_bytes())
        server = data.pop("s3", None)
        return ClusterInfo(**data, s3=S3Server(**server) if server else None)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError) as error:
        raise ClusterError(
            f"The record of cluster '{name}' in {path} is damaged; "
            f"remove the cluster with: byok8s cluster delete {name} --driver DRIVER."
        ) from error


def remove(name: str) -> None:
    """Forget the cluster NAME: its folder goes, with all that is in it."""
    shutil.rmtree(folder(name), ignore_errors=True)


def names() -> list[str]:
    """The names of the clusters that have a record."""
    return sorted(path.parent.name for path in clusters_folder().glob("*/cluster.json"))


@contextmanager
def exclusive(on_wait: Callable[[str], None]) -> Iterator[None]:
    """Hold the right to change clusters; `on_wait` is told when another process holds it.

    The lock is the folder itself, so that it leaves no file behind and ends with the process.
    """
    descriptor = _lock(on_wait)
    try:
        yield
    finally:
        _remove_empty_folders()
        os.close(descriptor)


def _lock(on_wait: Callable[[str], None]) -> int:
    while True:
        descriptor = _open_folder()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait("Another byok8s is changing clusters; waiting for it to end.")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # the holder before us may have removed the folder; then ours is no longer the lock
        if clusters_folder().exists() and os.path.samestat(
            os.fstat(descriptor), os.stat(clusters_folder())
        ):
            return descriptor
        os.close(descriptor)


def _open_folder() -> int:
    try:
        clusters_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(clusters_folder(), os.O_RDONLY)
    except OSError as error:
        raise ClusterError(
            f"The folder {clusters_folder()} cannot be used ({error.strerror}); "
            "correct its permissions, or name another place in XDG_STATE_HOME."
        ) from error


def _remove_empty_folders() -> None:
    for empty in (clusters_folder(), settings.state_folder()):
        try:
            empty.rmdir()
        except OSError:
            return  # not empty
