"""Pods that an earlier leader of the run has left: which a job may claim, which have to go."""

from __future__ import annotations

from collections.abc import Collection

from byok8s.batch.ends import Pod, end_of
from byok8s.batch.pods import BUNDLE, FINGERPRINT, ID, PodRequest, fingerprint
from byok8s.exceptions import ClusterError


class Strays:
    """The pods of the run that no job of ours has made. Not thread-safe: the Book locks.

    `owner` is the uid of the run's ConfigMap; pods of another one are about to be removed by the
    cluster. It is "" as long as it is not known, and then does not matter.
    """

    def __init__(self) -> None:
        self.owner = ""
        self._pods: dict[str, Pod] = {}
        self._gone: set[str] = set()  # ended well and no longer there; can be claimed once more
        self._by_id: dict[str, set[str]] = {}

    def put(self, pod: Pod) -> None:
        name = pod["metadata"]["name"]
        self._pods[name] = pod
        self._by_id.setdefault(job_of(pod), set()).add(name)

    def gone(self, name: str) -> None:
        """The pod is no longer there; what it did before it went may still count."""
        pod = self._pods.get(name)
        if pod is None:
            return
        end = end_of(pod)
        if end is not None and end.cause is None:
            self._gone.add(name)
        else:
            self._drop(name)

    def names(self) -> set[str]:
        """Of those that exist."""
        return self._pods.keys() - self._gone

    def has(self, name: str) -> bool:
        """Whether a pod of this name exists."""
        return name in self._pods and name not in self._gone

    def ended(self, name: str) -> bool:
        """Whether a job could claim a pod that has succeeded already."""
        pod = self._pods.get(name)
        return pod is not None and end_of(pod) is not None

    def claim(self, name: str, request: PodRequest) -> Pod | None:
        """The pod of this name, when it does, or did, exactly what is asked for."""
        pod = self._pods.get(name)
        if pod is None or not self._serves(pod, request):
            return None
        self._drop(name)
        return pod

    def spoil(self, name: str) -> None:
        """The results of a pod that ended are no longer there: nobody may claim it."""
        if name in self._gone:
            self._drop(name)
        elif name in self._pods:
            pod = self._pods[name]
            metadata = {**pod["metadata"], "annotations": {ID: job_of(pod)}}
            self._pods[name] = {**pod, "metadata": metadata}

    def in_the_way(self, request: PodRequest) -> set[str]:
        """Pods that write, or may write, the same files as the job would."""
        return self._by_id.get(request.id, set()) - self._gone

    def take(self, id: str) -> Pod | None:
        """The pod of a job as it is, whatever it does; it is no stray any more."""
        for name in self._by_id.get(id, set()) - self._gone:
            pod = self._pods[name]
            self._drop(name)
            return pod
        return None

    def bundles(self, but: Collection[str] = ()) -> set[str]:
        """Pods of several jobs, other than those with the ids `but`."""
        pods = ((name, self._pods[name]) for name in self.names())
        return {name for name, pod in pods if is_bundle(pod) and job_of(pod) not in but}

    def _is_good(self, name: str) -> bool:
        pod = self._pods[name]
        return not is_bundle(pod) and is_good(pod)

    def _serves(self, pod: Pod, request: PodRequest) -> bool:
        metadata = pod["metadata"]
        owners = {owner.get("uid") for owner in metadata.get("ownerReferences") or ()}
        annotations = metadata.get("annotations") or {}
        return (
            self._is_good(metadata["name"])
            and annotations.get(ID) == request.id
            and annotations.get(FINGERPRINT) == fingerprint(request)
            and (not self.owner or self.owner in owners)
        )

    def _drop(self, name: str) -> None:
        pod = self._pods.pop(name)
        self._gone.discard(name)
        names = self._by_id[job_of(pod)]
        names.discard(name)
        if not names:
            del self._by_id[job_of(pod)]


def bundles_remain(names: set[str]) -> ClusterError:
    """The error for bundles of an earlier leader that were deleted and do not end."""
    return ClusterError(
        f"The pods {', '.join(sorted(names))} of an earlier leader were deleted and have not "
        "ended; is their node lost? Run again later."
    )


def is_bundle(pod: Pod) -> bool:
    """Whether a pod runs several jobs."""
    return BUNDLE in (pod["metadata"].get("labels") or {})


def is_good(pod: Pod) -> bool:
    """Whether a pod may be adopted: what failed is tried again."""
    end = end_of(pod)
    return end.cause is None if end else "deletionTimestamp" not in pod["metadata"]


def job_of(pod: Pod) -> str:
    """The id of the job that a pod was made for; a bundle's own."""
    return str((pod["metadata"].get("annotations") or {}).get(ID, ""))
