"""How long the jobs of each rule take: from this run, and from earlier ones' records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

_UNKNOWN = 1.0  # seconds, of a rule that nothing is known of
_WEIGHT = 0.2  # of the newest job; a rule's jobs differ, and rules change


class Durations:
    """Seconds per rule. A rule that nothing is known of has None."""

    def __init__(self, text: str = "") -> None:
        """`text` is what an earlier run's `dumps` gave; anything else counts as nothing."""
        self._seconds: dict[str, float] = {}
        self._at_least: dict[str, float] = {}
        self._longest: dict[str, float] = {}  # of this run
        self._changed = False
        try:
            known = json.loads(text or "{}")
            self._seconds = {str(rule): float(seconds) for rule, seconds in known.items()}
        except (ValueError, TypeError, AttributeError):
            pass

    def expected(self, rule: str) -> float | None:
        """Seconds that a job of the rule is likely to take."""
        known, least = self._seconds.get(rule), self._at_least.get(rule)
        if known is None or least is None:
            return least if known is None else known
        return max(known, least)

    def is_sure(self, rule: str) -> bool:
        """Whether jobs of the rule have ended, and none since is known to take longer."""
        return rule in self._seconds and rule not in self._at_least

    def longest(self, rule: str) -> float | None:
        """Seconds of the rule's longest job in this run, or that are likely, if more."""
        expected = self.expected(rule)
        return None if expected is None else max(expected, self._longest.get(rule, 0.0))

    def work(self, rules: Iterable[str]) -> float:
        """Seconds that jobs of these rules are likely to take, one after the other."""
        known = map(self.expected, rules)
        return sum(_UNKNOWN if seconds is None else max(0.01, seconds) for seconds in known)

    def learn(self, rule: str, seconds: float) -> None:
        """A job of the rule took so long."""
        old = self._seconds.get(rule)
        self._seconds[rule] = seconds if old is None else old + _WEIGHT * (seconds - old)
        self._at_least.pop(rule, None)
        self._longest[rule] = max(seconds, self._longest.get(rule, 0.0))
        self._changed = True

    def takes_longer(self, rule: str, seconds: float) -> None:
        """A job of the rule is still at work after so long."""
        self._at_least[rule] = max(seconds, self._at_least.get(rule, 0.0))

    def dumps(self) -> str | None:
        """For the next run; None when nothing was learnt."""
        if not self._changed:
            return None
        rounded: Mapping[str, float] = {r: round(s, 3) for r, s in self._seconds.items()}
        return json.dumps(rounded, indent=0, sort_keys=True)
