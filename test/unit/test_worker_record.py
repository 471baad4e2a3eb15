"""Records are what frozen dataclasses are, and what a pod waits for is little."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from byok8s.worker.record import Record


class Point(Record):
    x: int
    y: int = 2
    names: dict[str, int] = {}  # noqa: RUF012


class Loose(Record, frozen=False):
    x: int


def test_values_are_given_by_place_or_name_and_defaults_are_made_anew() -> None:
    one, two = Point(1), Point(x=1, y=2)
    assert (one.x, one.y, one.names) == (1, 2, {})
    assert one == two and one != Point(3) and one != Loose(1)
    one.names["a"] = 1
    assert two.names == {} and Point(1).names == {}
    assert repr(two) == "Point(x=1, y=2, names={})"
    assert two.changed(y=5) == Point(1, 5)


@pytest.mark.parametrize(
    ("values", "named"),
    [((), {}), ((1, 2, {}, 4), {}), ((1,), {"x": 1}), ((1,), {"z": 1})],
    ids=["missing", "too many", "twice", "unknown"],
)
def test_other_values_are_refused(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="Point takes x, y, names"):
        Point(*values, **named)


def test_only_what_says_so_can_be_changed() -> None:
    with pytest.raises(AttributeError, match="Point is frozen"):
        Point(1).x = 2  # type: ignore[misc]
    loose = Loose(1)
    loose.x = 2
    assert loose == Loose(2)
    assert hash(Loose(2)) == hash(loose)


def test_a_worker_imports_little() -> None:
    heavy = ["dataclasses", "inspect", "logging", "concurrent.futures", "tempfile", "secrets"]
    code = (
        "import sys, byok8s.worker.__main__\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    for module in ("", "import byok8s.worker.bundle; "):
        done = subprocess.run(
            [sys.executable, "-P", "-c", module + code], check=True, capture_output=True, text=True
        )
        assert done.stdout.strip() == "[]"
