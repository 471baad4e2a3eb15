"""Reads the news that a bundle writes into its pod's log."""

from __future__ import annotations

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
    batch: BatchSystem, pod: str, tell: Callable[[Any], None], stop: threading.Event, skip: int = 0
) -> None:
    """Tell a bundle's news but for the first `skip`, in a thread of its own, until its log ends."""
    arguments = (batch, pod, tell, stop, skip)
    threading.Thread(target=_follow, args=arguments, name=f"byok8s-{pod}", daemon=True).start()


def _follow(
    batch: BatchSystem, pod: str, tell: Callable[[Any], None], stop: threading.Event, skip: int
) -> None:
    from byok8s.batch import ApiError

    refusals = 0
    news = _Unheard(pod, skip)
    while not stop.wait(_AGAIN_SECONDS):
        try:
            with batch.follow(pod, silence=_SILENCE_SECONDS) as lines:
                tell(Heard(pod))
                if news.pass_on(lines, tell):
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


class _Unheard:
    """A log is read from its first line again after a break; each piece of news is told once.

    A job may go back and forth between a pod and its leader, so that old news would be taken for
    new ones.
    """

    def __init__(self, pod: str, heard: int) -> None:
        self._pod = pod
        self._heard = heard

    def pass_on(self, lines: Any, tell: Callable[[Any], None]) -> bool:
        """Whether the bundle told of its own end."""
        number = 0
        for line in lines:
            if not line.startswith(NEWS):
                continue
            try:
                fields = json.loads(line.removeprefix(NEWS))
            except ValueError:  # the rest of the line was cut off; it comes again
                continue
            number += 1
            if number > self._heard:
                self._heard = number
                tell(News(self._pod, fields))
            if "closing" in fields:
                return True
        return False
