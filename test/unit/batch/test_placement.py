"""What a placement writes into a pod."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from byok8s.batch import PodRequest, RunIdentity
from byok8s.batch.placement import (
    ANYWHERE,
    GPU_MODEL_LABELS,
    SPOT_LABELS,
    NodeLabel,
    Placement,
    Spot,
    Toleration,
    Volume,
)
from byok8s.batch.pods import manifest
from byok8s.batch.security import below_restricted

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def pod(placement: Placement = ANYWHERE, **request: Any) -> dict[str, Any]:
    return manifest(
        RunIdentity("alpha", "jane"),
        PodRequest("a", image="busybox", command=("true",), placement=placement, **request),
        owner={},
        secret="alpha",
        secret_mount="/var/run/byok8s",
        pull_policy="IfNotPresent",
        grace_seconds=5,
    )


def spec(placement: Placement) -> dict[str, Any]:
    return dict(pod(placement)["spec"])


def container(placement: Placement) -> dict[str, Any]:
    (found,) = spec(placement)["containers"]
    return dict(found)


def test_nothing_said_changes_nothing():
    fields = {"affinity", "tolerations", "nodeSelector", "priorityClassName", "schedulingGates"}
    assert not fields & pod()["spec"].keys()
    assert "limits" not in container(Placement())["resources"]
    assert below_restricted(pod()) == []


def not_in(key: str, value: str) -> dict[str, Any]:
    return {"key": key, "operator": "NotIn", "values": [value]}


def is_in(key: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": "In", "values": list(values)}


SPOT = [
    ("karpenter.sh/capacity-type", "spot"),
    ("eks.amazonaws.com/capacityType", "SPOT"),
    ("cloud.google.com/gke-spot", "true"),
    ("cloud.google.com/gke-preemptible", "true"),
    ("kubernetes.azure.com/scalesetpriority", "spot"),
]


def test_case_5_not_preemptible_prohibits_every_spot_label_and_tolerates_nothing():
    made = spec(Placement(spot=Spot.NEVER))
    term = {"matchExpressions": [not_in(*label) for label in SPOT]}
    assert made["affinity"] == {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [term]}}}
    assert "tolerations" not in made


def test_case_5_preemptible_prefers_each_spot_label_and_tolerates_the_taints():
    made = spec(Placement(spot=Spot.PREFER))
    assert made["affinity"] == {
        "nodeAffinity": {
            PREFERRED: [
                {"weight": 1, "preference": {"matchExpressions": [is_in(*label)]}} for label in SPOT
            ]
        }
    }
    assert made["tolerations"] == [
        {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true"},
        {"key": "cloud.google.com/gke-preemptible", "operator": "Equal", "value": "true"},
        {"key": "kubernetes.azure.com/scalesetpriority", "operator": "Equal", "value": "spot"},
    ]


def test_spot_required_is_any_of_the_labels():
    made = spec(Placement(spot=Spot.REQUIRE))
    terms = [{"matchExpressions": [is_in(*label)]} for label in SPOT]
    assert made["affinity"] == {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": terms}}}
    assert len(made["tolerations"]) == 3


def test_case_6_required_desired_and_prohibited_combine():
    made = spec(
        Placement(
            required=(NodeLabel("GottaBeSetTo", ("This",)),),
            preferred=(NodeLabel("OutghtToBeSetTo", ("That",)),),
            prohibited=(NodeLabel("CannotBe", ("ABadThing",)),),
        )
    )
    assert made["affinity"] == {
        "nodeAffinity": {
            PREFERRED: [
                {
                    "weight": 1,
                    "preference": {"matchExpressions": [is_in("OutghtToBeSetTo", "That")]},
                }
            ],
            REQUIRED: {
                "nodeSelectorTerms": [
                    {
                        "matchExpressions": [
                            is_in("GottaBeSetTo", "This"),
                            not_in("CannotBe", "ABadThing"),
                        ]
                    }
                ]
            },
        }
    }


def test_labels_with_several_values_with_any_and_with_a_weight():
    made = spec(
        Placement(
            node_selector=(("disk", "ssd"),),
            required=(NodeLabel("zone", ("a", "b")), NodeLabel("fast")),
            prohibited=(NodeLabel("old"),),
            preferred=(NodeLabel("zone", ("a",), weight=80),),
        )
    )
    affinity = made["affinity"]["nodeAffinity"]
    assert made["nodeSelector"] == {"disk": "ssd"}
    (term,) = affinity[REQUIRED]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [
        is_in("zone", "a", "b"),
        {"key": "fast", "operator": "Exists"},
        {"key": "old", "operator": "DoesNotExist"},
    ]
    assert affinity[PREFERRED][0]["weight"] == 80


def test_alternatives_multiply_and_all_that_must_hold_is_in_each():
    placement = Placement(
        required=(NodeLabel("disk", ("ssd",)),), spot=Spot.REQUIRE, gpus=1, gpu_model="t4"
    )
    terms = spec(placement)["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]
    assert len(terms) == len(SPOT_LABELS) * len(GPU_MODEL_LABELS)
    assert all(term["matchExpressions"][0] == is_in("disk", "ssd") for term in terms)
    assert all(len(term["matchExpressions"]) == 3 for term in terms)


def test_tolerations():
    tolerations = (
        Toleration("lab"),
        Toleration("lab", "genomics"),
        Toleration("lab", "", "NoExecute"),
        Toleration("lab", None, "NoSchedule"),
    )
    assert spec(Placement(tolerations=tolerations))["tolerations"] == [
        {"key": "lab", "operator": "Exists"},
        {"key": "lab", "operator": "Equal", "value": "genomics"},
        {"key": "lab", "operator": "Equal", "value": "", "effect": "NoExecute"},
        {"key": "lab", "operator": "Exists", "effect": "NoSchedule"},
    ]


@pytest.mark.parametrize(
    ("maker", "resource"), [("nvidia", "nvidia.com/gpu"), ("amd", "amd.com/gpu")]
)
def test_gpus_are_requested_and_limited_alike_and_their_taint_is_tolerated(
    maker: str, resource: str
):
    placement = Placement(gpus=2, gpu_manufacturer=maker)
    resources = container(placement)["resources"]
    assert resources["requests"] == {"cpu": "1000m", resource: "2"}
    assert resources["limits"] == {resource: "2"}
    assert spec(placement)["tolerations"] == [{"key": resource, "operator": "Exists"}]
    assert placement.devices == {resource: 2}


def test_a_model_without_a_gpu_asks_for_nothing():
    assert spec(Placement(gpu_model="t4")) == spec(Placement())


def test_names():
    made = spec(
        Placement(
            priority_class="high",
            runtime_class="gvisor",
            service_account="reader",
            pull_secrets=("a", "b"),
        )
    )
    assert made["priorityClassName"] == "high"
    assert made["runtimeClassName"] == "gvisor"
    assert made["serviceAccountName"] == "reader"
    assert made["automountServiceAccountToken"] is False
    assert made["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]


def test_kueue_gets_its_label_and_its_gate():
    made = pod(Placement(queue="lab-queue"))
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "lab-queue"
    assert made["spec"]["schedulingGates"] == [{"name": "kueue.x-k8s.io/admission"}]


def test_volumes():
    made = pod(
        Placement(
            volumes=(
                Volume("pvc", "references", "/ref", read_only=True),
                Volume("ephemeral", "100Gi", "/scratch", storage_class="gp3"),
            )
        )
    )
    mounts = made["spec"]["containers"][0]["volumeMounts"]
    assert {"name": "volume-1", "mountPath": "/ref", "readOnly": True} in mounts
    assert {"name": "volume-2", "mountPath": "/scratch"} in mounts
    volumes = {volume["name"]: volume for volume in made["spec"]["volumes"]}
    assert volumes["volume-1"]["persistentVolumeClaim"] == {
        "claimName": "references",
        "readOnly": True,
    }
    assert volumes["volume-2"]["ephemeral"]["volumeClaimTemplate"]["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "gp3",
        "resources": {"requests": {"storage": "100Gi"}},
    }
    assert {"work", "tmp", "secret"} < volumes.keys()


def test_a_volume_takes_the_place_of_the_one_at_its_path():
    made = spec(Placement(volumes=(Volume("ephemeral", "1Ti", "/work"),)))
    (work,) = [volume for volume in made["volumes"] if volume["name"] == "work"]
    assert "ephemeral" in work
    mounts = [m for m in made["containers"][0]["volumeMounts"] if m["mountPath"] == "/work"]
    assert mounts == [{"name": "work", "mountPath": "/work"}]


EVERYTHING = Placement(
    node_selector=(("disk", "ssd"),),
    required=(NodeLabel("zone", ("a", "b")),),
    preferred=(NodeLabel("cpu", ("new",), 5),),
    prohibited=(NodeLabel("old"),),
    tolerations=(Toleration("lab", "genomics", "NoSchedule"),),
    spot=Spot.PREFER,
    gpus=1,
    gpu_model="t4",
    priority_class="high",
    queue="lab-queue",
    runtime_class="gvisor",
    service_account="reader",
    pull_secrets=("registry",),
    volumes=(Volume("pvc", "references", "/ref"), Volume("ephemeral", "1Gi", "/work")),
)


def test_a_pod_with_everything_is_still_restricted():
    assert below_restricted(pod(EVERYTHING)) == []


def test_equal_placements_are_one():
    assert len({EVERYTHING, copy.copy(EVERYTHING), Placement()}) == 2


def test_what_is_placed_is_no_part_of_the_next_pod():
    before = copy.deepcopy(pod())
    pod(EVERYTHING)
    assert pod() == before
