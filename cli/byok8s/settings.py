"""Frozen settings: the readers of options and environment, free of heavy imports."""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from byok8s import __version__
from byok8s.exceptions import SettingsError

# The image whose contents belong to this version, for clusters that can pull (docs/worker-image.md)
WORKER_IMAGE = f"byok8s/worker:{__version__}"

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_STORAGE_CLASS = re.compile(r"[A-Z0-9_]+")
_ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")  # take minutes to hours to be read again
# A DNS label (RFC 1123), as Kubernetes wants it for a namespace
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# [HOST[:PORT]/]NAME[/NAME]...[:TAG][@DIGEST], as in the distribution project's reference grammar
_IMAGE = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9.-]*(:\d+)?/)?"
    r"[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
    r"(:\w[\w.-]{0,127})?(@[a-z0-9]+:[0-9a-f]{32,})?",
    re.ASCII,
)


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
class S3Options:
    """How the S3 server is spoken to, and how objects are kept there.

    Raises SettingsError when values are impossible, alone or together.
    """

    addressing: str | None = None  # "path" or "virtual"; None: the AWS config file's, else "path"
    sse: str | None = None  # server-side encryption: AES256, aws:kms or aws:kms:dsse
    sse_kms_key_id: str | None = None
    storage_class: str | None = None  # of what jobs store
    requester_pays: bool = False

    def __post_init__(self) -> None:
        if self.sse_kms_key_id and not (self.sse or "").startswith("aws:kms"):
            raise SettingsError(
                "--s3-sse-kms-key-id names a key of KMS; add --s3-sse=aws:kms, which uses one."
            )
        if self.storage_class is not None and not _STORAGE_CLASS.fullmatch(self.storage_class):
            raise SettingsError(
                f"'{self.storage_class}' is not a storage class; write it as S3 does, "
                "for example --s3-storage-class=STANDARD_IA."
            )
        if self.storage_class in _ARCHIVES:
            raise SettingsError(
                f"Objects of the storage class {self.storage_class} cannot be read at once, as "
                "the next rule must; take another, and move results by a lifecycle rule of the "
                "bucket."
            )

    def for_obstore(self) -> dict[str, Any]:
        """What of it obstore has settings for."""
        found: dict[str, Any] = {}
        if self.sse:
            found["server_side_encryption"] = self.sse
        if self.sse_kms_key_id:
            found["sse_kms_key_id"] = self.sse_kms_key_id
        if self.requester_pays:
            found["request_payer"] = True
        return found


@dataclass(frozen=True)
class S3Settings:
    """Where the S3 server is. Credentials are never part of settings."""

    location: S3Location
    endpoint_url: str | None = None  # None: AWS
    region: str | None = None
    options: S3Options = field(default_factory=S3Options)
    ca_file: Path | None = None  # certificates to trust beside the system's
    md5_etags: bool = True  # False where an ETag was seen that is no MD5, as under KMS

    def as_words(self) -> dict[str, str]:
        """For those who look at a run from elsewhere."""
        words = {"storage": str(self.location)}
        words |= {"endpoint": self.endpoint_url} if self.endpoint_url else {}
        return words | ({"region": self.region} if self.region else {})


@dataclass(frozen=True)
class KubeSettings:
    """Which cluster; None means what kubectl would take."""

    kubeconfig: Path | None = None
    context: str | None = None
    namespace: str | None = None

    def __post_init__(self) -> None:
        """Raises SettingsError when the namespace's name is not one that Kubernetes accepts."""
        if self.namespace is not None and not _NAMESPACE.fullmatch(self.namespace):
            raise SettingsError(
                f"'{self.namespace}' cannot be a namespace, whose name has up to 63 lower-case "
                "letters, digits and hyphens, and no hyphen at either end; choose another."
            )


@dataclass(frozen=True)
class PlacementSettings:
    """Where the pods of a run may run, in the words of its options (docs/placement.md)."""

    spot: str | None = None
    node_selector: tuple[str, ...] = ()
    node_preference: tuple[str, ...] = ()
    toleration: tuple[str, ...] = ()
    priority_class: str | None = None
    kueue_queue: str | None = None
    runtime_class: str | None = None
    service_account: str | None = None
    image_pull_secret: tuple[str, ...] = ()
    volume: tuple[str, ...] = ()
    pod_template: Path | None = None
    allow_privileged: bool = False

    @property
    def wishes(self) -> dict[str, str]:
        """What was said of the pods, by the names that rules use in `resources:` as well."""
        said = {
            field.name: value
            for field in fields(self)
            if field.name not in ("pod_template", "allow_privileged")
            and (value := getattr(self, field.name))
        }
        return {k: ",".join(v) if isinstance(v, tuple) else v for k, v in said.items()}

    @staticmethod
    def option(name: str) -> str:
        """The option behind a field."""
        return "--queue" if name == "kueue_queue" else f"--{name.replace('_', '-')}"


@dataclass(frozen=True)
class RunSettings:
    """Everything that `byok8s run` was told on its command line and by the environment.

    Raises SettingsError when values are impossible, alone or together.
    """

    workflow: str
    params: str
    targets: tuple[str, ...] = ()
    snakefile: Path = Path("Snakefile")
    location: S3Location | None = None  # None only with local
    endpoint_url: str | None = None
    region: str | None = None
    s3: S3Options = field(default_factory=S3Options)
    kube: KubeSettings = field(default_factory=KubeSettings)
    dry_run: bool = False
    force: bool = False
    jobs: int | None = None
    max_threads: int | None = None  # of a job, whatever its rule says
    bundle: bool = True  # short jobs may share a pod
    pods_per_second: float = 20.0  # that are created; 0: no limit
    image: str | None = None
    retries: int = 0
    max_disruptions: int = 10
    memory_retries: int = 3
    wait_limits: Mapping[str, float | None] = field(default_factory=dict)  # seconds, None: for ever
    keep_going: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)  # --param
    download: bool = False
    owner: str | None = None  # None: the user's name
    placement: PlacementSettings = field(default_factory=PlacementSettings)
    local: bool = False
    on_exit: str = "delete"  # of the pods of an interrupted run: delete or keep
    debug: bool = False

    def __post_init__(self) -> None:
        if not all(target.strip() for target in self.targets):
            raise SettingsError("A TARGET is empty; leave it out for the workflow file's target.")
        if self.jobs is not None and self.jobs < 1:
            raise SettingsError(f"--jobs is {self.jobs}; it must be at least 1.")
        if self.max_threads is not None and self.max_threads < 1:
            raise SettingsError(f"--max-threads is {self.max_threads}; it must be at least 1.")
        numbers = {
            "--pods-per-second": self.pods_per_second,
            "--retries": self.retries,
            "--max-disruptions": self.max_disruptions,
            "--memory-retries": self.memory_retries,
        }
        for option, number in numbers.items():
            if not 0 <= number < math.inf:
                raise SettingsError(f"{option} is {number}; it must be 0 or more.")
        if self.image is not None and not _IMAGE.fullmatch(self.image):
            raise SettingsError(
                f"'{self.image}' is not an image reference; write it as REGISTRY/NAME:TAG, "
                "for example --image=ghcr.io/lab/byok8s-worker:1.0.0."
            )
        if self.owner is not None and not re.search(r"[A-Za-z0-9]", self.owner):
            raise SettingsError(
                f"--owner is '{self.owner}', of which nothing can stand in a label; it needs a "
                "letter from a to z or a digit."
            )
        if self.local:
            self._refuse_cluster_options()
        elif self.location is None:
            raise SettingsError(
                "No S3 bucket given; name one with --s3-bucket (-b) or BYOK8S_S3_BUCKET, "
                "or use --local to run without a cluster."
            )

    def _refuse_cluster_options(self) -> None:
        told = {
            "--k8s-namespace": self.kube.namespace,
            "--context": self.kube.context,
            "--kubeconfig": self.kube.kubeconfig,
            "--image": self.image,
            "--owner": self.owner,
            **{
                PlacementSettings.option(each.name): getattr(self.placement, each.name) or None
                for each in fields(self.placement)
            },
            "--on-exit": None if self.on_exit == "delete" else self.on_exit,
        }
        for option, value in told.items():
            if value is not None:
                raise SettingsError(
                    f"--local runs the jobs on this machine, so {option} cannot apply; "
                    "leave out one of the two."
                )


def endpoint_url(text: str) -> str:
    """The complete URL of an S3 endpoint: a missing scheme is filled in, a trailing slash removed.

    Without a scheme an address, `localhost` or a name without a dot (a Service in the cluster, a
    host in the lab) is taken as http, every other name as https.
    Raises SettingsError when the text cannot be an endpoint, or holds a password.
    """
    wanted = "write it as --s3-endpoint-url=https://HOST[:PORT]"
    try:
        url = urlsplit(text if "://" in text else f"//{text}")
        host, port = url.hostname, url.port
    except ValueError as error:
        raise SettingsError(f"The S3 endpoint '{text}' has no valid address; {wanted}.") from error
    if "@" in url.netloc:  # not echoed: what is before the @ is a password
        raise SettingsError(f"The S3 endpoint's URL must not hold a user or password; {wanted}.")
    if url.scheme not in ("", "http", "https") or not host or re.search(r"\s", text):
        raise SettingsError(f"The S3 endpoint '{text}' is not an http or https URL; {wanted}.")
    if url.query or url.fragment or port == 0:
        raise SettingsError(f"The S3 endpoint '{text}' has more than an address; {wanted}.")
    scheme = url.scheme or ("http" if _is_address(host) or "." not in host else "https")
    return f"{scheme}://{url.netloc}{url.path}".rstrip("/")


def is_loopback(url: str) -> bool:
    """True when a URL's host is the machine itself, which from inside a pod is the pod."""
    host = urlsplit(url).hostname or ""
    if _is_address(host):
        address = ipaddress.ip_address(host)
        return address.is_loopback or address.is_unspecified
    return host == "localhost" or host.endswith(".localhost")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def cache_folder() -> Path:
    """Where builds that can be made again are kept: $XDG_CACHE_HOME/byok8s or ~/.cache/byok8s."""
    return _xdg("XDG_CACHE_HOME", ".cache")


def state_folder() -> Path:
    """Where clusters and their data live: $XDG_STATE_HOME/byok8s or ~/.local/state/byok8s."""
    return _xdg("XDG_STATE_HOME", ".local/state")


def _xdg(variable: str, default: str) -> Path:
    base = os.environ.get(variable, "")
    return (Path(base) if base else Path.home() / default) / "byok8s"
