"""fixcoredns.yml without a cluster: what it changes, and that nothing outdated is in it."""

from __future__ import annotations

from pathlib import Path

import yaml
from byok8s import cluster

ROOT = Path(__file__).parents[2]
FIX = ROOT / "fixcoredns.yml"
MANIFEST = Path(cluster.__file__).parent / "manifests/coredns.yaml"


def test_the_file_is_the_usual_corefile_with_named_upstream_servers():
    """Only `forward` differs from what a cluster has, so that nothing else is lost."""
    (fix,) = yaml.safe_load_all(FIX.read_text())
    usual = next(
        item for item in yaml.safe_load_all(MANIFEST.read_text()) if item["kind"] == "ConfigMap"
    )
    assert fix["metadata"] == usual["metadata"] == {"name": "coredns", "namespace": "kube-system"}
    lines = fix["data"]["Corefile"].splitlines(), usual["data"]["Corefile"].splitlines()
    different = [pair for pair in zip(*lines, strict=True) if pair[0] != pair[1]]
    assert different == [
        ("    forward . 1.1.1.1 8.8.8.8 {", "    forward . /etc/resolv.conf {"),
    ]


def test_no_directive_that_coredns_has_dropped_is_in_the_file():
    """`proxy` went with 1.5 and `upstream` with 1.7: either stops CoreDNS 1.11 from starting."""
    words = {line.split()[0] for line in corefile() if line.strip()}
    assert not words & {"proxy", "upstream", "federation"}


def test_the_header_says_what_it_is_for_and_how_to_go_back():
    text = FIX.read_text()
    for part in ("SYMPTOM", "CAUSE", "TO EDIT", "TO APPLY", "TO CHECK", "TO UNDO"):
        assert f"# {part}" in text
    assert '[FATAL] plugin/loop: Loop (127.0.0.1:46779 -> :53) detected for zone "."' in text


def corefile() -> list[str]:
    text: str = yaml.safe_load(FIX.read_text())["data"]["Corefile"]
    return text.splitlines()
