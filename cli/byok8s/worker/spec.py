"""The words that the leader and a worker exchange, as JSON in a pod's environment."""

from __future__ import annotations

import json
from typing import Any

from byok8s.worker.record import Record
from byok8s.worker.shell import bucket_variables

AWAY = ".away"  # with it added, the file in which it says that the store does not answer
# Characters of a variable's value, which execve(2) limits to 128 KiB (MAX_ARG_STRLEN)
LONGEST_VARIABLE = 100_000

STAGING_FAILED = 113  # exit code: byok8s could not prepare or report the job


class Bucket(Record):
    """Where the bucket is; never with credentials."""

    bucket: str
    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool = True  # ENDPOINT/BUCKET/KEY; False: BUCKET.ENDPOINT/KEY
    storage_class: str = ""  # of what jobs store; '': the bucket's own
    md5_etags: bool = True  # False where ETags are no MD5, as under KMS
    options: dict[str, Any] = {}  # obstore's: encryption, requester pays

    @property
    def variables(self) -> dict[str, str]:
        """Where AWS tools find it, those of a rule's command too; no secret."""
        return bucket_variables(self.endpoint_url, self.region)

    def dumps(self) -> str:
        return json.dumps(vars(self))

    @classmethod
    def loads(cls, text: str) -> Bucket:
        return cls(**json.loads(text))


class File(Record):
    """An object, or a folder of them, and where the command finds or leaves it.

    The path is below the working directory.
    """

    key: str
    path: str
    touch: bool = False  # `touch()`: the worker makes it
    folder: bool = False
    names: tuple[str, ...] = ()  # of an input folder's files: KEY/NAME
    non_empty: bool = False  # `ensure()`: the worker checks it
    checksum: str = ""  # `ensure()`: ALGORITHM:HEX of the content


class Command(Record):
    """A rule's command, formatted, for a job that needs no Snakemake in the pod."""

    text: str
    threads: int
    inputs: tuple[File, ...]
    outputs: tuple[File, ...]
    logs: tuple[File, ...]
    # path below the working directory and content of what the command runs, as a script
    texts: tuple[tuple[str, str], ...] = ()
    benchmark: File | None = None  # what the command takes is written there
    tmpdir: str = ""  # `resources: tmpdir`, also below the working directory; '': the pod's own
    shell: str = "bash"  # name or path
    strict: bool = True  # in bash's strict mode; False: the text is all that the shell gets

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Command:
        fields["texts"] = tuple((path, text) for path, text in fields["texts"])
        for name in ("inputs", "outputs", "logs"):
            files = fields[name]
            fields[name] = tuple(File(**file | {"names": tuple(file["names"])}) for file in files)
        if fields.get("benchmark"):
            fields["benchmark"] = File(**fields["benchmark"] | {"names": ()})
        return cls(**fields)


class JobSpec(Record):
    """One job: unpack the sources, run its command or Snakemake for it, keep the log."""

    sources_key: str
    sources_sha256: str
    workdir: str  # within the unpacked sources
    argv: tuple[str, ...]  # of the Python interpreter that runs Snakemake; empty with a command
    log_key: str
    result_key: str  # for results that exceed the termination message
    early_key: str = ""  # for the result of a job that ended well, too; '': nobody looks for it
    rule_logs: tuple[str, ...] = ()  # paths below workdir: the rule's `log:` files
    command: Command | None = None
    globs: dict[str, Any] = {}  # workflow.globbing: found since the start
    facts: dict[str, Any] = {}  # storage.inventory: known objects

    def dumps(self) -> str:
        return json.dumps(vars(self), default=vars)

    @classmethod
    def loads(cls, text: str) -> JobSpec:
        return cls.of(json.loads(text))

    @classmethod
    def of(cls, fields: dict[str, Any]) -> JobSpec:
        fields |= {name: tuple(fields[name]) for name in ("argv", "rule_logs")}
        if fields["command"] is not None:
            fields["command"] = Command.of(fields["command"])
        return cls(**fields)


class Result(Record, frozen=False):
    """How a job went."""

    exit_code: int
    command_exit: int | None = None  # of the user's command, when it was one that failed
    error: str = ""  # a sentence, when byok8s itself could not go on
    seconds: float = 0.0  # wall time of the job without staging the sources
    fetch_seconds: float = 0.0  # of it, for the inputs; the worker knows it without Snakemake only
    command_seconds: float = 0.0  # of it, in the command (or in Snakemake, with all it does)
    store_seconds: float = 0.0  # of it, for outputs and logs
    bytes_in: int = 0  # of inputs that were fetched
    bytes_out: int = 0  # of outputs and logs
    cpu_seconds: float = 0.0  # of the command and its children
    peak_memory: int = 0  # bytes, of the largest process of the command
    out_of_memory: bool = False  # the kernel killed a process of the command
    storage_away: bool = False  # `error` is that the store did not answer: not the job's doing
    tail: str = ""  # last lines of the rule's log or of the output
    # key, size in bytes, mtime in epoch seconds, etag of each object that was stored
    stored: list[tuple[str, int, float, str]] = []

    def dumps(self) -> str:
        """As short as it goes: a pod's termination message takes 4096 bytes."""
        return json.dumps(vars(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def loads(cls, text: str) -> Result:
        return cls.of(json.loads(text))

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Result:
        return cls(**{**fields, "stored": [tuple(row) for row in fields.get("stored", ())]})


class BundleJob(Record):
    """A job of a bundle. `seconds`: its time limit; `name` marks its lines in the pod's log.

    `fingerprint` and `note` are for a later leader to read, should this one die.
    """

    id: str
    name: str
    spec: JobSpec
    seconds: int | None = None
    fingerprint: str = ""
    note: str = ""

    @classmethod
    def of(cls, fields: dict[str, Any]) -> BundleJob:
        return cls(**{**fields, "spec": JobSpec.of(fields["spec"])})


class BundleSpec(Record):
    """A pod that runs short jobs one after the other, and takes more while it lives.

    What the leader sends later is at the keys `mail` + "1", "2" … `slots` jobs run at a time,
    while the inputs of `ahead` more are fetched. Without work it ends after `linger` seconds.
    What has waited behind running jobs for `patience` seconds goes back to the leader.
    """

    mail: str
    result_key: str
    jobs: tuple[BundleJob, ...] = ()
    slots: int = 1
    ahead: int = 1
    linger: float = 5.0
    patience: float = 2.0

    def dumps(self) -> str:
        return json.dumps(vars(self), default=vars)

    @classmethod
    def loads(cls, text: str) -> BundleSpec:
        fields: dict[str, Any] = json.loads(text)
        return cls(**{**fields, "jobs": tuple(map(BundleJob.of, fields["jobs"]))})


# A pod tells of its jobs by lines of its log that begin with this
NEWS = b"\x1ebyok8s "


def news(**fields: Any) -> bytes:
    """A line for the leader."""
    return NEWS + json.dumps(fields, ensure_ascii=False).encode() + b"\n"


def read_news(line: bytes) -> dict[str, Any] | None:
    """What a line of a pod's log tells; None for what a job writes, and where it is cut short."""
    if not line.startswith(NEWS):
        return None
    try:
        fields = json.loads(line.removeprefix(NEWS))
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None
