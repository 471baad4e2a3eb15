"""Placements as people write them: in options, and in a rule's resources."""

from __future__ import annotations

from typing import Any

import pytest
from byok8s.batch.placement import ANYWHERE, NodeLabel, Placement, Spot, Toleration, Volume
from byok8s.batch.placement_text import NAMES, override
from byok8s.exceptions import SettingsError


def read(base: Placement = ANYWHERE, **wishes: Any) -> Placement:
    return override(base, wishes, lambda name: f"--{name}")


def refusal(base: Placement = ANYWHERE, **wishes: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        read(base, **wishes)
    return str(caught.value)


GOOD: list[tuple[str, Any, dict[str, Any]]] = [
    ("spot", "require", {"spot": Spot.REQUIRE}),
    ("spot", "prefer", {"spot": Spot.PREFER}),
    ("spot", "never", {"spot": Spot.NEVER}),
    ("node_selector", "disk=ssd", {"node_selector": (("disk", "ssd"),)}),
    ("node_selector", "a==b, c=", {"node_selector": (("a", "b"), ("c", ""))}),
    (
        "node_selector",
        "example.org/zone in (a, b),disk!=hdd,kind notin (x,y),gpu,!old",
        {
            "required": (NodeLabel("example.org/zone", ("a", "b")), NodeLabel("gpu")),
            "prohibited": (
                NodeLabel("disk", ("hdd",)),
                NodeLabel("kind", ("x", "y")),
                NodeLabel("old"),
            ),
        },
    ),
    (
        "node_preference",
        "disk=ssd:50,zone in (a,b),fast",
        {
            "preferred": (
                NodeLabel("disk", ("ssd",), 50),
                NodeLabel("zone", ("a", "b")),
                NodeLabel("fast"),
            )
        },
    ),
    (
        "machine_type",
        "n2-standard-8",
        {"node_selector": (("node.kubernetes.io/instance-type", "n2-standard-8"),)},
    ),
    (
        "toleration",
        "a, b=c, d:NoExecute, example.org/e=f:NoSchedule",
        {
            "tolerations": (
                Toleration("a"),
                Toleration("b", "c"),
                Toleration("d", None, "NoExecute"),
                Toleration("example.org/e", "f", "NoSchedule"),
            )
        },
    ),
    ("gpu", 2, {"gpus": 2}),
    ("gpu", "2", {"gpus": 2}),
    ("gpu", 0, {}),
    ("gpu_manufacturer", "AMD", {"gpu_manufacturer": "amd"}),
    ("gpu_model", "Tesla-T4", {"gpu_model": "Tesla-T4"}),
    ("priority_class", "high", {"priority_class": "high"}),
    ("kueue_queue", "lab", {"queue": "lab"}),
    ("runtime_class", "gvisor", {"runtime_class": "gvisor"}),
    ("service_account", "reader", {"service_account": "reader"}),
    ("image_pull_secret", "a,b", {"pull_secrets": ("a", "b")}),
    (
        "volume",
        "pvc:refs:/ref:ro, ephemeral:1.5Ti@gp3:/work/, ephemeral:5Gi:/tmp",
        {
            "volumes": (
                Volume("pvc", "refs", "/ref", read_only=True),
                Volume("ephemeral", "1.5Ti", "/work", storage_class="gp3"),
                Volume("ephemeral", "5Gi", "/tmp"),
            )
        },
    ),
]


@pytest.mark.parametrize(("name", "text", "fields"), GOOD)
def test_a_word_is_read(name: str, text: Any, fields: dict[str, Any]):
    assert read(**{name: text}) == Placement(**fields)


def test_every_word_is_among_those_tested():
    assert {name for name, _, _ in GOOD} == set(NAMES)


def test_an_empty_text_takes_away_what_was_there():
    for name, text, _ in GOOD:
        assert read(read(**{name: text}), **{name: ""}) == Placement(), name


def test_a_rule_replaces_what_was_said_of_the_same_label_and_adds_the_rest():
    base = read(
        node_selector="disk=ssd,zone in (a,b),!old,kind=x",
        node_preference="disk=ssd:50,fast",
        toleration="lab=a",
        image_pull_secret="one",
        volume="pvc:refs:/ref",
        spot="prefer",
    )
    told = read(
        base,
        node_selector="zone=c,old=yes,!kind",
        node_preference="disk=hdd",
        toleration="lab=a,more",
        image_pull_secret="two",
        volume="pvc:other:/ref,pvc:data:/data",
        spot="never",
    )
    assert told.node_selector == (("disk", "ssd"), ("zone", "c"), ("old", "yes"))
    assert told.required == ()
    assert told.prohibited == (NodeLabel("kind"),)
    assert told.preferred == (NodeLabel("fast"), NodeLabel("disk", ("hdd",)))
    assert told.tolerations == (Toleration("lab", "a"), Toleration("more"))
    assert told.pull_secrets == ("one", "two")
    assert told.volumes == (Volume("pvc", "other", "/ref"), Volume("pvc", "data", "/data"))
    assert told.spot is Spot.NEVER


BAD = [
    ("spot", "maybe", "--spot is 'maybe', but must be require, prefer or never."),
    ("node_selector", "a=b c", "but must be labels such as disk=ssd"),
    ("node_selector", "a=b,a in (c)", "of which none is named twice"),
    ("node_selector", "zone in ()", "but must be labels"),
    ("node_selector", "zone in a", "but must be labels"),
    ("node_selector", f"a={'x' * 64}", "but must be labels"),
    ("node_selector", "-a=b", "but must be labels"),
    ("node_preference", "disk=ssd:0", "a weight of 1 to 100"),
    ("node_preference", "disk=ssd:101", "a weight of 1 to 100"),
    ("node_preference", "!disk", "a weight of 1 to 100"),
    ("machine_type", "n2 standard", "a cloud's type of machine"),
    ("toleration", "a=b:Sometimes", "where EFFECT is NoSchedule"),
    ("toleration", "=b", "taints as KEY[=VALUE][:EFFECT]"),
    ("gpu", -1, "a number of GPUs"),
    ("gpu", True, "a number of GPUs"),
    ("gpu", "many", "a number of GPUs"),
    ("gpu_model", "Tesla T4", "as a label of the nodes says it"),
    ("priority_class", "High", "the name of a PriorityClass"),
    ("kueue_queue", "a/b", "the name of a LocalQueue"),
    ("runtime_class", "-", "the name of a RuntimeClass"),
    ("service_account", "me@lab", "the name of a ServiceAccount"),
    ("image_pull_secret", "a,B", "names of Secrets"),
    ("volume", "refs:/ref", "volumes as pvc:CLAIM:/PATH[:ro]"),
    ("volume", "pvc:refs:ref", "volumes as pvc:CLAIM:/PATH[:ro]"),
    ("volume", "pvc:refs:/", "volumes as pvc:CLAIM:/PATH[:ro]"),
    ("volume", "pvc:refs:/work", "jobs would write over each other's files in /work"),
    ("volume", "pvc:refs:/var/run/byok8s", "byok8s's own"),
    ("volume", "pvc:a:/ref,pvc:b:/ref", "no two have the same path"),
    ("volume", "ephemeral:much:/scratch", "as ephemeral:100Gi:/PATH"),
    ("volume", "ephemeral:1Gi:/scratch:ro", "to be written to"),
    ("volume", "host:data:/data", "host:/FOLDER:/PATH"),
]


@pytest.mark.parametrize(("name", "text", "words"), BAD)
def test_a_bad_word_is_refused_in_one_sentence(name: str, text: Any, words: str):
    told = refusal(**{name: text})
    assert told.startswith(f"--{name} is '{text}', but must be ")
    assert words in told
    assert told.endswith(".") and "\n" not in told


def test_case_4_an_unknown_accelerator_is_refused():
    assert "but must be nvidia or amd" in refusal(gpu=1, gpu_manufacturer="cerebras")


def test_a_folder_of_the_node_has_to_be_allowed():
    assert "allow it with --allow-privileged" in refusal(volume="host:/data:/data:ro")
    allowed = read(Placement(privileged=True), volume="host:/data:/data:ro")
    assert allowed.volumes == (Volume("host", "/data", "/data", read_only=True),)
