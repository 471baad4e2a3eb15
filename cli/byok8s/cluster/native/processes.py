"""Long-running processes that are found again without pid files.

Every process carries a mark in its environment: the cluster's folder, its own name and a
digest of what it was started with. A mark cannot be stale, cannot be inherited by whoever gets
the number of a dead process, and finds the children (containerd's shims) as well.
"""

from __future__ import annotations

import hashlib
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_FOLDER, _NAME, _DIGEST = "BYOK8S_CLUSTER_FOLDER", "BYOK8S_COMPONENT", "BYOK8S_DIGEST"
_LOG_LIMIT = 20 * 2**20  # bytes; a larger log makes place for a new one at the next start
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Daemon:
    """What to start. `files` are read at its start, so a change of them asks for a restart."""

    name: str
    command: Sequence[str]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold keys
    files: Sequence[Path] = ()

    @property
    def digest(self) -> str:
        """Changes with the command, the environment and the files."""
        hashed = hashlib.sha256(repr((list(self.command), sorted(self.env.items()))).encode())
        for path in self.files:
            hashed.update(path.read_bytes())
        return hashed.hexdigest()[:16]


@dataclass(frozen=True)
class Process:
    """A running process that carries the mark of a cluster."""

    pid: int
    name: str
    digest: str
    leader: bool  # False: a child of one that we started

    @property
    def memory(self) -> int:
        """Resident memory in bytes; 0 when it is gone."""
        with suppress(OSError, StopIteration, IndexError):
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
            return int(next(x for x in lines if x.startswith("VmRSS")).split()[1]) * 1024
        return 0


def start(folder: Path, daemon: Daemon) -> int:
    """Start a daemon of the cluster in `folder` in a session of its own; returns its pid."""
    _make_place(daemon.log)
    env = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", **daemon.env}
    env |= {_FOLDER: str(folder), _NAME: daemon.name, _DIGEST: daemon.digest}
    output = (os.POSIX_SPAWN_OPEN, 1, str(daemon.log), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    # posix_spawn leaves no Popen object behind, which would want to be waited for; it cannot
    # change the working folder, and a daemon must not hold the user's: hence the shell.
    return os.posix_spawn(
        "/bin/sh",
        ["sh", "-c", 'cd / && exec "$@"', "sh", *daemon.command],
        env,
        setsid=True,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (*output, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )


def find(folder: Path) -> list[Process]:
    """Every process of the cluster in `folder`."""
    found = (_read(pid, str(folder)) for pid in _pids())
    return [process for process in found if process]


def leaders(folder: Path) -> dict[str, Process]:
    """The daemons of the cluster in `folder` that run, by name."""
    return {process.name: process for process in find(folder) if process.leader}


def stop(processes: Iterable[Process], folder: Path, grace: float) -> None:
    """SIGTERM, and SIGKILL for those that run on after `grace` seconds; returns when all ended."""
    with _handles(processes, folder) as handles:
        for number, limit in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
            if number == signal.SIGTERM and grace <= 0:
                continue
            for handle in handles.values():
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
            _wait(handles, limit)


def kill(pids: Iterable[int]) -> None:
    """SIGKILL to processes that are known to be ours; those that are gone are fine."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _reap(pid)


def descendants(roots: Iterable[int]) -> set[int]:
    """All children of processes, and theirs."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        with suppress(OSError, IndexError, ValueError):
            children.setdefault(int(_stat(pid)[1]), []).append(pid)
    found: set[int] = set()
    queue = list(roots)
    while queue:
        new = set(children.get(queue.pop(), ())) - found
        found |= new
        queue.extend(new)
    return found


@contextmanager
def _handles(processes: Iterable[Process], folder: Path) -> Iterator[dict[int, int]]:
    """Process handles: unlike numbers, they can never mean another process."""
    handles: dict[int, int] = {}
    try:
        for process in processes:
            with suppress(ProcessLookupError):
                handles[process.pid] = os.pidfd_open(process.pid)
        for pid in list(handles):
            if _read(pid, str(folder)) is None:
                os.close(handles.pop(pid))
        yield handles
    finally:
        for handle in handles.values():
            os.close(handle)


def _wait(handles: dict[int, int], limit: float) -> None:
    deadline = time.monotonic() + limit
    while handles and (left := deadline - time.monotonic()) > 0:
        poll = select.poll()
        for handle in handles.values():
            poll.register(handle, select.POLLIN)
        ended = {handle for handle, _ in poll.poll(left * 1000)}
        for pid in [pid for pid, handle in handles.items() if handle in ended]:
            os.close(handles.pop(pid))
            _reap(pid)


def _reap(pid: int) -> None:
    """Collect the exit of a process that this very process started."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _pids() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit())


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's name: state, parent, group, session."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _read(pid: int, folder: str) -> Process | None:
    try:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        mark = f"{_FOLDER}={folder}".encode()
        if mark not in pairs:
            return None
        env = dict(pair.decode(errors="replace").partition("=")[::2] for pair in pairs)
        state, _, _, session = _stat(pid)[:4]
    except (OSError, ValueError):
        return None
    if state in "ZX":
        return None
    return Process(pid, env.get(_NAME, ""), env.get(_DIGEST, ""), int(session) == pid)


def _make_place(log: Path) -> None:
    if log.exists() and log.stat().st_size > _LOG_LIMIT:
        log.replace(log.with_suffix(".log.1"))
