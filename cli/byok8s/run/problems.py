"""Collects everything that is wrong, so that one attempt shows all that is to be put right."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from byok8s.exceptions import Byok8sError, EnvironmentNotReady, SettingsError

T = TypeVar("T")


class Problems:
    """What several checks found."""

    def __init__(self) -> None:
        self._found: list[Byok8sError] = []

    def of(self, check: Callable[[], T]) -> T | None:
        """The check's result, or None when it found a problem."""
        try:
            return check()
        except (SettingsError, EnvironmentNotReady) as error:
            self._found.append(error)
            return None

    def tell(self) -> None:
        """Raise one error with a line for every problem, bad usage and bad files first."""
        problems = sorted(self._found, key=lambda error: error.exit_code)
        if problems:
            lines = dict.fromkeys(str(problem) for problem in problems)
            raise type(problems[0])("\n".join(lines)) from problems[0]
