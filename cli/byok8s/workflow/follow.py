"""Reads the news that a bundle writes into its pod's log."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from byok8s.worker.spec import NEWS

if TYPE_CHECKING:
    from byok8s.batch import BatchSystem

_AGAIN_SECONDS = 0.15
_SILENCE_SECONDS = 30.0  # the worker says something every ten
_REFUSALS = 20  # before a log counts as one that cannot be read


@dataclass(frozen=True)
class News:
    """What a bundle tells: `fields` are those of its line."""

    pod: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class Heard:
    """A bundle's log can be read."""

    pod: str


@dataclass(frozen=True)
class Deaf:
    """A bundle's log cannot be read; its end tells everything."""

    pod: str


def follow(
    batch: BatchSystem, pod: str, tell: Callable[[Any], None], stop: threading.Event
) -> None:
    """Tell a bundle's news, in a thread of its own, until its log ends."""
    arguments = (batch, pod, tell, stop)
    threading.Thread(target=_follow, args=arguments, name=f"byok8s-{pod}", daemon=True).start()


def _follow(
    batch: BatchSystem, pod: str, tell: Callable[[Any], None], stop: threading.Event
) -> None:
    from byok8s.batch import ApiError

    refusals = 0
    while not stop.wait(_AGAIN_SECONDS):
        try:
            with batch.follow(pod, silence=_SILENCE_SECONDS) as lines:
                tell(Heard(pod))
                if _pass_on(lines, pod, tell):
                    return
        except ApiError as error:
            if error.status == 404:
                return
            if error.status == 400:  # the container has not started yet
                continue
            refusals += 1
            if error.status in (401, 403) or refusals > _REFUSALS:
                tell(Deaf(pod))
                return
            time.sleep(min(5.0, 0.1 * 2**refusals))


def _pass_on(lines: Any, pod: str, tell: Callable[[Any], None]) -> bool:
    """Whether the bundle told of its own end."""
    for line in lines:
        if not line.startswith(NEWS):
            continue
        with contextlib.suppress(ValueError):  # a line that was cut
            fields = json.loads(line.removeprefix(NEWS))
            tell(News(pod, fields))
            if "closing" in fields:
                return True
    return False
