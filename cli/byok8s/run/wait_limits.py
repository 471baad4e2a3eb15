"""How long a job may wait for what: `--wait-limit NAME=TIME`."""

from __future__ import annotations

import re

from byok8s.exceptions import SettingsError

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_wait_limit(text: str) -> tuple[str, float | None]:
    """The field of `byok8s.batch.Limits` and the seconds of `NAME=TIME`; None: for ever.

    TIME is a number with s, m, h or d, or `never`. Raises SettingsError, which lists the names.
    """
    from dataclasses import fields

    from byok8s.batch.waits import Limits

    name, _, time = text.partition("=")
    known = [field.name for field in fields(Limits)]
    field = name.strip().replace("-", "_")
    if field not in known:
        names = ", ".join(known).replace("_", "-")
        raise SettingsError(f"--wait-limit '{text}' must be NAME=TIME, and NAME one of {names}.")
    if time.strip() == "never":
        return field, None
    seconds = parse_seconds(time)
    if seconds is None:
        raise SettingsError(
            f"--wait-limit '{text}' has no time; write it as {name}=90s, 10m, 2h, 1d or never."
        )
    return field, seconds


def parse_seconds(text: str) -> float | None:
    """The seconds of a number with s, m, h or d; None when it is no such time."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip(), re.ASCII)
    return float(found[1]) * _UNITS[found[2]] if found else None
