"""Where pods run, on the real cluster: what the scheduler and the API server make of placements."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from byok8s.batch import BatchSystem, KubeClient, PodRequest, RunIdentity
from byok8s.batch.placement import NodeLabel, Placement, Spot, Toleration, Volume
from byok8s.batch.rehearsal import sample_pod
from byok8s.batch.template import read_template
from byok8s.cluster import ClusterInfo
from byok8s.settings import KubeSettings
from support.project import Project, objects_left


@dataclass
class Marks:
    """Names that a test may use: a label of the node, a PriorityClass and a RuntimeClass."""

    client: KubeClient
    name: str
    label: str


@pytest.fixture(scope="module")
def marks(cluster: ClusterInfo) -> Iterator[Marks]:
    client = KubeClient.load(KubeSettings(context=cluster.context))
    name = f"test-{uuid.uuid4().hex[:6]}"
    label = f"example.org/{name}"
    node = client.get("/api/v1/nodes")["items"][0]["metadata"]["name"]
    made = {
        "/apis/scheduling.k8s.io/v1/priorityclasses": {"value": 1000},
        "/apis/node.k8s.io/v1/runtimeclasses": {"handler": "runc"},
    }
    client.patch(f"/api/v1/nodes/{node}", {"metadata": {"labels": {label: "yes"}}})
    for path, body in made.items():
        client.create(path, {"metadata": {"name": name}, **body})
    yield Marks(client, name, label)
    for path in made:
        client.delete(f"{path}/{name}")
    client.patch(f"/api/v1/nodes/{node}", {"metadata": {"labels": {label: None}}})


@pytest.fixture(scope="module")
def namespace(marks: Marks) -> Iterator[str]:
    """A namespace that enforces Pod Security "restricted"."""
    name = f"placement-{uuid.uuid4().hex[:6]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    marks.client.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    yield name
    marks.client.delete(f"/api/v1/namespaces/{name}")


def test_the_api_server_takes_a_pod_with_everything(marks: Marks, namespace: str) -> None:
    template = {
        "metadata": {"annotations": {"lab": "7"}},
        "spec": {
            "securityContext": {"fsGroupChangePolicy": "OnRootMismatch"},
            "initContainers": [{"name": "proxy", "image": "busybox", "restartPolicy": "Always"}],
            "topologySpreadConstraints": [
                {
                    "topologyKey": "zone",
                    "maxSkew": 1,
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": {"a": "b"}},
                }
            ],
        },
    }
    for spot in Spot:
        placement = Placement(
            node_selector=(("disk", "ssd"),),
            required=(NodeLabel("zone", ("a", "b")), NodeLabel("fast")),
            preferred=(NodeLabel("cpu", ("new",), 5),),
            prohibited=(NodeLabel("old"), NodeLabel("disk", ("hdd", "tape"))),
            tolerations=(Toleration("lab", "genomics", "NoSchedule"), Toleration("any")),
            spot=spot,
            gpus=2,
            gpu_model="nvidia-tesla-t4",
            priority_class=marks.name,
            queue="lab",
            runtime_class=marks.name,
            service_account="default",
            pull_secrets=("registry",),
            volumes=(
                Volume("pvc", "references", "/ref", read_only=True),
                Volume("ephemeral", "1Gi", "/work", storage_class="fast"),
            ),
            template=read_template(template, "t.yaml"),
        )
        made = marks.client.create(
            f"/api/v1/namespaces/{namespace}/pods",
            sample_pod(placement, "busybox"),
            dryRun="All",
            fieldValidation="Strict",
        )
        assert made["spec"]["priority"] == 1000
        assert made["spec"]["schedulingGates"] == [{"name": "kueue.x-k8s.io/admission"}]
        assert made["metadata"]["annotations"]["lab"] == "7"


def test_a_pod_runs_on_the_node_with_the_label_and_with_its_priority(
    marks: Marks, namespace: str, cluster: ClusterInfo
) -> None:
    """Beside it, a pod that prohibits the label stays without a node, and one is never tried."""
    client = KubeClient.load(KubeSettings(context=cluster.context, namespace=namespace))
    batch = BatchSystem(client, RunIdentity(marks.name, "jane"))
    batch.start()
    assert cluster.worker_image
    here, there = NodeLabel(marks.label, ("yes", "maybe")), NodeLabel(marks.label)
    placements = {
        "here": Placement(required=(here,), spot=Spot.NEVER, priority_class=marks.name),
        "nowhere": Placement(prohibited=(there,)),
        "gpu": Placement(gpus=1),
    }
    for id, placement in placements.items():
        batch.issue(
            PodRequest(
                id, cluster.worker_image, ("sleep", "1"), cpu=0.05, rule="r", placement=placement
            )
        )
    told: dict[str, Any] = {}
    deadline = time.monotonic() + 30
    pods: list[dict[str, Any]] = []
    while len(told) < 3 and time.monotonic() < deadline:
        news = batch.updates(5)
        if news and news.state == "running":
            pods = client.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
        elif news:
            told[news.id] = news
    batch.shutdown()
    assert told["here"].state == "succeeded"
    assert told["nowhere"].state == "waiting"
    assert "didn't match Pod's node affinity/selector" in told["nowhere"].message
    assert told["gpu"].state == "failed"
    assert "asks for 1 GPUs (nvidia.com/gpu) and the largest node has 0" in told["gpu"].message
    priorities = {pod["spec"].get("priority") for pod in pods}
    assert len(pods) == 2 and priorities == {0, 1000}


@pytest.fixture
def claim(marks: Marks, tmp_path: Path) -> Iterator[str]:
    """A claim in the default namespace, for a folder of the node with a file."""
    folder = tmp_path / "references"
    folder.mkdir()
    (folder / "genome.txt").write_text("ACGT\n")
    for path in (folder, *folder.parents[:3]):
        path.chmod(0o755)
    spec: dict[str, Any] = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    volumes, claims = "/api/v1/persistentvolumes", "/api/v1/namespaces/default"
    marks.client.create(
        volumes,
        {
            "metadata": {"name": marks.name},
            "spec": spec | {"capacity": {"storage": "1Gi"}, "hostPath": {"path": str(folder)}},
        },
    )
    time.sleep(0.5)  # a claim without a volume to be seen is looked at again in 15 s
    asked = {"volumeName": marks.name, "resources": {"requests": {"storage": "1Gi"}}}
    claims += "/persistentvolumeclaims"
    marks.client.create(claims, {"metadata": {"name": marks.name}, "spec": spec | asked})
    yield marks.name
    marks.client.delete(f"{claims}/{marks.name}")
    marks.client.delete(f"{volumes}/{marks.name}")


TEMPLATE = """
metadata:
  annotations: {lab: "7"}
spec:
  volumes:
    - name: fast
      emptyDir: {medium: Memory, sizeLimit: 64M}
  containers:
    - name: job
      env:
        - name: LAB
          valueFrom: {fieldRef: {fieldPath: "metadata.annotations['lab']"}}
      volumeMounts:
        - {name: fast, mountPath: /fast}
"""
SNAKEFILE = """
rule all:
    input: "a.txt"
rule a:
    output: "a.txt"
    resources:
        node_selector="LABEL=yes",
        volume="pvc:CLAIM:/ref:ro",
        spot="never",
    shell: "stat -f -c %T /fast > {output}; echo $LAB >> {output}; cat /ref/genome.txt >> {output}"
"""


def test_options_a_template_and_resources_reach_the_pod(
    project: Project, marks: Marks, claim: str, cluster: ClusterInfo
) -> None:
    rules = SNAKEFILE.replace("LABEL", marks.label).replace("CLAIM", claim)
    project.write({"Snakefile": rules, "t.yaml": TEMPLATE})
    done = project.run(
        "--pod-template=t.yaml", f"--priority-class={marks.name}",
        "--toleration=lab:NoSchedule", f"--node-selector={marks.label}=no",
    )  # fmt: skip
    assert done.code == 0, done.text
    assert project.get("a.txt") == "tmpfs\n7\nACGT\n"
    assert objects_left(cluster) == []


def test_what_the_cluster_or_a_rule_cannot_have_is_told_before_anything_is_submitted(
    project: Project, cluster: ClusterInfo
) -> None:
    rule = 'rule a:\n    output: "a.txt"\n    resources: {}\n    shell: "touch {{output}}"\n'
    project.write({"Snakefile": rule.format('spot="maybe"'), "t.yaml": "hostnam: x\n"})
    absent = project.run("--priority-class=absent", "--pod-template=t.yaml")
    assert absent.code == 3
    assert 'unknown field "spec.hostnam"' in absent.err
    bad = project.run("--dry-run")
    assert bad.code == 2
    assert "The resource spot of rule 'a' is 'maybe', but must be require" in bad.err
    project.write({"Snakefile": rule.format('priority_class="absent"')})
    unknown = project.run()
    assert unknown.code == 3
    assert "the pods of rule 'a': forbidden: no PriorityClass with name absent" in unknown.err
    project.write({"Snakefile": rule.format("mem_mb=5_000_000")})
    large = project.run()
    assert large.code == 3, "also where other rules could run first"
    said = "No node is large enough for the pod: it asks for 5000000 MB"
    assert f"Rule 'a' can never run. {said}" in large.err
    assert objects_left(cluster) == []
    going_on = project.run("--keep-going")
    assert going_on.code == 1 and said in going_on.out
