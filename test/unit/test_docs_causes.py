"""What docs/causes.md says of causes and tests is so."""

from __future__ import annotations

import re
from pathlib import Path

from byok8s.batch import Cause

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/causes.md").read_text()
TABLE, _, MISSING = PAGE.partition("## What could not be brought about here")


def test_every_cause_was_brought_about_or_is_named_as_missing() -> None:
    shown = set(re.findall(r"^\| `(\w+)` \|", TABLE, re.MULTILINE))
    missing = set(re.findall(r"`(\w+)`", MISSING))
    assert shown <= set(Cause) and missing <= set(Cause)
    assert shown | missing == set(Cause)


def test_the_tests_and_recordings_are_there() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "test").rglob("test_*.py"))
    names = set(re.findall(r"`(test_\w+)`", TABLE))
    assert len(names) > 8
    for name in names:
        assert f"def {name}(" in sources
    for name in re.findall(r"recording `(\w+)`", TABLE):
        assert (ROOT / f"test/unit/batch/statuses/{name}.json").exists()
