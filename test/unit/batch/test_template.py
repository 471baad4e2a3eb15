"""Pod templates: what is merged how, and what cannot be set."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from unittest.mock import ANY

import pytest
from byok8s.batch import PodRequest, RunIdentity, Staging
from byok8s.batch.placement import NodeLabel, Placement, Toleration, Volume
from byok8s.batch.pods import FINGERPRINT, manifest
from byok8s.batch.security import below_restricted
from byok8s.batch.strategic import merged
from byok8s.batch.template import read_template
from byok8s.exceptions import SettingsError

REQUEST = PodRequest("a", image="busybox", command=("true",), env={"FOO": "bar"}, memory_mb=100)
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def pod(template: Any, request: PodRequest = REQUEST, **placement: Any) -> dict[str, Any]:
    told = Placement(template=read_template(template, "t.yaml") if template else "", **placement)
    return manifest(
        RunIdentity("alpha", "jane"),
        replace(request, placement=told),
        owner={"uid": "u-1"},
        secret="alpha",
        secret_mount="/var/run/byok8s",
        pull_policy="IfNotPresent",
        grace_seconds=5,
    )


def refusal(template: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        read_template(template, "t.yaml")
    return str(caught.value)


SPEC = {"hostname": "h"}


@pytest.mark.parametrize(
    "content",
    [
        SPEC,
        {"spec": SPEC},
        {"apiVersion": "v1", "kind": "Pod", "spec": SPEC},
        {"kind": "Pod", "metadata": None, "spec": SPEC},
        {"apiVersion": "v1", "kind": "PodTemplate", "template": {"spec": SPEC}},
    ],
)
def test_the_forms_of_a_template(content: Any):
    assert pod(content)["spec"]["hostname"] == "h"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "'t.yaml' must be a mapping: a Pod"),
        (None, "'t.yaml' must be a mapping: a Pod"),
        ({"kind": "Deployment", "spec": {}}, "'t.yaml' holds a Deployment"),
        ({"kind": "Pod", "status": {}, "spec": {}}, "status may not be set"),
        ({"kind": "PodTemplate", "template": []}, "template may not be set"),
        ({"kind": "Pod", "spec": []}, "spec must be a mapping"),
        ({"spec": {"containers": {}}}, "spec.containers must be a list"),
        ({"spec": {"volumes": [{"emptyDir": {}}]}}, "each of spec.volumes must be a mapping with"),
        ({"spec": {"containers": [{"name": "job", "env": ["A=b"]}]}}, "with the key name"),
        ({"metadata": {"labels": ["a"]}}, "metadata.labels must be a mapping"),
        ({"spec": {"$patch": "replace"}}, "spec.$patch is a directive"),
    ],
)
def test_what_is_no_template(content: Any, words: str):
    assert words in refusal(content)


def in_job(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "job", **fields}]}}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"metadata": {"name": "x"}}, "metadata.name may not be set"),
    ({"metadata": {"ownerReferences": []}}, "metadata.ownerReferences may not be set"),
    ({"metadata": {"labels": {"byok8s.io/run": "x"}}}, "may not have byok8s.io/run"),
    ({"metadata": {"labels": {"app.kubernetes.io/name": "x"}}}, "may not have app.kubernetes.io"),
    ({"metadata": {"annotations": {"byok8s.io/id": "x"}}}, "may not have byok8s.io/id"),
    ({"spec": {"restartPolicy": "Always"}}, "spec.restartPolicy may not be set"),
    ({"spec": {"activeDeadlineSeconds": 5}}, "spec.activeDeadlineSeconds may not be set"),
    ({"spec": {"nodeName": "n"}}, "use --node-selector"),
    ({"spec": {"containers": [{"name": "side"}]}}, "the container 'side' may not be added"),
    ({"spec": {"volumes": [{"name": "work"}]}}, "the volume 'work' is byok8s's own"),
    ({"spec": {"volumes": [{"name": "secret"}]}}, "the volume 'secret' is byok8s's own"),
    ({"spec": {"initContainers": [{"name": "job"}]}}, "may not be called 'job'"),
    (in_job(command=["sh"]), "command may not be set: what the pod runs is the rule's"),
    (in_job(args=["-c"]), "args may not be set"),
    (in_job(image="x"), "image may not be set: use --image"),
    (in_job(env=[{"name": "BYOK8S_JOB", "value": "x"}]), "BYOK8S_JOB is byok8s's own"),
    (in_job(resources={"requests": {"cpu": "1"}}), "a rule has it in `threads`"),
    (in_job(resources={"limits": {"memory": "1Gi"}}), "a rule has it in `mem_mb`"),
    (
        in_job(volumeMounts=[{"name": "x", "mountPath": "/var/run/byok8s/"}]),
        "nothing may be mounted at /var/run/byok8s",
    ),
    (
        {
            "spec": {
                "volumes": [{"name": "x", "persistentVolumeClaim": {"claimName": "x"}}],
                **in_job(volumeMounts=[{"name": "x", "mountPath": "/work"}])["spec"],
            }
        },
        "jobs would write over each other's files",
    ),
]


@pytest.mark.parametrize(("template", "words"), REFUSED)
def test_what_cannot_be_set_is_refused_in_one_sentence(template: dict[str, Any], words: str):
    told = refusal(template)
    assert words in told
    assert told.startswith("'t.yaml': ") and told.endswith(".") and "\n" not in told


def test_all_that_cannot_be_set_is_told():
    told = refusal({"metadata": {"name": "x"}, "spec": {"restartPolicy": "Never", "nodeName": "n"}})
    assert len(told.split("\n")) == 3


TEMPLATE = {
    "metadata": {"labels": {"team": "genomics"}, "annotations": {"lab": "7"}},
    "spec": {
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "lab", "operator": "Exists"}],
        "securityContext": {"fsGroup": None, "fsGroupChangePolicy": "OnRootMismatch"},
        "terminationGracePeriodSeconds": 60,
        "volumes": [{"name": "ref", "persistentVolumeClaim": {"claimName": "ref"}}],
        "initContainers": [
            {"name": "warm", "image": "busybox", "securityContext": {"runAsUser": 7}}
        ],
        "containers": [
            {
                "name": "job",
                "env": [
                    {"name": "FOO", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                    {"name": "MORE", "value": "more"},
                ],
                "resources": {"limits": {"cpu": "2", "example.org/fpga": "1"}},
                "volumeMounts": [{"name": "ref", "mountPath": "/ref", "readOnly": True}],
            }
        ],
    },
}


def test_a_template_is_merged_by_the_keys_of_kubernetes():
    plain, made = pod({}), pod(TEMPLATE)
    assert made["metadata"]["labels"] == {**plain["metadata"]["labels"], "team": "genomics"}
    ours = {**plain["metadata"]["annotations"], FINGERPRINT: ANY}  # other work than without it
    assert made["metadata"]["annotations"] == {**ours, "lab": "7"}
    assert made["metadata"]["ownerReferences"] == [{"uid": "u-1"}]
    spec = made["spec"]
    assert spec["terminationGracePeriodSeconds"] == 60
    assert "fsGroup" not in spec["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert [volume["name"] for volume in spec["volumes"]] == ["work", "tmp", "secret", "ref"]
    (container,) = spec["containers"]
    assert container["command"] == ["true"]
    assert container["env"] == [
        {"name": "HOME", "value": "/tmp"},
        {"name": "FOO", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "MORE", "value": "more"},
    ]
    assert container["resources"] == {
        "requests": {"cpu": "1000m", "memory": "100M"},
        "limits": {"memory": "100M", "cpu": "2", "example.org/fpga": "1"},
    }
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert mounts == ["/work", "/tmp", "/var/run/byok8s", "/ref"]


def test_a_label_may_be_called_as_a_field_is():
    made = pod({"metadata": {"labels": {"env": "lab"}}, "spec": {"nodeSelector": {"ports": "x"}}})
    assert made["metadata"]["labels"]["env"] == "lab"
    assert made["spec"]["nodeSelector"] == {"ports": "x"}


def test_an_added_init_container_is_as_restricted_as_ours():
    made = pod(TEMPLATE)
    (warm,) = made["spec"]["initContainers"]
    assert warm["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsUser": 7,
    }
    assert below_restricted(made) == []


def test_a_folder_on_a_volume_of_ones_own():
    made = pod(
        {
            "volumes": [{"name": "fast", "emptyDir": {"medium": "Memory"}}],
            "containers": [
                {"name": "job", "volumeMounts": [{"name": "fast", "mountPath": "/work"}]}
            ],
        }
    )
    (container,) = made["spec"]["containers"]
    assert {"name": "fast", "mountPath": "/work"} in container["volumeMounts"]
    assert len(container["volumeMounts"]) == 3


def test_both_containers_of_a_staged_job_have_the_templates_working_folder():
    template = {
        "volumes": [{"name": "fast", "emptyDir": {"medium": "Memory"}}],
        "containers": [{"name": "job", "volumeMounts": [{"name": "fast", "mountPath": "/work"}]}],
    }
    staging = Staging("worker", ("stage",), "/handshake")
    made = pod(template, request=replace(REQUEST, staging=staging), gpus=1)
    staged, job = made["spec"]["containers"]
    for container in (staged, job):
        names = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert names["/work"] == "fast"
    assert "nvidia.com/gpu" in job["resources"]["limits"]
    assert "limits" not in staged["resources"]
    assert below_restricted(made) == []


def test_what_is_said_beside_the_template_counts_more():
    template = {
        "nodeSelector": {"disk": "ssd", "zone": "a"},
        "priorityClassName": "low",
        "tolerations": [{"key": "lab", "operator": "Exists"}],
        "affinity": {
            "podAntiAffinity": {},
            "nodeAffinity": {
                REQUIRED: {
                    "nodeSelectorTerms": [
                        {"matchFields": [{"key": "metadata.name", "operator": "Exists"}]},
                        {"matchExpressions": [{"key": "x", "operator": "Exists"}]},
                    ]
                }
            },
        },
        "volumes": [{"name": "ref", "persistentVolumeClaim": {"claimName": "ref"}}],
        "containers": [{"name": "job", "volumeMounts": [{"name": "ref", "mountPath": "/ref"}]}],
    }
    spec = pod(
        template,
        node_selector=(("zone", "b"),),
        priority_class="high",
        tolerations=(Toleration("more"),),
        required=(NodeLabel("y"),),
        volumes=(Volume("pvc", "other", "/ref"),),
    )["spec"]
    assert spec["nodeSelector"] == {"disk": "ssd", "zone": "b"}
    assert spec["priorityClassName"] == "high"
    assert [toleration["key"] for toleration in spec["tolerations"]] == ["lab", "more"]
    assert "podAntiAffinity" in spec["affinity"]
    y = {"key": "y", "operator": "Exists"}
    assert spec["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"] == [
        {
            "matchFields": [{"key": "metadata.name", "operator": "Exists"}],
            "matchExpressions": [y],
        },
        {"matchExpressions": [{"key": "x", "operator": "Exists"}, y]},
    ]
    (ref,) = [volume for volume in spec["volumes"] if volume["name"] == "ref"]
    assert ref["persistentVolumeClaim"] == {"claimName": "other"}


LOW: list[tuple[dict[str, Any], str]] = [
    ({"hostNetwork": True}, "spec.hostNetwork"),
    ({"hostPID": True}, "spec.hostPID"),
    ({"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}, "spec.volumes 'x' (hostPath)"),
    ({"volumes": [{"name": "x", "nfs": {}}]}, "spec.volumes 'x' (nfs)"),
    ({"securityContext": {"runAsUser": 0}}, "spec.securityContext.runAsUser"),
    ({"securityContext": {"runAsNonRoot": False}}, "spec.securityContext.runAsNonRoot"),
    ({"securityContext": {"runAsNonRoot": None}}, "runAsNonRoot of container 'job'"),
    ({"securityContext": {"seccompProfile": None}}, "seccompProfile of container 'job'"),
    ({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}]}}, "sysctls 'kernel.msgmax'"),
    (in_job(securityContext={"privileged": True})["spec"], "privileged of container 'job'"),
    (in_job(securityContext={"capabilities": {"add": ["SYS_ADMIN"]}})["spec"], "capabilities of"),
    (in_job(securityContext={"capabilities": {"drop": []}})["spec"], "capabilities of"),
    (in_job(securityContext={"allowPrivilegeEscalation": True})["spec"], "allowPrivilegeEscal"),
    (in_job(securityContext={"procMount": "Unmasked"})["spec"], "procMount of"),
    (in_job(securityContext={"seLinuxOptions": {"user": "x"}})["spec"], "seLinuxOptions of"),
    (in_job(ports=[{"containerPort": 80, "hostPort": 80}])["spec"], "ports.hostPort of"),
    (
        {"initContainers": [{"name": "i", "image": "x", "securityContext": {"runAsUser": 0}}]},
        "runAsUser of container 'i'",
    ),
]


@pytest.mark.parametrize(("template", "field"), LOW)
def test_what_goes_below_pod_security_restricted_is_found(template: dict[str, Any], field: str):
    (found,) = below_restricted(pod(template))
    assert field in found


def test_merging_changes_neither_part():
    base = {"a": {"b": 1}, "volumes": [{"name": "x", "v": 1}]}
    patch = {"a": {"b": None, "c": {"d": None}}, "volumes": [{"name": "x", "w": None}]}
    before = json.dumps([base, patch])
    assert merged(base, patch) == {"a": {"c": {}}, "volumes": [{"name": "x"}]}
    assert json.dumps([base, patch]) == before
