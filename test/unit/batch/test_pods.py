"""Names, labels and the manifest."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from byok8s.batch import PodRequest, RunIdentity, Staging
from byok8s.batch.pods import label_value, manifest, pod_labels, pod_name

RUN = RunIdentity("alpha-blue-x1", "jane")
REQUEST = PodRequest(
    "4f2a",
    image="busybox",
    command=("echo", "hello"),
    rule="map_reads",
    job="map_reads sample=A",
    env={"FOO": "bar"},
    cpu=1.5,
    memory_mb=2000,
    disk_mb=500,
    deadline_seconds=60,
)
OWNER = {"apiVersion": "v1", "kind": "ConfigMap", "name": RUN.name, "uid": "u-1"}


def pod(request: PodRequest = REQUEST, secret: str | None = "alpha-blue-x1") -> dict[str, Any]:
    return manifest(
        RUN,
        request,
        owner=OWNER,
        secret=secret,
        secret_mount="/var/run/byok8s",
        pull_policy="IfNotPresent",
        grace_seconds=5,
    )


def test_names_are_readable_deterministic_and_different():
    name = pod_name(RUN.name, REQUEST)
    assert re.fullmatch(r"alpha-blue-x1-map-reads-[0-9a-f]{8}-1", name)
    assert pod_name(RUN.name, REQUEST) == name
    others = [
        pod_name(RUN.name, replace(REQUEST, id="4f2b")),
        pod_name(RUN.name, replace(REQUEST, attempt=2)),
        pod_name("alpha-blue-x2", REQUEST),
    ]
    assert len({name, *others}) == 4


@pytest.mark.parametrize("rule", ["", "ü", "x" * 200, "A_b-" * 30, "---"])
def test_names_are_dns_labels(rule: str):
    name = pod_name("r" * 40, replace(REQUEST, rule=rule, job=rule, attempt=100))
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name)


@pytest.mark.parametrize(
    "text", ["Jane_Doe" + "x" * 40, "Jane Doe <jane@example.org>", "ü", "", "a=b,c=d", "x." * 60]
)
def test_labels_are_valid(text: str):
    assert re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?", label_value(text))


def test_long_labels_that_differ_at_their_end_stay_different():
    assert label_value("x" * 70 + "a") != label_value("x" * 70 + "b")


def test_a_run_name_is_checked():
    with pytest.raises(ValueError, match="DNS label"):
        RunIdentity("Not_A_Label", "jane")
    with pytest.raises(ValueError, match="DNS label"):
        RunIdentity("x" * 41, "jane")


def test_a_pod_can_be_found_by_what_it_is():
    assert pod()["metadata"]["labels"] == {
        "app.kubernetes.io/name": "byok8s",
        "app.kubernetes.io/managed-by": "byok8s",
        "byok8s.io/run": "alpha-blue-x1",
        "byok8s.io/owner": "jane",
        "byok8s.io/rule": "map_reads",
        "byok8s.io/job": "map_reads-sample-A",
        "byok8s.io/attempt": "1",
    }
    assert pod_labels(RUN, REQUEST)["byok8s.io/run"] == RUN.name
    assert pod()["metadata"]["ownerReferences"] == [OWNER]


def test_resources():
    (container,) = pod()["spec"]["containers"]
    wanted = {"memory": "2000M", "ephemeral-storage": "500M"}
    assert container["resources"] == {"requests": {"cpu": "1500m", **wanted}, "limits": wanted}
    assert pod()["spec"]["activeDeadlineSeconds"] == 60
    volumes = {volume["name"]: volume for volume in pod()["spec"]["volumes"]}
    assert volumes["work"]["emptyDir"] == {"sizeLimit": "500M"}


def test_what_is_not_asked_for_is_not_requested():
    plain = pod(PodRequest("a", image="busybox", command=("true",), cpu=0.25))
    assert plain["spec"]["containers"][0]["resources"] == {"requests": {"cpu": "250m"}}
    assert plain["spec"]["activeDeadlineSeconds"] == 7 * 24 * 3600
    soft = pod(replace(REQUEST, limit_memory=False, disk_mb=None))
    assert soft["spec"]["containers"][0]["resources"] == {
        "requests": {"cpu": "1500m", "memory": "2000M"}
    }


def test_dollars_are_kept_from_the_kubelet():
    request = replace(REQUEST, command=("sh", "-c", "echo $$ $(HOME)"), env={"A": "$(B) $$"})
    (container,) = pod(request)["spec"]["containers"]
    assert container["command"] == ["sh", "-c", "echo $$$$ $$(HOME)"]
    assert {"name": "A", "value": "$$(B) $$$$"} in container["env"]


def test_the_secret_is_a_read_only_file_and_named_only():
    (container,) = pod()["spec"]["containers"]
    mount = next(m for m in container["volumeMounts"] if m["name"] == "secret")
    assert mount == {"name": "secret", "mountPath": "/var/run/byok8s", "readOnly": True}
    volume = next(v for v in pod()["spec"]["volumes"] if v["name"] == "secret")
    assert volume["secret"] == {"secretName": "alpha-blue-x1", "defaultMode": 0o440}
    assert "secret" not in json.dumps(pod(secret=None))


def test_without_volumes_the_secret_comes_by_name_as_variables():
    request = replace(REQUEST, volumes=False, secret_env={"FILES": "all"})
    spec = pod(request)["spec"]
    (container,) = spec["containers"]
    assert spec["volumes"] == [] and container["volumeMounts"] == []
    reference = {"secretKeyRef": {"name": "alpha-blue-x1", "key": "all"}}
    assert {"name": "FILES", "valueFrom": reference} in container["env"]
    assert container["workingDir"] == "/work"
    assert "secretKeyRef" not in json.dumps(pod(request, secret=None))


def test_security_is_what_pod_security_restricted_asks_for():
    spec = pod()["spec"]
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert spec["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["restartPolicy"] == "Never"


def test_autoscalers_leave_the_pod_alone():
    annotations = pod()["metadata"]["annotations"]
    assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
    assert annotations["karpenter.sh/do-not-disrupt"] == "true"


def test_case_13_a_long_owner_can_be_found():
    owner = "Jane_Doe" + "x" * 40
    labels = RunIdentity("alpha", owner).labels
    assert labels["byok8s.io/owner"] == owner and len(owner) <= 63
    longer = RunIdentity("alpha", f"{owner}{owner}@example.org").labels["byok8s.io/owner"]
    assert re.fullmatch(r"Jane_Doex{40}Jane_D-[0-9a-f]{8}", longer)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,61}[A-Za-z0-9]", longer)
    name = pod_name(RUN.name, replace(REQUEST, rule=owner))
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name)


STAGED = replace(
    REQUEST, image="samtools", staging=Staging("worker", ("python3",), "/shared", {"JOB": "{}"})
)


def test_files_are_staged_by_a_container_that_starts_first():
    staging, job = pod(STAGED)["spec"]["containers"]
    assert (staging["name"], staging["image"], staging["command"]) == (
        "staging",
        "worker",
        ["python3"],
    )
    assert (job["name"], job["image"]) == ("job", "samtools")
    assert {"name": "JOB", "value": "{}"} in staging["env"]
    assert "JOB" not in {variable["name"] for variable in job["env"]}


def test_an_image_of_anybodys_is_read_only_and_sees_no_secret():
    staging, job = pod(STAGED)["spec"]["containers"]
    assert job["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    mounts = {mount["mountPath"]: mount["name"] for mount in job["volumeMounts"]}
    assert mounts == {
        "/work": "work",
        "/tmp": "tmp",
        "/var/tmp": "tmp",
        "/shared": "handshake",
    }
    beside = {mount["mountPath"]: mount["name"] for mount in staging["volumeMounts"]}
    assert beside == {
        "/work": "work",
        "/tmp": "staging",
        "/shared": "handshake",
        "/var/run/byok8s": "secret",
    }
    volumes = {volume["name"] for volume in pod(STAGED)["spec"]["volumes"]}
    assert volumes == {*mounts.values(), *beside.values()}


def test_staging_takes_its_cpu_from_the_job_and_its_memory_beside_it():
    staging, job = pod(STAGED)["spec"]["containers"]
    assert staging["resources"] == {"requests": {"cpu": "50m", "memory": "128M"}}
    assert job["resources"]["requests"]["cpu"] == "1450m"
    assert job["resources"]["limits"] == {"memory": "2000M", "ephemeral-storage": "500M"}


def test_kubectl_shows_the_log_of_the_container_that_has_it():
    name = "kubectl.kubernetes.io/default-container"
    assert pod()["metadata"]["annotations"][name] == "job"
    assert pod(STAGED)["metadata"]["annotations"][name] == "staging"
