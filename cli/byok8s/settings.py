"""Frozen settings: the readers of options and environment, free of heavy imports."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from byok8s.exceptions import SettingsError

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True)
class S3Location:
    """A bucket and the prefix under which a workflow's files live (no slash at either end)."""

    bucket: str
    prefix: str = ""

    @classmethod
    def parse(cls, text: str) -> S3Location:
        """Read `BUCKET`, `BUCKET/PREFIX` or `s3://BUCKET/PREFIX`.

        Raises SettingsError when the bucket's name is not one that S3 accepts.
        """
        bucket, _, prefix = text.strip().removeprefix("s3://").partition("/")
        prefix = prefix.strip("/")
        if not _BUCKET.fullmatch(bucket):
            raise SettingsError(
                f"'{text}' does not name an S3 bucket: a name has 3 to 63 lower-case letters, "
                "digits, dots and hyphens, for example --s3-bucket=mybucket or mybucket/project."
            )
        if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
            raise SettingsError(
                f"The prefix '{prefix}' of --s3-bucket has an empty, '.' or '..' part; remove it."
            )
        return cls(bucket, prefix)

    def key(self, path: str) -> str:
        """The object key of a path below the prefix."""
        return f"{self.prefix}/{path}" if self.prefix else path

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


@dataclass(frozen=True)
class S3Settings:
    """Where the S3 server is. Credentials are never part of settings."""

    location: S3Location
    endpoint_url: str | None = None  # None: AWS
    region: str | None = None


@dataclass(frozen=True)
class KubeSettings:
    """Which cluster; None means what kubectl would take."""

    kubeconfig: Path | None = None
    context: str | None = None
    namespace: str | None = None


@dataclass(frozen=True)
class RunSettings:
    """Everything that `byok8s run` was told on its command line and by the environment."""

    workflow: str
    params: str
    targets: tuple[str, ...] = ()
    snakefile: Path = Path("Snakefile")
    location: S3Location | None = None  # None only with local
    endpoint_url: str | None = None
    region: str | None = None
    kube: KubeSettings = field(default_factory=KubeSettings)
    dry_run: bool = False
    force: bool = False
    jobs: int | None = None
    image: str | None = None
    retries: int = 0
    keep_going: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)  # --param
    download: bool = False
    local: bool = False
    debug: bool = False


def cache_folder() -> Path:
    """Where builds that can be made again are kept: $XDG_CACHE_HOME/byok8s or ~/.cache/byok8s."""
    return _xdg("XDG_CACHE_HOME", ".cache")


def state_folder() -> Path:
    """Where clusters and their data live: $XDG_STATE_HOME/byok8s or ~/.local/state/byok8s."""
    return _xdg("XDG_STATE_HOME", ".local/state")


def _xdg(variable: str, default: str) -> Path:
    base = os.environ.get(variable, "")
    return (Path(base) if base else Path.home() / default) / "byok8s"
