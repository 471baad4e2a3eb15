"""Asks the cluster whether it takes pods with a placement, without making one."""

from __future__ import annotations

import re
from typing import Any

from byok8s.batch.client import ApiError, KubeClient
from byok8s.batch.create import quota_is_full
from byok8s.batch.placement import ANYWHERE, KUEUE_QUEUE, Placement
from byok8s.batch.pods import PodRequest, RunIdentity, manifest
from byok8s.exceptions import ClusterError

PATIENCE_SECONDS = 5.0
_KUEUE_MANAGED = "kueue.x-k8s.io/managed"


def sample_pod(placement: Placement, image: str) -> dict[str, Any]:
    """A pod as the run makes them, which belongs to no run."""
    pod = manifest(
        RunIdentity("byok8s-check", "byok8s"),
        PodRequest("check", image=image, command=("true",), cpu=0.01, placement=placement),
        owner={},
        secret=None,
        secret_mount="",
        pull_policy="IfNotPresent",
        grace_seconds=5,
    )
    del pod["metadata"]["ownerReferences"]
    return pod


def rehearse(client: KubeClient, placement: Placement, image: str, whose: str) -> None:
    """Have the API server check a pod with this placement, without making it.

    It knows the fields of a pod, the PriorityClasses, the ServiceAccounts, the policies and what
    Kueue does with pods. `whose` names the pods in an error. Raises ClusterError, with the
    server's words.
    """
    if placement == ANYWHERE:
        return
    if placement.queue:
        _check_queue(client, placement.queue)
    try:
        made = client.call(
            "POST",
            f"/api/v1/namespaces/{client.namespace}/pods",
            query={"dryRun": "All", "fieldValidation": "Strict"},
            body=sample_pod(placement, image),
            patience=PATIENCE_SECONDS,
        )
    except ApiError as error:
        if quota_is_full(error.message):  # now; it was the last question, so the rest is well
            return
        if error.status in (0, 401):
            raise client.not_ready(error) from error
        raise _refused(error, whose) from error
    labels = made.get("metadata", {}).get("labels", {})
    if placement.queue and _KUEUE_MANAGED not in labels:
        raise ClusterError(
            f"Kueue leaves pods in namespace '{client.namespace}' alone, so that they would wait "
            f"for the queue '{placement.queue}' for ever; have its pod integration turned on for "
            "the namespace, or leave out the queue."
        )


def _refused(error: ApiError, whose: str) -> ClusterError:
    # without the name of the pod that was never made
    said = re.sub(r'^pods? "byok8s-check[^"]*" (is )?', "", error.message, flags=re.IGNORECASE)
    said = said.rstrip(".")
    return ClusterError(
        f"The API server refuses the pods of {whose}: {said}; correct what is named there, in the "
        "option, the pod template or the rule's resources."
    )


def _check_queue(client: KubeClient, queue: str) -> None:
    """Raises ClusterError when there is no Kueue or no such queue; who may not look, goes on."""
    group = KUEUE_QUEUE.partition("/")[0]
    try:
        found = client.call("GET", f"/apis/{group}", patience=PATIENCE_SECONDS)
    except ApiError as error:
        if error.status != 404:
            return
        raise ClusterError(
            f"The cluster has no Kueue, so the queue '{queue}' cannot be there; leave out the "
            "queue, or have Kueue installed."
        ) from error
    try:
        version = found["preferredVersion"]["groupVersion"]
        path = f"/apis/{version}/namespaces/{client.namespace}/localqueues/{queue}"
        client.call("GET", path, patience=PATIENCE_SECONDS)
    except ApiError as error:
        if error.status == 404:
            raise ClusterError(
                f"Namespace '{client.namespace}' has no LocalQueue '{queue}'; "
                f"kubectl get localqueues --namespace {client.namespace} lists those it has."
            ) from error
