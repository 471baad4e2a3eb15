"""Reads the news that a bundle writes into its pod's log."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from byok8s.worker.spec import read_news

if TYPE_CHECKING:
    from byok8s.batch import BatchSystem

_AGAIN_SECONDS = 0.05
_KNOCKS_A_SECOND = 40  # at the doors of all pods together
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


class Follower:
    """Follows the logs of bundles, each in a thread of its own, and tells their news.

    A log can be read a little before the cluster tells that its container runs, so each is tried
    again and again: often while few pods start, and seldom while many do.
    """

    def __init__(
        self, batch: BatchSystem, tell: Callable[[Any], None], stop: threading.Event
    ) -> None:
        self._batch = batch
        self._tell = tell
        self._stop = stop
        self._lock = threading.Lock()
        self._knocking = 0  # logs that cannot be read yet

    def follow(self, pod: str, skip: int = 0) -> None:
        """Tell a bundle's news, but for the first `skip`, until its log ends."""
        arguments = (pod, _Unheard(pod, skip))
        name = f"byok8s-{pod}"
        threading.Thread(target=self._follow, args=arguments, name=name, daemon=True).start()

    def _follow(self, pod: str, news: _Unheard) -> None:
        from byok8s.batch import ApiError

        refusals = 0
        while (lines := self._open(pod)) is not None:
            heard = news.heard
            try:
                with lines:
                    self._tell(Heard(pod))
                    if news.pass_on(lines, self._tell):
                        return
            except ApiError:  # it was cut
                refusals = 0 if news.heard > heard else refusals + 1
            if refusals > _REFUSALS:
                self._tell(Deaf(pod))
                return

    def _open(self, pod: str) -> Any:
        """A bundle's log; None when it cannot be read, which is told, or the run has ended."""
        from byok8s.batch import ApiError

        refusals = 0
        with self._knocks():
            while not self._stop.wait(self._pause()):
                try:
                    return self._batch.follow(pod, silence=_SILENCE_SECONDS)
                except ApiError as error:
                    if error.status == 404:
                        return None
                    if error.status == 400:  # the container has not started yet
                        continue
                    refusals += 1
                    if error.status in (401, 403) or refusals > _REFUSALS:
                        self._tell(Deaf(pod))
                        return None
                    pause = random.uniform(0.5, 1.0) * min(5.0, 0.1 * 2**refusals)  # noqa: S311
                    self._stop.wait(pause + error.peace_seconds)
        return None

    @contextmanager
    def _knocks(self) -> Iterator[None]:
        with self._lock:
            self._knocking += 1
        try:
            yield
        finally:
            with self._lock:
                self._knocking -= 1

    def _pause(self) -> float:
        return max(_AGAIN_SECONDS, self._knocking / _KNOCKS_A_SECOND)


class _Unheard:
    """A log is read from its first line again after a break; each piece of news is told once.

    A job may go back and forth between a pod and its leader, so that old news would be taken for
    new ones.
    """

    def __init__(self, pod: str, heard: int) -> None:
        self._pod = pod
        self.heard = heard

    def pass_on(self, lines: Any, tell: Callable[[Any], None]) -> bool:
        """Whether the bundle told of its own end."""
        number = 0
        for line in lines:
            fields = read_news(line)
            if fields is None:  # what was cut off comes again
                continue
            number += 1
            if number > self.heard:
                self.heard = number
                tell(News(self._pod, fields))
            if "closing" in fields:
                return True
        return False
