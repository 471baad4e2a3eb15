"""Who leads a run: a lease in the run's ConfigMap, renewed while its leader lives."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from byok8s.batch.client import CONNECT_SECONDS, MERGE_PATCH, ApiError, KubeClient
from byok8s.batch.ends import epoch
from byok8s.batch.pods import RunIdentity
from byok8s.exceptions import Byok8sError, ClusterError
from byok8s.settings import state_folder

_log = logging.getLogger(__name__)
LEASE_SECONDS = 30.0  # without a sign of life for as long, a leader counts as dead
RENEW_SECONDS = 5.0
LEADER, CANCEL, STARTED = "leader", "cancel", "started"  # keys of the ConfigMap's data


@dataclass(frozen=True)
class Leader:
    """A process that leads a run. Times are epoch seconds by the API server's clock."""

    token: str  # this leader and no other
    user: str
    host: str
    pid: int
    since: float
    renewed: float  # the last sign of life
    released: bool = False  # it left on purpose, and its pods to the next one

    @classmethod
    def of(cls, data: Mapping[str, str]) -> Leader | None:
        """The leader that a ConfigMap's data name; None when they name none."""
        try:
            written = json.loads(data[LEADER])
            return cls(**{name: written[name] for name in cls.__dataclass_fields__})
        except (KeyError, ValueError, TypeError):
            return None

    def is_alive(self, now: float) -> bool:
        """Whether it must be taken to be alive at `now` (API server's epoch seconds)."""
        return not self.released and now - self.renewed < LEASE_SECONDS and not _has_died(self)

    def __str__(self) -> str:
        return f"{self.user} on {self.host} (process {self.pid})"


class RunIsLed(ClusterError):
    """Another leader of the run lives."""

    def __init__(self, run: str, leader: Leader, now: float) -> None:
        left = max(0, round(LEASE_SECONDS - (now - leader.renewed)))
        super().__init__(
            f"The run '{run}' is led by {leader}, since {clock(leader.since)} UTC; wait for its "
            f"end, or stop it with: byok8s cancel {run} (if that process is dead, the run is free "
            f"in {left} s)."
        )
        self.leader = leader


class Lease:
    """The ConfigMap of a run, and in it the word that this process leads.

    `about` describes the run for those who list runs. `on_lost` is called from another thread
    with one sentence when somebody else has taken or removed the run, `on_cancel` with who asked
    this leader to stop.
    """

    def __init__(
        self, client: KubeClient, run: RunIdentity, about: Mapping[str, str] | None = None
    ) -> None:
        self._client = client
        self._run = run
        self._about = dict(about or {})
        self._path = f"/api/v1/namespaces/{client.namespace}/configmaps"
        self._sign = _SignOfLife(secrets.token_hex(8))
        self._stop = threading.Event()
        self._version = ""
        self._me: Leader | None = None
        self._thread: threading.Thread | None = None
        self.uid = ""
        self.started = ""  # when the run's first leader began, as 20250131-235959
        self.before: Leader | None = None  # whom we have taken the run over from
        self._renewed = 0.0  # epoch seconds by our clock, which goes on while a machine sleeps
        self._taken = ""  # by whom, in a sentence
        self.on_lost: Callable[[str], None] = lambda sentence: None
        self.on_cancel: Callable[[str], None] = lambda who: None

    @property
    def run(self) -> RunIdentity:
        return self._run

    @property
    def held(self) -> bool:
        return bool(self.uid) and not self._stop.is_set()

    @property
    def taken(self) -> str:
        """Whether another leader has the run now, in a sentence; asks when that may be."""
        if self.uid and not self._taken and time.time() - self._renewed > LEASE_SECONDS / 2:
            with contextlib.suppress(Byok8sError):
                self._find_ours(2.0)  # who stops has no time to wait for a silent server
        return self._taken

    def acquire(self) -> None:
        """Make the ConfigMap, or take over that of a dead leader, and keep it renewed.

        Raises RunIsLed when the run's leader lives, and ApiError.
        """
        self._sign.give()
        try:
            made = self._create_or_take()
        except BaseException:
            self._sign.end()
            raise
        metadata = made["metadata"]
        self.uid, self._version = metadata["uid"], metadata["resourceVersion"]
        self.started = made["data"][STARTED]
        self._renewed = time.time()
        self._thread = threading.Thread(target=self._keep, name="byok8s-lease", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Renew no more: the ConfigMap is about to be deleted."""
        self._stop.set()

    def end(self) -> None:
        """Renew no more, and give no sign of life: the ConfigMap is gone, or another leader's."""
        self._stop.set()
        self._sign.end()

    def release(self) -> None:
        """Leave the run and its pods to the next leader. Raises Byok8sError."""
        self.stop()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(2.0)
        self._say(released=True)
        self.end()

    def _create_or_take(self) -> dict[str, Any]:
        now = self._client.server_time()
        self._me = Leader(self._sign.token, self._run.owner, _host(), os.getpid(), now, now)
        data = {**self._about, STARTED: _stamp(now), LEADER: json.dumps(asdict(self._me))}
        metadata = {"name": self._run.name, "labels": self._run.labels}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
        while True:
            try:
                return self._client.create(self._path, body)
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    raise
            try:
                return self._take(self._client.get(f"{self._path}/{self._run.name}"), data)
            except ApiError as error:
                if error.status not in (404, 409):  # removed, or renewed, at this moment
                    raise

    def _take(self, found: dict[str, Any], data: dict[str, str]) -> dict[str, Any]:
        old = found.get("data") or {}
        leader, now = Leader.of(old), self._client.server_time()
        if leader and leader.token == self._sign.token:
            return found  # the answer to our own creation was lost
        if leader and leader.is_alive(now):
            raise RunIsLed(self._run.name, leader, now)
        self.before = leader
        if leader and leader.host == _host():
            _sign(leader.token).unlink(missing_ok=True)
        # what the first leader began, this one ends
        change = {**data, STARTED: old.get(STARTED) or data[STARTED], CANCEL: None}
        version = {"resourceVersion": found["metadata"]["resourceVersion"]}
        path = f"{self._path}/{self._run.name}"
        return self._client.patch(path, {"metadata": version, "data": change})

    def _keep(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            try:
                self._renew()
            except _LostError as error:
                if not self._stop.is_set():
                    self.on_lost(str(error))
                return
            except Exception as error:  # while the API is away it may be from the others too
                _log.debug("lease: %s", error)

    def _renew(self) -> None:
        made = self._say(renewed=self._client.server_time())
        if who := (made.get("data") or {}).get(CANCEL):
            self.on_cancel(who)

    def _say(self, **changes: Any) -> dict[str, Any]:
        """Write down what has changed of us; raises _LostError when the run is no longer ours."""
        assert self._me
        self._me = replace(self._me, **changes)
        try:
            return self._write()
        except ApiError as error:
            if error.status not in (404, 409):
                raise
        self._version = self._find_ours()["metadata"]["resourceVersion"]
        return self._write()

    def _write(self) -> dict[str, Any]:
        assert self._me
        made = self._client.call(
            "PATCH",
            f"{self._path}/{self._run.name}",
            body={
                # a change by somebody else since makes it a conflict
                "metadata": {"resourceVersion": self._version, "uid": self.uid},
                "data": {LEADER: json.dumps(asdict(self._me))},
            },
            content_type=MERGE_PATCH,
            patience=0.0,
            timeout=10.0,
        )
        self._version = made["metadata"]["resourceVersion"]
        self._renewed = time.time()
        return made

    def _find_ours(self, timeout: float = 10.0) -> dict[str, Any]:
        name = self._run.name
        try:
            found = self._client.call(
                "GET",
                f"{self._path}/{name}",
                patience=0.0,
                timeout=timeout,
                connect=min(CONNECT_SECONDS, timeout),
            )
        except ApiError as error:
            if error.status == 404:
                raise _LostError(f"The run '{name}' was removed by somebody else.") from None
            raise
        leader = Leader.of(found.get("data") or {})
        if found["metadata"]["uid"] != self.uid or not leader or leader.token != self._sign.token:
            self._taken = f"The run '{name}' was taken over by {leader or 'somebody else'}."
            raise _LostError(self._taken)
        return found


class _LostError(Byok8sError):
    """The run is no longer ours."""


class _SignOfLife:
    """A locked file, which shows other processes of this machine that this one lives.

    The lock ends with the process, however that ends, so that a run whose leader was killed can
    be taken over at once, without waiting for the lease to expire.
    """

    def __init__(self, token: str) -> None:
        self.token = token
        self._file: IO[str] | None = None

    def give(self) -> None:
        path = _sign(self.token)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # without it the next leader has to wait for the lease to expire
            self.end()

    def end(self) -> None:
        if self._file is not None:
            _sign(self.token).unlink(missing_ok=True)
            self._file.close()
            self._file = None


def _has_died(leader: Leader) -> bool:
    """True when the leader was a process of this machine that is no more."""
    if leader.host != _host():
        return False
    try:
        with _sign(leader.token).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # locked: it lives; absent: it left no sign here
        return False
    return True


def _sign(token: str) -> Path:
    return state_folder() / "leaders" / Path(token).name


def _host() -> str:
    return socket.gethostname()


def clock(seconds: float) -> str:
    """A time in epoch seconds as 2025-01-31 23:59 (UTC)."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def _stamp(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y%m%d-%H%M%S}"


def started_epoch(stamp: str) -> float | None:
    """Epoch seconds of 20250131-235959; None when it is not of that form."""
    try:
        return epoch(f"{datetime.strptime(stamp, '%Y%m%d-%H%M%S').replace(tzinfo=UTC).isoformat()}")
    except ValueError:
        return None
