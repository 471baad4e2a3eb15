"""A pod's one job, where it is of the plainest kind: a short command without inputs that goes well.

Most of what the worker takes for such a job is importing json, re, subprocess, pathlib and obstore:
50 of 70 ms of CPU. Nothing of this is needed to run a command and put a small file over
plain HTTP, so that this module imports what Python has built in and no more. What turns out to be
anything else is handed over to the worker (`__main__`), with what the command has come to if it has
run already: that a command fails, lasts, or leaves a large file is nothing that is known here.
"""

from __future__ import annotations

import binascii
import errno
import os
import sys
import time

from byok8s.worker import shell
from byok8s.worker.archive import unpack
from byok8s.worker.light import LARGEST, LightBucket, sha256
from byok8s.worker.names import (
    BUNDLE_VARIABLE,
    CA_FILE,
    CREDENTIALS_FILE,
    ENVIRONMENT_FILE,
    FILES_VARIABLE,
    JOB_VARIABLE,
    OUR_VARIABLES,
    S3_VARIABLE,
    SCRATCH_FOLDER,
    SECRET_FOLDER,
    TERMINATION_LIMIT,
    TERMINATION_LOG,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any
else:
    import _signal as signal  # without what makes names of its numbers

LOG = f"{SCRATCH_FOLDER}/byok8s.log"  # of a pod's one job
_LASTS_SECONDS = 1  # a command that takes longer may as well have the whole worker around it
# What obstore heeds, too, and a LightBucket does not
_OTHER_WAYS = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


class Other(Exception):
    """It is not of the plainest kind."""


class _Usual:
    """json's own settings."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float


class Done:
    """How a command went that was run here."""

    def __init__(self, exit_code: int, seconds: float, usage: Any) -> None:
        self.exit_code = exit_code  # 128 + N for signal N
        self.seconds = seconds
        self.cpu_seconds = round(usage.ru_utime + usage.ru_stime, 3)
        self.peak_memory = usage.ru_maxrss * 1024  # bytes
        self.lasted = False  # longer than is done here
        self.problem: OSError | None = None  # its output could not be kept


def main() -> None:
    """What a pod starts; ends the process."""
    done = None
    try:
        job, files, bucket = told()
        arguments, variables = prepare(job, files, bucket)
        done = run(arguments, variables, job["workdir"])
        conclude(job, bucket, done)
    except Exception:  # the worker finds the same, and has the words for it
        from byok8s.worker.__main__ import main as worker
        from byok8s.worker.process import leave

        leave(worker(done))
    os._exit(0)


def told() -> tuple[dict[str, Any], dict[str, bytes], LightBucket]:
    """The job, the Secret's files and the bucket; raises Other, and what bad input raises."""
    given = os.environ
    if BUNDLE_VARIABLE in given or FILES_VARIABLE not in given:
        raise Other
    # obstore heeds many of them
    if any(map(given.get, _OTHER_WAYS)) or any(name.startswith("AWS_") for name in given):
        raise Other
    job, where = loads(given[JOB_VARIABLE]), loads(given[S3_VARIABLE])
    command = job["command"]
    if command is None or command["inputs"] or command["texts"] or command["benchmark"]:
        raise Other
    if any(f["folder"] or f["non_empty"] or f["checksum"] for f in command["outputs"]):
        raise Other
    special = not where["path_style"] or where["storage_class"] or where["options"]
    if special or not where["md5_etags"]:
        raise Other
    packed = loads(given[FILES_VARIABLE])
    files = {name: binascii.a2b_base64(content) for name, content in packed.items()}
    if sha256(files["sources"]).hexdigest() != job["sources_sha256"]:
        raise Other
    lines = files["credentials"].decode().splitlines()
    keys = dict(line.split(" = ", 1) for line in lines if " = " in line)
    if keys.keys() != {"aws_access_key_id", "aws_secret_access_key"}:
        raise Other
    pair = keys["aws_access_key_id"], keys["aws_secret_access_key"]
    endpoint = where["endpoint_url"] or ""
    return job, files, LightBucket(endpoint, where["bucket"], where["region"], *pair)


def loads(text: str) -> Any:
    """As json.loads, by the same scanner; json imports re, and both take 10 ms."""
    from _json import make_scanner

    usual: Any = _Usual
    return make_scanner(usual)(text, 0)[0]


def write_files(files: dict[str, bytes]) -> None:
    """Write the Secret's files, which came as a variable, where they are mounted in other pods.

    Raises OSError, also where the image's working folder is not ours to use.
    """
    if not os.access(os.curdir, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.getcwd())
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    for name, content in files.items():
        # readable by this user alone, as nobody else reads a mounted Secret
        with open(os.open(f"{SECRET_FOLDER}/{name}", flags, 0o400), "wb") as file:
            file.write(content)
    os.environ.pop(FILES_VARIABLE, None)  # no child is to have it


def prepare(
    job: dict[str, Any], files: dict[str, bytes], bucket: LightBucket
) -> tuple[list[str], dict[str, str]]:
    """Write all that the command needs; returns its arguments and its environment."""
    write_files(files)
    unpack(files["sources"], os.curdir, job["workdir"])
    command, folder = job["command"], os.path.abspath(job["workdir"])
    for file in (*command["outputs"], *command["logs"]):
        os.makedirs(os.path.dirname(os.path.join(folder, file["path"])), exist_ok=True)
    if command["tmpdir"]:
        os.makedirs(os.path.join(folder, command["tmpdir"]), exist_ok=True)
    variables = {**os.environ, **shell.bucket_variables(bucket.endpoint, bucket.region)}
    variables["AWS_SHARED_CREDENTIALS_FILE"] = CREDENTIALS_FILE
    if os.path.basename(CA_FILE) in files:
        variables["AWS_CA_BUNDLE"] = CA_FILE
    variables |= loads(files.get(os.path.basename(ENVIRONMENT_FILE), b"{}").decode())
    variables |= shell.variables(command["threads"], command["tmpdir"] or SCRATCH_FOLDER)
    for name in OUR_VARIABLES:
        variables.pop(name, None)
    strict, text = command["strict"], command["text"]
    return shell.arguments(command["shell"], text, folder, strict=strict), variables


def run(arguments: list[str], variables: dict[str, str], folder: str) -> Done:
    """Run a command in a process group of its own; its output goes to the pod's log and to LOG.

    Raises OSError when it cannot be started.
    """
    start = time.monotonic()
    keeper: list[Any] = []
    log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    source, sink = os.pipe()
    pid = _started(arguments, variables, folder, sink)
    os.close(sink)
    signal.signal(signal.SIGTERM, lambda *_: _end(pid, signal.SIGTERM))
    signal.signal(signal.SIGALRM, lambda *_: _keep_log(keeper))
    signal.alarm(_LASTS_SECONDS)
    problem = None
    try:
        _pass_on(source, log)
    except OSError as error:  # the disk is full, for one; to run it again beside itself is no help
        problem = error
        _end(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    signal.alarm(0)
    for kept in keeper:
        kept.close()
    code = os.waitstatus_to_exitcode(status)
    done = Done(code if code >= 0 else 128 - code, time.monotonic() - start, usage)
    done.lasted, done.problem = bool(keeper), problem
    return done


def _started(arguments: list[str], variables: dict[str, str], folder: str, sink: int) -> int:
    """The process of a command whose output goes to `sink`."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        return os.posix_spawn(
            arguments[0],
            arguments,
            variables,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, sink, 1),
                (os.POSIX_SPAWN_DUP2, sink, 2),
            ],
            setsid=True,
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
        )
    finally:
        os.chdir(before)


def _end(pid: int, number: int) -> None:
    try:  # noqa: SIM105 (contextlib imports more than this module does)
        os.killpg(pid, number)
    except ProcessLookupError:
        pass


def _keep_log(keeper: list[Any]) -> None:
    """From now on the log goes into the bucket now and then, as the worker does it."""
    try:
        from byok8s.worker.__main__ import keep_log_meanwhile

        keeper.append(keep_log_meanwhile())
    except Exception as error:  # the command goes on
        print(f"The log is not kept in the bucket meanwhile: {error}", flush=True)


def _pass_on(source: int, log: int) -> None:
    """What the command writes, until its end; a last line that does not end is ended in the pod's
    log.
    """
    last = b"\n"
    while data := os.read(source, 65536):
        last = data
        for sink in (sys.stdout.fileno(), log):
            left = memoryview(data)
            while left:
                left = left[os.write(sink, left) :]
    if not last.endswith(b"\n"):
        os.write(sys.stdout.fileno(), b"\n")
    os.close(source)
    os.close(log)


def conclude(job: dict[str, Any], bucket: LightBucket, done: Done) -> None:
    """Store what a command made that went well, and leave the report; raises Other."""
    if done.exit_code or done.lasted or done.problem:
        raise Other
    began = time.monotonic()
    command = job["command"]
    folder = job["workdir"]
    for file in (*command["logs"], *(file for file in command["outputs"] if file["touch"])):
        path = os.path.join(folder, file["path"])
        if not os.path.exists(path):
            with open(path, "xb"):
                pass
    files = (*command["logs"], *command["outputs"])
    rows = [_stored(bucket, file["key"], os.path.join(folder, file["path"])) for file in files]
    if output := _content(LOG):
        bucket.put(job["log_key"], output)
    stored = time.monotonic() - began
    size = sum(size for _, size, _, _ in rows)
    told = ",".join(f"[{_text(key)},{size},{at!r},{_text(etag)}]" for key, size, at, etag in rows)
    report = (
        f'{{"exit_code":0,"seconds":{done.seconds + stored:.3f},'
        f'"command_seconds":{done.seconds:.3f},"store_seconds":{stored:.3f},"bytes_out":{size},'
        f'"cpu_seconds":{done.cpu_seconds},"peak_memory":{done.peak_memory},'
        f'"stored":[{told}]}}'
    ).encode()
    if len(report) > TERMINATION_LIMIT:
        raise Other
    with open(TERMINATION_LOG, "wb") as file:
        file.write(report)
    if job["early_key"]:
        try:  # noqa: SIM105 (as above)
            bucket.put(job["early_key"], report)
        except (OSError, ValueError):
            pass  # the cluster tells as well


def _stored(bucket: LightBucket, key: str, path: str) -> tuple[str, int, float, str]:
    """Put a file into the bucket; returns its key, size, mtime and ETag."""
    before = os.stat(path)
    data = _content(path)
    etag = bucket.put(key, data)
    after = os.stat(path)
    if (after.st_size, after.st_mtime_ns) != (len(data), before.st_mtime_ns):
        raise Other
    return key, len(data), time.time(), etag


def _text(text: str) -> str:
    """A text in JSON; raises Other for what would take more than quotes."""
    if not (text.isascii() and text.isprintable()) or '"' in text or "\\" in text:
        raise Other
    return f'"{text}"'


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise Other
    return data
