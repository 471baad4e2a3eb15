"""Runs that are there: list and look at them, stop and remove them."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from byok8s.cluster import find_by_context
from byok8s.exceptions import ClusterError, SettingsError
from byok8s.progress import elapsed
from byok8s.run.leading import user_name
from byok8s.run.preflight import connect, find_context
from byok8s.run.wait_limits import parse_seconds
from byok8s.settings import KubeSettings

if TYPE_CHECKING:
    from byok8s.batch.client import KubeClient
    from byok8s.batch.runs import Run

STOP_SECONDS = 40.0  # how long a leader may take to notice that it is to stop, and to do it


def open_cluster(kube: KubeSettings) -> KubeClient:
    """The client of a context; raises ClusterError when its cluster does not answer."""
    access = find_context(kube)
    return connect(access, find_by_context(access.context))


def list_runs(client: KubeClient, *, everywhere: bool) -> list[Run]:
    """The runs of the namespace, or of all namespaces; raises ClusterError."""
    from byok8s.batch import ApiError, runs

    try:
        return runs.list_runs(client, everywhere=everywhere)
    except ApiError as error:
        if everywhere and error.status == 403:
            raise ClusterError(
                f"The account of context '{client.context}' may not list all namespaces; "
                "leave out --all-namespaces, and name one with --k8s-namespace."
            ) from error
        raise client.not_ready(error) from error


def pick(client: KubeClient, name: str | None) -> Run:
    """The run of that name, or the only one there is; raises SettingsError and ClusterError."""
    found = list_runs(client, everywhere=False)
    where = f"namespace '{client.namespace}' of context '{client.context}'"
    known = ", ".join(run.name for run in found)
    if name is None and len(found) == 1:
        return found[0]
    for run in found:
        if run.name == name:
            return run
    if name is None and found:
        raise SettingsError(f"Several runs are in {where}; name one of {known}.")
    what = f"no run '{name}'" if name else "no run"
    has = f"it has {known}" if known else "it has none"
    raise SettingsError(f"There is {what} in {where}{f'; {has}' if name else ''}.")


def cancel(client: KubeClient, name: str) -> str:
    """Stop a run and remove it, by its leader where that lives; returns what was done.

    Raises SettingsError when there is no such run, ClusterError when it does not end.
    """
    from byok8s.batch import runs

    run = pick(client, name)
    if not run.is_led:
        return remove(client, run)
    runs.ask_to_stop(client, name, f"{user_name()} on {socket.gethostname()}")
    until = time.monotonic() + STOP_SECONDS
    while runs.is_there(client, name):
        if time.monotonic() > until:
            raise ClusterError(
                f"The leader of '{name}', {run.leader}, was asked to stop and has not within "
                f"{STOP_SECONDS:.0f} s; remove the run with: byok8s clean {name} --force."
            )
        time.sleep(0.5)
    return f"Cancelled {name}: its leader, {run.leader}, stopped {jobs_of(run)}."


def cleanable(
    client: KubeClient, name: str | None, older_than: float | None, *, force: bool
) -> list[Run]:
    """The runs to be removed: the named one, or all whose leader has been dead for long enough.

    Raises SettingsError for an unknown name, ClusterError when the named run's leader lives.
    """
    if name is not None:
        run = pick(client, name)
        if run.is_led and not force:
            raise ClusterError(
                f"The run '{name}' is led by {run.leader}; stop it with: byok8s cancel {name} "
                f"(or remove what it works with: byok8s clean {name} --force)."
            )
        return [run]
    found = list_runs(client, everywhere=False)
    return [run for run in found if not run.is_led and run.dead_for >= (older_than or 0.0)]


def remove(client: KubeClient, run: Run) -> str:
    """Delete a run's objects, whoever leads it; returns what was done. Raises ClusterError."""
    from byok8s.batch import ApiError, runs

    try:
        remains = runs.remove_run(client, run.name)
    except ApiError as error:
        raise ClusterError(f"The run '{run.name}' cannot be removed: {error}") from error
    if remains:
        raise ClusterError(
            f"Could not remove {', '.join(remains)} of '{run.name}' in time; their nodes may be "
            f"lost. Look at them with: kubectl --context={client.context} "
            f"--namespace={run.namespace} describe pods --selector=byok8s.io/run={run.name}."
        )
    return f"Removed {run.name}: {jobs_of(run)}, its Secret and its ConfigMap."


def jobs_of(run: Run) -> str:
    """A run's pods in words."""
    counts = {state: run.count(state) for state in ("running", "waiting")}
    counts["ended"] = len(run.pods) - sum(counts.values())
    told = [f"{count} {state}" for state, count in counts.items() if count]
    words = " and ".join(filter(None, [", ".join(told[:-1]), *told[-1:]]))
    return f"{words} pod{'s' * (len(run.pods) != 1)}" if told else "no pod"


def led_by(run: Run) -> str:
    """Whether a run's leader lives, in a few words."""
    if run.leader is None:
        return "none"
    if run.is_led:
        return f"alive: {run.leader}"
    if run.leader.released:
        return f"left {elapsed(run.dead_for)} ago"
    return f"dead for {elapsed(run.dead_for)}"


def parse_age(text: str) -> float:
    """Seconds of 7d, 12h, 30m or 90s; raises SettingsError."""
    seconds = parse_seconds(text)
    if seconds is None:
        raise SettingsError(f"--older-than '{text}' is no time; write it as 7d, 12h, 30m or 90s.")
    return seconds
