"""The runs that have something in the cluster: list, look at, stop, remove."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from byok8s.batch.client import ApiError, KubeClient
from byok8s.batch.ends import Pod, end_of, epoch, is_running, started_at
from byok8s.batch.lease import CANCEL, STARTED, Leader, started_epoch
from byok8s.batch.lists import list_all
from byok8s.batch.pods import ATTEMPT, CONTAINER, ID, JOB, LOG_CONTAINER, OWNER, RULE, RUN
from byok8s.batch.record import remove
from byok8s.batch.waits import wait_of

OURS = "app.kubernetes.io/managed-by=byok8s"
LOOK_AGAIN_SECONDS = 0.3


@dataclass(frozen=True)
class RunPod:
    """A pod of a run. `created` and `started` are epoch seconds."""

    name: str
    id: str  # of the job
    attempt: str
    rule: str
    job: str
    state: str  # waiting, running, succeeded, failed or ending
    node: str = ""
    message: str = ""  # what it waits for, or why it failed
    created: float | None = None
    started: float | None = None

    @classmethod
    def of(cls, pod: Pod) -> RunPod:
        metadata, labels = pod["metadata"], pod["metadata"].get("labels") or {}
        state, message = _state(pod)
        return cls(
            name=metadata["name"],
            id=(metadata.get("annotations") or {}).get(ID, ""),
            attempt=labels.get(ATTEMPT, ""),
            rule=labels.get(RULE, ""),
            job=labels.get(JOB, ""),
            state=state,
            node=pod.get("spec", {}).get("nodeName", ""),
            message=message,
            created=epoch(metadata.get("creationTimestamp")),
            started=started_at(pod),
        )


@dataclass(frozen=True)
class Run:
    """A run. `about` is what its leader wrote of it; `now` the server's time of looking."""

    name: str
    namespace: str
    owner: str
    now: float
    started: float | None = None  # epoch seconds
    execution: str = ""  # the same as 20250131-235959
    leader: Leader | None = None
    about: Mapping[str, str] = field(default_factory=dict)
    pods: tuple[RunPod, ...] = ()

    @property
    def is_led(self) -> bool:
        return self.leader is not None and self.leader.is_alive(self.now)

    @property
    def dead_for(self) -> float:
        """Seconds since the last sign of life of its leader; of its start, when none is known."""
        since = self.leader.renewed if self.leader else self.started
        return max(0.0, self.now - (self.now if since is None else since))

    def count(self, *states: str) -> int:
        return sum(pod.state in states for pod in self.pods)


def list_runs(client: KubeClient, *, everywhere: bool = False) -> list[Run]:
    """The runs of the client's namespace, or of all namespaces, the newest first.

    Pods without a ConfigMap count as a run too. Raises ApiError.
    """
    base = "/api/v1" if everywhere else f"/api/v1/namespaces/{client.namespace}"
    return _runs(client, base, OURS)


def find_run(client: KubeClient, name: str) -> Run | None:
    """The run of this name in the client's namespace; raises ApiError."""
    base = f"/api/v1/namespaces/{client.namespace}"
    return next(iter(_runs(client, base, f"{OURS},{RUN}={name}")), None)


def left_pods(client: KubeClient, run: str) -> list[Pod]:
    """The pods of a run, as its leader has left them; raises ApiError."""
    path = f"/api/v1/namespaces/{client.namespace}/pods"
    return list[Pod](_all(client, path, f"{RUN}={run}"))


def ask_to_stop(client: KubeClient, run: str, who: str) -> None:
    """Have the run's leader stop it, as Ctrl-C does; raises ApiError."""
    path = f"/api/v1/namespaces/{client.namespace}/configmaps/{run}"
    client.patch(path, {"data": {CANCEL: who}})


def is_there(client: KubeClient, run: str) -> bool:
    """Whether the run's ConfigMap exists; raises ApiError."""
    try:
        client.get(f"/api/v1/namespaces/{client.namespace}/configmaps/{run}")
    except ApiError as error:
        if error.status == 404:
            return False
        raise
    return True


def remove_run(
    client: KubeClient, run: str, deadline: float = 30.0, *, pods: bool = True
) -> list[str]:
    """Delete a run's ConfigMap, Secret and pods; returns the names of what remains.

    Takes at most about `deadline` seconds. Never asks whether its leader lives. Without `pods`
    there are none, and no Secret. Raises ApiError when pods may not be deleted.
    """
    until = time.monotonic() + deadline
    kinds = ["configmaps", "secrets"] if pods else ["configmaps"]
    remaining = remove(client, run, kinds, deadline / 4)
    if not pods:
        return remaining
    path, query = f"/api/v1/namespaces/{client.namespace}/pods", {"labelSelector": f"{RUN}={run}"}
    client.call("DELETE", path, query=query, body={"gracePeriodSeconds": 2}, patience=deadline / 4)
    while True:
        names = [pod["metadata"]["name"] for pod in _all(client, path, query["labelSelector"])]
        if not names or time.monotonic() >= until:
            return remaining + [f"pod/{name}" for name in names]
        time.sleep(LOOK_AGAIN_SECONDS)


def pod_log(client: KubeClient, pod: str, *, follow: bool = False) -> Iterator[bytes]:
    """What the pod's job wrote, in pieces; nothing when it has not started or is gone.

    Raises ApiError.
    """
    path = f"/api/v1/namespaces/{client.namespace}/pods/{pod}/log"
    query: dict[str, Any] = {"follow": "true"} if follow else {}
    try:
        annotations = client.get(path.removesuffix("/log"))["metadata"].get("annotations", {})
        query["container"] = annotations.get(LOG_CONTAINER, CONTAINER)
        with client.stream(path, silence=3600.0, **query) as stream:
            yield from stream.pieces()
    except ApiError as error:
        if error.status not in (0, 400, 404):
            raise


def _runs(client: KubeClient, base: str, selector: str) -> list[Run]:
    records = {_where(record): record for record in _all(client, f"{base}/configmaps", selector)}
    pods: dict[tuple[str, str], list[Pod]] = {where: [] for where in records}
    for pod in _all(client, f"{base}/pods", selector):
        pods.setdefault(_where(pod), []).append(pod)
    now = client.server_time()
    found = [_run(where, records.get(where), pods[where], now) for where in pods]
    return sorted(found, key=lambda run: (-(run.started or 0), run.name))


def _run(where: tuple[str, str], record: Any, pods: list[Pod], now: float) -> Run:
    namespace, name = where
    metadata = (record or pods[0])["metadata"]
    data = (record or {}).get("data") or {}
    return Run(
        name=name,
        namespace=namespace,
        owner=(metadata.get("labels") or {}).get(OWNER, ""),
        now=now,
        started=started_epoch(data.get(STARTED, "")) or epoch(metadata.get("creationTimestamp")),
        execution=data.get(STARTED, ""),
        leader=Leader.of(data),
        about=data,
        pods=tuple(map(RunPod.of, pods)),
    )


def _where(item: Mapping[str, Any]) -> tuple[str, str]:
    metadata = item["metadata"]
    return metadata.get("namespace", ""), (metadata.get("labels") or {}).get(RUN, metadata["name"])


def _all(client: KubeClient, path: str, selector: str) -> list[dict[str, Any]]:
    return list_all(client, path, {"labelSelector": selector}, patience=5.0).items


def _state(pod: Pod) -> tuple[str, str]:
    end = end_of(pod)
    if end is not None:
        return ("succeeded" if end.cause is None else "failed"), end.message
    if "deletionTimestamp" in pod["metadata"]:
        return "ending", ""
    if is_running(pod):
        return "running", ""
    wait = wait_of(pod)
    return "waiting", wait.message if wait else ""
