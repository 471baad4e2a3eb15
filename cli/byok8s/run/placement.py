"""Reads where the pods of a run may run, and asks the cluster whether it takes such pods."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from byok8s.batch.placement import ANYWHERE, KUEUE_QUEUE, Placement
from byok8s.batch.placement_text import override
from byok8s.exceptions import ClusterError, SettingsError
from byok8s.run.parsing import read_values
from byok8s.settings import PlacementSettings

if TYPE_CHECKING:
    from byok8s.batch.client import ApiError, KubeClient

PATIENCE_SECONDS = 5.0
_KUEUE_MANAGED = "kueue.x-k8s.io/managed"


def read_placement(settings: PlacementSettings) -> Placement:
    """What the options and the template say. Raises SettingsError."""
    from byok8s.batch.security import below_restricted

    template = ""
    if settings.pod_template is not None:
        template = _template(settings)
    placement = override(
        Placement(template=template, privileged=settings.allow_privileged),
        settings.wishes,
        settings.option,
    )
    if template and not settings.allow_privileged:
        low = below_restricted(sample_pod(placement, "image"))
        if low:
            raise SettingsError(
                f"'{settings.pod_template}' goes below Pod Security 'restricted' with "
                f"{', '.join(low)}; leave that out, or allow it with --allow-privileged."
            )
    return placement


def _template(settings: PlacementSettings) -> str:
    from byok8s.batch.template import read_template

    assert settings.pod_template is not None
    path = settings.pod_template.expanduser()
    if not (path.is_file() or path.is_fifo()):
        raise SettingsError(f"The pod template '{path}' is not there; check --pod-template.")
    return read_template(read_values(path), str(path))


def sample_pod(placement: Placement, image: str) -> dict[str, Any]:
    """A pod as the run makes them, which belongs to no run."""
    from byok8s.batch.pods import PodRequest, RunIdentity, manifest

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


def rehearse(client: KubeClient, placement: Placement, image: str) -> None:
    """Have the API server check a pod with this placement, without making it.

    It knows the fields of a pod, the PriorityClasses, the ServiceAccounts, the policies and what
    Kueue does with pods. Raises ClusterError, with the server's words.
    """
    from byok8s.batch.client import ApiError
    from byok8s.batch.create import quota_is_full

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
        raise (client.not_ready if error.status in (0, 401) else _refused)(error) from error
    labels = made.get("metadata", {}).get("labels", {})
    if placement.queue and _KUEUE_MANAGED not in labels:
        raise ClusterError(
            f"Kueue leaves pods in namespace '{client.namespace}' alone, so that they would wait "
            f"for the queue '{placement.queue}' for ever; have its pod integration turned on for "
            "the namespace, or leave out --queue."
        )


def _refused(error: ApiError) -> ClusterError:
    # without the name of the pod that was never made
    said = re.sub(r'^pods? "byok8s-check[^"]*" (is )?', "", error.message, flags=re.IGNORECASE)
    said = said.rstrip(".")
    return ClusterError(
        f"The API server refuses pods that are placed so: {said}; correct the option, or the field "
        "of the pod template."
    )


def _check_queue(client: KubeClient, queue: str) -> None:
    """Raises ClusterError when there is no Kueue or no such queue; who may not look, goes on."""
    from byok8s.batch.client import ApiError

    group = KUEUE_QUEUE.partition("/")[0]
    try:
        found = client.call("GET", f"/apis/{group}", patience=PATIENCE_SECONDS)
    except ApiError as error:
        if error.status != 404:
            return
        raise ClusterError(
            f"The cluster has no Kueue, so the queue '{queue}' cannot be there; leave out --queue, "
            "or have Kueue installed."
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
