"""The leader's hold on a run: take it, tell of it, and leave nothing behind by chance."""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING

from byok8s.exceptions import Byok8sError, ClusterError, Interrupted, WorkflowFailed
from byok8s.progress import elapsed
from byok8s.run.interrupts import Interrupts
from byok8s.settings import S3Location

if TYPE_CHECKING:
    from byok8s.workflow.events import Listener
    from byok8s.workflow.session import Session

DEADLINE_SECONDS = 8.0  # for removing everything, within the ten that are promised
OUTAGE_SECONDS = 60.0  # for the same, once more, when the API server did not answer then


class Leading:
    """What a run's leader does besides its jobs. `keep`: an interrupted run's pods stay."""

    def __init__(self, session: Session | None, listener: Listener, *, keep: bool = False) -> None:
        self._session = session
        self._listener = listener
        self._keep = keep
        self._lost = ""
        self._live = ""
        self._left = False

    @property
    def is_over(self) -> bool:
        """Whether nothing of the run goes on, with this leader or another one."""
        return not (self._lost or self._left)

    @property
    def stopping(self) -> str:
        """What a first Ctrl-C does."""
        if self._session is None:
            return "ending the jobs on this machine"
        return "leaving the run's pods as they are" if self._keep else "removing the run's pods"

    def remains(self) -> str:
        """What a second Ctrl-C leaves behind."""
        if self._session is None or not self._session.lease.uid:
            return ""
        what = self._live or "Its pods, Secret and ConfigMap"
        return f"{what} may be left in the cluster; remove them with: {removal(self._session)}"

    def begin(self, interrupts: Interrupts) -> None:
        """Become the run's leader. Raises RunIsLed and ClusterError; nothing was submitted then."""
        from byok8s.batch import ApiError

        session = self._session
        if session is None:
            return

        def lost(sentence: str) -> None:
            self._lost = sentence
            interrupts.stop(sentence.rstrip("."))

        def cancelled(who: str) -> None:
            self._keep = False
            interrupts.stop(f"{who} cancels the run: {self.stopping}")

        session.on_open = interrupts.arm
        session.lease.on_lost = lost
        session.lease.on_cancel = cancelled
        try:
            session.take_over()
        except ApiError as error:
            raise ClusterError(f"The run's ConfigMap cannot be made: {error}") from error
        self._tell_of_predecessor(session)

    def _tell_of_predecessor(self, session: Session) -> None:
        before = session.lease.before
        if before is None:
            return
        how = "was left" if before.released else "lost its leader"
        ago = elapsed(max(0.0, session.client.server_time() - before.renewed))
        count = len(session.stock.ids())
        pods = f"; {count} job{'s' * (count != 1)} of it still {_has(count)} a pod" if count else ""
        self._listener.note(
            f"Going on with {session.run.name}, which {how} ({before}) {ago} ago{pods}"
        )

    def end(self) -> None:
        """Remove the run's objects; the second call, and one after `interrupted`, does nothing."""
        session = self._session
        if session is None:
            return
        if self._lost:
            session.abandon()
        elif remains := self._outlast(session, session.close(DEADLINE_SECONDS)):
            names = ", ".join(remains)
            self._listener.warn(
                f"Could not remove {names} in time; remove with: {removal(session)}"
            )

    def _outlast(self, session: Session, remains: list[str]) -> list[str]:
        """Try for longer where the API server did not answer; nobody waits for a Ctrl-C here.

        Pods alone remain where their node has not confirmed their end, which may take for ever.
        """
        from byok8s.batch.runs import remove_run

        if all(name.startswith("pod/") for name in remains):
            return remains
        self._listener.note("The API server does not answer; the run's objects are removed later")
        try:
            return remove_run(session.client, session.run.name, OUTAGE_SECONDS)
        except Byok8sError as error:
            return [f"objects of the run ({error})"]

    def interrupted(self) -> Byok8sError:
        """End an interrupted run; the error says what became of its jobs."""
        session = self._session
        if session is None:
            return Interrupted("Interrupted.")
        if self._lost:
            session.abandon()
            return WorkflowFailed(f"{self._lost} This leader stopped, and touched nothing.")
        running, waiting = session.live_pods()
        pods = f"{running} running and {waiting} waiting pod{'s' * (running + waiting != 1)}"
        self._live = f"{pods}, with their Secret and ConfigMap," if running + waiting else ""
        if self._keep and running + waiting:
            session.leave()
            self._left = True
            return Interrupted(
                f"Interrupted: left {pods} in the cluster, as --on-exit=keep asks; the same "
                f"command goes on with them, and this removes them: {removal(session)}"
            )
        remains = session.close(DEADLINE_SECONDS)
        stopped = f"Interrupted: stopped {pods}" if running + waiting else "Interrupted"
        if remains:
            return Interrupted(
                f"{stopped}; could not remove {', '.join(remains)} in time; "
                f"remove with: {removal(session)}"
            )
        return Interrupted(f"{stopped}; nothing of the run is left in the cluster.")


def _has(count: int) -> str:
    return "has" if count == 1 else "have"


def removal(session: Session) -> str:
    """The command that removes whatever a run has left, wherever kubectl points just now."""
    where = f"--context={session.client.context} --k8s-namespace={session.client.namespace}"
    return f"byok8s clean {session.run.name} {where}"


def run_name(workflow: str, location: S3Location) -> str:
    """The name of a run of a workflow file on a prefix, the same on every machine.

    At most 33 characters. Who runs it and from where, with which parameters and targets, is no
    part of it: whatever could write the same files must meet the same leader.
    """
    stem = re.sub(r"[^a-z0-9]+", "-", workflow.lower()).strip("-")[:24].strip("-") or "run"
    digest = hashlib.sha256(f"{location}\n{workflow}".encode()).hexdigest()[:8]
    return f"{stem}-{digest}"


def user_name() -> str:
    """Who runs this process."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in containers
        return f"uid-{os.getuid()}"
