"""Where pods run, from the command line to the API server's check, and from rules to pods."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from byok8s.batch import BatchSystem, KubeClient, RunIdentity
from byok8s.batch.placement import Placement, Spot, Toleration, Volume
from byok8s.batch.rehearsal import rehearse, sample_pod
from byok8s.exceptions import ClusterError, SettingsError
from byok8s.run.placement import read_placement
from byok8s.settings import PlacementSettings
from byok8s.workflow.resources import (
    check_rules,
    placement_of,
    refuse_what_never_fits,
    rehearse_rules,
)
from snakemake.common.tbdstring import TBDString
from snakemake.resources import Resources
from support.fakeapi import Api, Asked, Says, kubeconfig, refusal, serve


def settings(**told: Any) -> PlacementSettings:
    return PlacementSettings(**told)


# --- the options


def test_every_option_reaches_the_pod(folder: Path) -> None:
    Path("t.yaml").write_text("metadata: {annotations: {lab: '7'}}\nspec: {hostname: h}\n")
    placement = read_placement(
        settings(
            spot="prefer",
            node_selector=("disk=ssd", "zone in (a,b)"),
            node_preference=("fast:5",),
            toleration=("lab=genomics:NoSchedule", "more"),
            priority_class="high",
            kueue_queue="lab",
            runtime_class="gvisor",
            service_account="reader",
            image_pull_secret=("one", "two"),
            volume=("pvc:refs:/ref:ro", "host:/data:/data"),
            pod_template=Path("t.yaml"),
            allow_privileged=True,
        )
    )
    pod = sample_pod(placement, "image")
    spec = pod["spec"]
    assert pod["metadata"]["annotations"]["lab"] == "7"
    assert pod["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "lab"
    assert spec["hostname"] == "h"
    assert spec["nodeSelector"] == {"disk": "ssd"}
    assert [t["key"] for t in spec["tolerations"][:2]] == ["lab", "more"]
    affinity = spec["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"][0]["values"] == ["a", "b"]
    assert affinity["preferredDuringSchedulingIgnoredDuringExecution"][0]["weight"] == 5
    assert spec["priorityClassName"] == "high"
    assert spec["runtimeClassName"] == "gvisor"
    assert spec["serviceAccountName"] == "reader"
    assert spec["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]
    assert {"name": "volume-2", "hostPath": {"path": "/data"}} in spec["volumes"]


def test_nothing_said_is_no_placement() -> None:
    assert read_placement(settings()) == Placement()


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"spot": "maybe"}, "--spot is 'maybe', but must be require, prefer or never"),
        ({"toleration": ("a", "=b")}, "--toleration is 'a,=b', but must be taints"),
        ({"kueue_queue": "Lab"}, "--queue is 'Lab', but must be the name of a LocalQueue"),
        ({"volume": ("host:/a:/b",)}, "allow it with --allow-privileged"),
        ({"pod_template": Path("no.yaml")}, "The pod template 'no.yaml' is not there"),
    ],
)
def test_bad_options(folder: Path, told: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_placement(settings(**told))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("spec:\n  hostname: h\n   x: 1\n", "'t.yaml' is not valid YAML"),
        ("spec:\n  hostNetwork: yes\n", "(line 2, column 16)"),
        ("{", "'t.yaml' is not valid YAML"),
        ("spec: {restartPolicy: Always}\n", "'t.yaml': spec.restartPolicy may not be set"),
        (
            "hostNetwork: true\nhostPID: true\n",
            "'t.yaml' goes below Pod Security 'restricted' with spec.hostNetwork, spec.hostPID",
        ),
    ],
)
def test_bad_templates(folder: Path, text: str, words: str) -> None:
    Path("t.yaml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        read_placement(settings(pod_template=Path("t.yaml")))
    assert words in str(caught.value)


def test_a_template_may_go_lower_when_that_is_allowed(folder: Path) -> None:
    Path("t.json").write_text('{"hostNetwork": true}')
    placement = read_placement(settings(pod_template=Path("t.json"), allow_privileged=True))
    assert sample_pod(placement, "image")["spec"]["hostNetwork"] is True


# --- what the cluster says


@pytest.fixture
def api() -> Any:
    with serve() as api:
        yield api


@pytest.fixture
def client(api: Api, tmp_path: Path) -> KubeClient:
    return KubeClient.load(kubeconfig(tmp_path / "config", api.url))


HIGH = Placement(priority_class="high")
QUEUED = Placement(queue="lab")


def test_the_api_server_checks_a_pod_that_is_not_made(api: Api, client: KubeClient) -> None:
    rehearse(client, HIGH, "image", "this run")
    (asked,) = api.asked
    assert (asked.method, asked.path) == ("POST", "/api/v1/namespaces/lab/pods")
    assert asked.query == {"dryRun": "All", "fieldValidation": "Strict"}
    assert asked.body["spec"]["priorityClassName"] == "high"
    assert "ownerReferences" not in asked.body["metadata"]


def test_without_a_placement_nothing_is_asked(api: Api, client: KubeClient) -> None:
    rehearse(client, Placement(), "image", "this run")
    assert api.asked == []


def test_what_the_api_server_refuses_is_told_in_its_words(api: Api, client: KubeClient) -> None:
    said = 'pods "byok8s-check-check-1" is forbidden: no PriorityClass with name high was found'
    api.answer = lambda _: refusal(403, "Forbidden", said)
    with pytest.raises(ClusterError, match="no PriorityClass with name high was found; correct"):
        rehearse(client, HIGH, "image", "this run")


def test_a_quota_that_is_full_now_is_no_mistake(api: Api, client: KubeClient) -> None:
    said = (
        'pods "x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3'
    )
    api.answer = lambda _: refusal(403, "Forbidden", said)
    rehearse(client, HIGH, "image", "this run")


def kueue(*, installed: bool = True, queue: bool = True, managed: bool = True) -> Any:
    missing = refusal(404, "NotFound", "not found")

    def answer(asked: Asked) -> Says:
        if asked.path == "/apis/kueue.x-k8s.io":
            version = {"preferredVersion": {"groupVersion": "kueue.x-k8s.io/v1beta1"}}
            return Says(version) if installed else missing
        if asked.path == "/apis/kueue.x-k8s.io/v1beta1/namespaces/lab/localqueues/lab":
            return Says() if queue else missing
        labels = {"kueue.x-k8s.io/managed": "true"} if managed else {}
        return Says({"metadata": {"labels": labels}})

    return answer


def test_a_queue_that_admits_pods(api: Api, client: KubeClient) -> None:
    api.answer = kueue()
    rehearse(client, QUEUED, "image", "this run")
    assert len(api.asked) == 3


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (kueue(installed=False), "The cluster has no Kueue, so the queue 'lab' cannot be there"),
        (kueue(queue=False), "Namespace 'lab' has no LocalQueue 'lab'"),
        (kueue(managed=False), "Kueue leaves pods in namespace 'lab' alone"),
    ],
)
def test_a_queue_that_would_never_admit_a_pod(
    api: Api, client: KubeClient, answer: Callable[[Asked], Says], words: str
) -> None:
    api.answer = answer
    with pytest.raises(ClusterError) as caught:
        rehearse(client, QUEUED, "image", "this run")
    assert words in str(caught.value)


# --- the rules


def job(rule: str = "map", **resources: Any) -> Any:
    return SimpleNamespace(
        rule=SimpleNamespace(name=rule), resources=resources, is_group=lambda: False
    )


def test_a_rule_says_otherwise() -> None:
    defaults = Placement(spot=Spot.PREFER, tolerations=(Toleration("lab"),))
    told = placement_of(
        job(
            spot="never",
            gpu=1,
            gpu_manufacturer="amd",
            toleration="gpu-nodes",
            volume="pvc:refs:/ref",
            mem_mb=100,
            tmpdir="/tmp",
        ),
        defaults,
    )
    assert told == Placement(
        spot=Spot.NEVER,
        gpus=1,
        gpu_manufacturer="amd",
        tolerations=(Toleration("lab"), Toleration("gpu-nodes")),
        volumes=(Volume("pvc", "refs", "/ref"),),
    )
    assert placement_of(job(mem_mb=100), defaults) is defaults
    assert placement_of(job(gpu=TBDString()), defaults) is defaults


def test_a_bad_resource_names_its_rule() -> None:
    words = "The resource spot of rule 'map' is '5', but must be require, prefer or never."
    with pytest.raises(SettingsError, match=words):
        placement_of(job(spot=5), Placement())
    group = SimpleNamespace(rules=["b", "a", "b"], resources={"gpu": "x"}, is_group=lambda: True)
    with pytest.raises(SettingsError, match=r"of rule 'a\+b'"):
        placement_of(group, Placement())


def test_rules_are_checked_before_there_are_jobs() -> None:
    def rule(**resources: Any) -> Any:
        return SimpleNamespace(name="map", resources=Resources.from_mapping(resources))

    good = rule(spot="never", gpu=lambda wildcards: 1, mem_mb=5)
    check_rules([good], Placement())
    with pytest.raises(SettingsError, match="The resource volume of rule 'map' mounts a folder"):
        check_rules([good, rule(volume="host:/data:/data")], Placement())
    check_rules([rule(volume="host:/data:/data")], Placement(privileged=True))


def test_what_rules_with_jobs_say_is_rehearsed_once_each(api: Api, client: KubeClient) -> None:
    def rule(name: str, **resources: Any) -> Any:
        return SimpleNamespace(name=name, resources=Resources.from_mapping(resources))

    rules = [
        rule("plain", mem_mb=5),
        rule("high", priority_class="high"),
        rule("as_high", priority_class="high", gpu=lambda wildcards: 1),
        rule("here", priority_class="absent"),
        rule("low", priority_class="low"),
    ]
    workflow = SimpleNamespace(
        dag=SimpleNamespace(needrun_jobs=lambda: [SimpleNamespace(rule=each) for each in rules]),
        is_local=lambda rule: rule.name == "here",
    )

    def answer(asked: Asked) -> Says:
        if asked.body["spec"]["priorityClassName"] == "high":
            return Says()
        said = 'pods "byok8s-check-x-1" is forbidden: no PriorityClass with name low was found'
        return refusal(403, "Forbidden", said)

    api.answer = answer
    words = "the pods of rule 'low': forbidden: no PriorityClass with name low was found; correct"
    with pytest.raises(ClusterError, match=words):
        rehearse_rules(workflow, client, Placement(), "image")
    assert len(api.asked) == 2


@pytest.mark.parametrize(("keep_going", "threads"), [(False, None), (True, None), (False, 2)])
def test_case_4_rules_that_are_too_large_are_refused_before_the_first_pod(
    api: Api, client: KubeClient, keep_going: bool, threads: int | None
) -> None:
    def rule(name: str, **resources: Any) -> Any:
        return SimpleNamespace(name=name, resources=Resources.from_mapping(resources))

    rules = [
        rule("small", _cores=2, mem_mb=500),
        rule("wide", _cores=64),
        rule("high", mem_mb=5_000_000, _cores=1),
        rule("here", _cores=64),
        rule("later", _cores=lambda wildcards: 64, mem_mb=lambda wildcards: 10**9),
        rule("gpu", gpu=1),
    ]
    workflow = SimpleNamespace(
        dag=SimpleNamespace(needrun_jobs=lambda: [SimpleNamespace(rule=each) for each in rules]),
        is_local=lambda rule: rule.name == "here",
        execution_settings=SimpleNamespace(keep_going=keep_going),
        resource_settings=SimpleNamespace(max_threads=threads),
    )

    def answer(asked: Asked) -> Says:
        if asked.path.endswith("/cluster-autoscaler-status"):
            return refusal(404, "NotFound", "there is none")
        size = {"cpu": "2", "memory": "8Gi"}
        return Says({"items": [{"spec": {}, "status": {"allocatable": size}}], "groups": []})

    api.answer = answer
    batch = BatchSystem(client, RunIdentity("run", "ada"))
    if keep_going:  # those jobs fail when their turn comes, and the others run
        refuse_what_never_fits(workflow, batch, Placement())
        return
    with pytest.raises(ClusterError) as caught:
        refuse_what_never_fits(workflow, batch, Placement())
    lines = str(caught.value).splitlines()
    assert [line.partition("asks for ")[0] for line in lines] == [
        f"Rule '{name}' can never run. No node is large enough for the pod: it "
        for name in ("wide", "high", "gpu")
        if name != "wide" or not threads
    ]
    told = "ask for less (threads, or --max-threads for all rules)"
    assert (told in lines[0]) == (not threads)
