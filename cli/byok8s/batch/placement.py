"""Where a pod may run, and what it gets there beside CPU, memory and disk. Pure.

A Placement is hashable: jobs with an equal one can share a pod.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import Any, Literal

KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
KUEUE_GATE = "kueue.x-k8s.io/admission"
INSTANCE_TYPE = "node.kubernetes.io/instance-type"
GPU_RESOURCES = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu"}


class Spot(StrEnum):
    """What of machines that the cloud may take back at any time."""

    REQUIRE = "require"
    PREFER = "prefer"
    NEVER = "never"


@dataclass(frozen=True)
class NodeLabel:
    """A label of nodes with one of `values` (none: whatever value).

    `weight`, 1 to 100, counts among preferences only.
    """

    key: str
    values: tuple[str, ...] = ()
    weight: int = 1

    def match(self, *, wanted: bool = True) -> dict[str, Any]:
        """The expression for nodes that have the label so, or that do not."""
        if not self.values:
            return {"key": self.key, "operator": "Exists" if wanted else "DoesNotExist"}
        operator = "In" if wanted else "NotIn"
        return {"key": self.key, "operator": operator, "values": list(self.values)}


@dataclass(frozen=True)
class Toleration:
    """Of taints with the key; None: whatever value, whatever effect."""

    key: str
    value: str | None = None
    effect: str | None = None

    def as_json(self) -> dict[str, str]:
        tolerated = {"key": self.key, "operator": "Exists"}
        if self.value is not None:
            tolerated |= {"operator": "Equal", "value": self.value}
        return tolerated | ({"effect": self.effect} if self.effect else {})


@dataclass(frozen=True)
class Volume:
    """A volume mounted at `path`.

    `source` is the claim of a "pvc", the size of an "ephemeral" volume, which is made for the
    pod and goes with it, or the node's own path of a "host" volume.
    """

    kind: Literal["pvc", "ephemeral", "host"]
    source: str
    path: str
    read_only: bool = False
    storage_class: str | None = None  # of an ephemeral one; None: the cluster's default

    def as_json(self, name: str) -> dict[str, Any]:
        if self.kind == "pvc":
            claim = {"claimName": self.source} | ({"readOnly": True} if self.read_only else {})
            return {"name": name, "persistentVolumeClaim": claim}
        if self.kind == "host":
            return {"name": name, "hostPath": {"path": self.source}}
        spec: dict[str, Any] = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": self.source}},
        }
        if self.storage_class:
            spec["storageClassName"] = self.storage_class
        return {"name": name, "ephemeral": {"volumeClaimTemplate": {"spec": spec}}}


# https://karpenter.sh/docs/concepts/nodepools/ (EKS Auto Mode has the same label)
# https://docs.aws.amazon.com/eks/latest/userguide/managed-node-groups.html
# https://cloud.google.com/kubernetes-engine/docs/concepts/spot-vms; the older kind of machine:
# https://cloud.google.com/kubernetes-engine/docs/how-to/preemptible-vms
# https://learn.microsoft.com/azure/aks/spot-node-pool
SPOT_LABELS = (
    NodeLabel("karpenter.sh/capacity-type", ("spot",)),
    NodeLabel("eks.amazonaws.com/capacityType", ("SPOT",)),
    NodeLabel("cloud.google.com/gke-spot", ("true",)),
    NodeLabel("cloud.google.com/gke-preemptible", ("true",)),
    NodeLabel("kubernetes.azure.com/scalesetpriority", ("spot",)),
)
# What the clouds put on such nodes by themselves; AWS puts nothing
SPOT_TAINTS = (
    Toleration("cloud.google.com/gke-spot", "true"),
    Toleration("cloud.google.com/gke-preemptible", "true"),
    Toleration("kubernetes.azure.com/scalesetpriority", "spot"),
)
# Who labels nodes by the model of their GPUs: GKE, NVIDIA's GPU feature discovery, Karpenter, EKS
# Auto Mode, the Cluster Autoscaler on AWS, and Toil
GPU_MODEL_LABELS = (
    "cloud.google.com/gke-accelerator",
    "nvidia.com/gpu.product",
    "karpenter.k8s.aws/instance-gpu-name",
    "eks.amazonaws.com/instance-gpu-name",
    "k8s.amazonaws.com/accelerator",
    "accelerator",
)
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


@dataclass(frozen=True)
class Placement:
    """What the scheduler and the kubelet are told of a pod.

    All of `node_selector` and `required` must hold, none of `prohibited`; `preferred` is weighed.
    `gpus` are both requested and the limit. `queue` is a LocalQueue of Kueue. `template` is a
    pod template as JSON, from byok8s.batch.template; what is said here counts more.
    `privileged`: pods may go below Pod Security "restricted".
    """

    node_selector: tuple[tuple[str, str], ...] = ()
    required: tuple[NodeLabel, ...] = ()
    preferred: tuple[NodeLabel, ...] = ()
    prohibited: tuple[NodeLabel, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    spot: Spot | None = None
    gpus: int = 0
    gpu_manufacturer: str = "nvidia"
    gpu_model: str | None = None
    priority_class: str | None = None
    queue: str | None = None
    runtime_class: str | None = None
    service_account: str | None = None
    pull_secrets: tuple[str, ...] = ()
    volumes: tuple[Volume, ...] = ()
    template: str = ""
    privileged: bool = False

    @property
    def devices(self) -> dict[str, int]:
        """The extended resources that a pod asks for, by name."""
        return {GPU_RESOURCES[self.gpu_manufacturer]: self.gpus} if self.gpus else {}


ANYWHERE = Placement()  # wherever there is room


def place(pod: dict[str, Any], container: dict[str, Any], placement: Placement) -> None:
    """Write a placement into a pod, whose `container` gets the devices and the volumes."""
    spec = pod["spec"]
    if placement.node_selector:
        spec["nodeSelector"] = {**spec.get("nodeSelector", {}), **dict(placement.node_selector)}
    _write_affinity(spec, placement)
    tolerated = [toleration.as_json() for toleration in _tolerations(placement)]
    if tolerated:
        spec["tolerations"] = [*spec.get("tolerations", ()), *tolerated]
    names = {
        "priorityClassName": placement.priority_class,
        "runtimeClassName": placement.runtime_class,
        "serviceAccountName": placement.service_account,
    }
    spec.update({field: name for field, name in names.items() if name})
    if placement.pull_secrets:
        secrets = [{"name": name} for name in placement.pull_secrets]
        spec["imagePullSecrets"] = [*spec.get("imagePullSecrets", ()), *secrets]
    for name, count in placement.devices.items():
        for kind in ("requests", "limits"):
            container["resources"].setdefault(kind, {})[name] = str(count)
    if placement.queue:
        # Kueue's webhook would add the gate; with ours no pod slips past while that is away
        pod["metadata"]["labels"][KUEUE_QUEUE] = placement.queue
        spec["schedulingGates"] = [*spec.get("schedulingGates", ()), {"name": KUEUE_GATE}]
    for number, volume in enumerate(placement.volumes, 1):
        _mount(spec, container, volume, f"volume-{number}")


def _mount(spec: dict[str, Any], container: dict[str, Any], volume: Volume, name: str) -> None:
    """Mount a volume; what had been mounted at its path is replaced, wherever it is used."""
    mounts = container["volumeMounts"]
    there = next((mount for mount in mounts if mount["mountPath"] == volume.path), None)
    if there is not None:
        name = there["name"]
        mounts.remove(there)
        spec["volumes"] = [other for other in spec["volumes"] if other["name"] != name]
    read_only = {"readOnly": True} if volume.read_only else {}
    mounts.append({"name": name, "mountPath": volume.path, **read_only})
    spec["volumes"].append(volume.as_json(name))


def _tolerations(placement: Placement) -> tuple[Toleration, ...]:
    wanted = placement.tolerations
    if placement.spot in (Spot.REQUIRE, Spot.PREFER):
        wanted += SPOT_TAINTS
    return wanted + tuple(Toleration(name) for name in placement.devices)


def _write_affinity(spec: dict[str, Any], placement: Placement) -> None:
    """Add to the node affinity that a template may have brought."""
    given: Mapping[str, Any] = spec.get("affinity", {}).get("nodeAffinity", {})
    nodes = dict(given)
    terms = _terms(placement, given.get(_REQUIRED, {}).get("nodeSelectorTerms", []))
    if terms:
        nodes[_REQUIRED] = {"nodeSelectorTerms": terms}
    wishes = [*placement.preferred, *(SPOT_LABELS if placement.spot is Spot.PREFER else ())]
    if wishes:
        weighed = [
            {"weight": wish.weight, "preference": {"matchExpressions": [wish.match()]}}
            for wish in wishes
        ]
        nodes[_PREFERRED] = [*given.get(_PREFERRED, ()), *weighed]
    if nodes:
        spec["affinity"] = {**spec.get("affinity", {}), "nodeAffinity": nodes}


def _terms(placement: Placement, given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of terms one must hold, of a term every expression; so alternatives multiply the terms."""
    must = [label.match() for label in placement.required]
    must += [label.match(wanted=False) for label in placement.prohibited]
    alternatives: list[list[NodeLabel]] = []
    if placement.spot is Spot.NEVER:
        must += [label.match(wanted=False) for label in SPOT_LABELS]
    elif placement.spot is Spot.REQUIRE:
        alternatives.append(list(SPOT_LABELS))
    if placement.gpus and placement.gpu_model:
        model = (placement.gpu_model,)
        alternatives.append([NodeLabel(key, model) for key in GPU_MODEL_LABELS])
    terms = []
    for term, choice in product(given or [{}], product(*alternatives)):
        told = [*term.get("matchExpressions", ()), *must, *(label.match() for label in choice)]
        if told or term:
            terms.append({**term, **({"matchExpressions": told} if told else {})})
    return terms
