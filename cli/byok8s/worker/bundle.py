"""Runs the jobs of a bundle: many short commands in one pod, one after the other.

The leader learns of each job's end at once, by a line of the pod's log (spec.NEWS and JSON), and
sends more jobs by objects in the bucket. While one command runs, the next jobs' inputs are
fetched and the last ones' outputs are stored. A job that takes long keeps none waiting: what is
behind it goes back to the leader, which has other pods.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from byok8s.worker import lean
from byok8s.worker.archive import unpack
from byok8s.worker.job import (
    SCRATCH,
    fetch_sources,
    keep_log,
    log_kept_meanwhile,
    not_begun,
    report,
    shorten,
)
from byok8s.worker.process import Ran, end, execute
from byok8s.worker.s3 import TransferError
from byok8s.worker.spec import STAGING_FAILED, BundleJob, BundleSpec, Command, Result, news
from byok8s.worker.transfer import Transfers

_POLL_SECONDS = 0.1  # between looks for mail, while there is nothing to do
_SLOWEST_POLL_SECONDS = 5.0  # behind a command that takes long
_BEAT_SECONDS = 10.0  # the leader takes a silent log for a broken connection


def run_bundle(transfers: Transfers, text: str) -> int:
    """Run a bundle to its end; returns the pod's exit code."""
    bundle = Bundle(transfers, BundleSpec.loads(text))
    signal.signal(signal.SIGTERM, lambda *_: bundle.stop())
    return bundle.run()


class Handed(Exception):
    """The job went back to the leader: before its command began, or as its pod was ended."""


class Active:
    """A job between the fetching of its inputs and the end of its report."""

    def __init__(self, job: BundleJob, number: int) -> None:
        self.job = job
        self.number = number
        self.began: float | None = None  # monotonic, of its command
        self.process: subprocess.Popen[bytes] | None = None
        self.handed_back = False
        self.late = False  # its time was over


class Bundle:
    """One pod's jobs. `_changed` guards all but the log and the archives, with their own locks."""

    def __init__(self, transfers: Transfers, spec: BundleSpec, root: Path = Path()) -> None:
        self._transfers = transfers
        self._store: Any = transfers.store
        self._spec = spec
        self._root = root.absolute()
        self._archives: dict[str, bytes] = {}
        self._queue: deque[BundleJob] = deque(spec.jobs)
        self._active: dict[str, Active] = {}
        self._results: dict[str, dict[str, Any]] = {}
        self._changed = threading.Condition()
        self._log = threading.Lock()
        self._fetching = threading.Lock()
        self._mails = 0  # read so far
        self._number = 0
        self._stopped = False
        self._looked = self._told = 0.0
        self._idle_since = time.monotonic()

    def run(self) -> int:
        """Work until there is nothing to do for a while; returns 0, or 143 after a signal."""
        while not self._stopped:
            self._take_on()
            self._hand_back()
            if self._is_idle() and not self._read_mail():
                break
            if time.monotonic() - self._told > _BEAT_SECONDS:
                self._tell(beat=True)
            with self._changed:
                self._changed.wait(_POLL_SECONDS)
        self._tell(closing=self._mails)
        self._report()
        return 143 if self._stopped else 0

    def _report(self) -> None:
        """Tell of all results again; the leader has heard of them by the log, as a rule.

        One that a signal ends while it waits for more does not: the log can be followed, else it
        would not wait, and at a run's end nobody would take away what it puts into the bucket.
        """
        with self._changed:
            waits = self._spec.linger > 0 and not (self._active or self._queue)
        least = json.dumps({"results": {}})
        text = least if self._stopped and waits else json.dumps({"results": self._results})
        report(self._store, self._spec.result_key, text, least)

    def stop(self) -> None:
        """End the commands and the bundle; called by a signal's handler."""
        self._stopped = True
        for active in list(self._active.values()):
            active.handed_back = True
            if active.process is not None:
                end(active.process, signal.SIGTERM)

    # --- what to do next

    def _take_on(self) -> None:
        """Start threads for the jobs that may fetch their inputs now."""
        with self._changed:
            room = self._spec.slots + self._spec.ahead - len(self._active)
            for _ in range(min(room, len(self._queue))):
                job = self._queue.popleft()
                self._number += 1
                self._active[job.id] = active = Active(job, self._number)
                threading.Thread(target=self._do, args=(active,), daemon=True).start()
            hungry = room > 0 and not self._queue
            pause = self._pause()
        if hungry and time.monotonic() - self._looked >= pause:
            self._read_mail()

    def _pause(self) -> float:
        """Seconds between looks for mail: the longer the commands have run, the more."""
        running = [a.began for a in self._active.values() if a.began is not None]
        if not running:
            return _POLL_SECONDS
        longest = time.monotonic() - min(running)
        return min(_SLOWEST_POLL_SECONDS, max(_POLL_SECONDS, longest / 4))

    def _is_idle(self) -> bool:
        """Whether there has been nothing to do for long enough."""
        with self._changed:
            if self._active or self._queue:
                self._idle_since = time.monotonic()
                return False
        return time.monotonic() - self._idle_since >= self._spec.linger

    def _read_mail(self) -> bool:
        """Take in what the leader sent since; whether there was anything."""
        self._looked = time.monotonic()
        found = False
        while True:
            try:
                text = bytes(self._store.get(f"{self._spec.mail}{self._mails + 1}").bytes())
            except Exception:  # mostly: there is none; a store that fails is asked again
                return found
            with self._changed:
                self._mails += 1
                self._queue.extend(map(BundleJob.of, json.loads(text)))
                self._idle_since = time.monotonic()
            found = True

    def _hand_back(self) -> None:
        """Give back what waits behind commands that have run for long."""
        with self._changed:
            running = [a.began for a in self._active.values() if a.began is not None]
            waiting = [a for a in self._active.values() if a.began is None and not a.handed_back]
            if len(running) < self._spec.slots or not (self._queue or waiting):
                return
            if time.monotonic() - max(running) < self._spec.patience:
                return
            ids = [active.job.id for active in waiting] + [job.id for job in self._queue]
            for active in waiting:
                active.handed_back = True
            self._queue.clear()
            self._changed.notify_all()
        self._tell(returned=ids)

    # --- one job, in a thread of its own

    def _do(self, active: Active) -> None:
        root = self._root / str(active.number)
        scratch = SCRATCH / str(active.number)
        try:
            root.mkdir()
            scratch.mkdir()
            result = self._result(active, root, scratch)
        except Handed:
            result = None
        except TransferError as error:
            result = not_begun("The job could not begin", error)
            self._show(active.job.name, f"{result.error}\n".encode())
        except Exception as error:
            result = Result(STAGING_FAILED, error=f"{type(error).__name__}: {error}")
        shutil.rmtree(root, ignore_errors=True)
        shutil.rmtree(scratch, ignore_errors=True)
        if result is not None:
            shorten(result)
            self._results[active.job.id] = fields = vars(result)
            self._tell(done=active.job.id, result=fields)
        with self._changed:
            del self._active[active.job.id]
            self._changed.notify_all()

    def _result(self, active: Active, root: Path, scratch: Path) -> Result:
        spec, log = active.job.spec, scratch / "byok8s.log"
        assert spec.command is not None  # the leader bundles no others
        unpack(self._archive(spec.sources_key, spec.sources_sha256), root, spec.workdir)

        def run_command(command: Command, folder: Path) -> Ran:
            return self._run_command(active, command, folder, scratch / "tmp", log)

        (scratch / "tmp").mkdir()
        name = active.job.name
        with log_kept_meanwhile(self._store, spec, log):
            result = lean.run(
                spec,
                spec.command,
                root,
                self._transfers,
                run_command,
                tell=lambda line: self._show(name, line),
            )
        if active.late:
            limit = f"its limit of {active.job.seconds} s"
            result.error = f"the job ran longer than {limit}; give it more (runtime)"
        failed = result.exit_code != 0
        # what could not be stored leaves its log no better chance
        if not result.storage_away and (problem := keep_log(self._store, spec, log, failed=failed)):
            self._show(name, f"{problem}\n".encode())
        return result

    def _run_command(
        self, active: Active, command: Command, folder: Path, tmp: Path, log: Path
    ) -> Ran:
        self._await_turn(active)
        self._tell(started=active.job.id)
        try:
            ran = execute(
                lean.shell_arguments(command, folder),
                folder,
                {**lean.environment(command, tmp), "HOME": str(tmp)},
                log,
                tell=lambda line: self._show(active.job.name, line),
                seconds=active.job.seconds,
                benchmark=folder / command.benchmark.path if command.benchmark else None,
                began=lambda process: setattr(active, "process", process),
            )
        finally:
            with self._changed:
                active.began, active.process = None, None
                active.handed_back = True  # no longer one that waits
                self._changed.notify_all()
        if self._stopped and ran.exit_code:  # by our signal, as far as anybody can tell
            raise Handed
        active.late = ran.late
        return ran

    def _await_turn(self, active: Active) -> None:
        """Wait for a slot; raises Handed when the job went back to the leader meanwhile."""
        with self._changed:
            while not active.handed_back and self._running() >= self._spec.slots:
                self._changed.wait()
            if active.handed_back:
                raise Handed
            active.began = time.monotonic()

    def _running(self) -> int:
        return sum(1 for active in self._active.values() if active.began is not None)

    def _archive(self, key: str, sha256: str) -> bytes:
        with self._fetching:
            if key not in self._archives:
                self._archives[key] = fetch_sources(self._store, key, sha256)
            return self._archives[key]

    # --- the pod's log

    def _show(self, name: str, line: bytes) -> None:
        """Pass on a line that a command wrote, marked with its job."""
        text = line if line.endswith(b"\n") else line + b"\n"
        with self._log:
            sys.stdout.buffer.write(f"[{name}] ".encode() + text)
            sys.stdout.buffer.flush()

    def _tell(self, **fields: Any) -> None:
        """Tell the leader something."""
        with self._log:
            self._told = time.monotonic()
            sys.stdout.buffer.write(news(**fields))
            sys.stdout.buffer.flush()
