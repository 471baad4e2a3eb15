"""JSON and YAML files as JSON values, unchanged, or one sentence with line and column.

A workflow computes with these values, so nothing is guessed and nothing is dropped: a key given
twice, a NaN or a word that YAML readers disagree about is an error (see plain_yaml for the last).
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from byok8s.exceptions import SettingsError
from byok8s.run.plain_yaml import DEEPEST, parse_yaml

# Longest first: the UTF-32 mark begins with the UTF-16 one.
_MARKS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


def read_values(path: Path) -> Any:
    """The JSON value in a JSON or YAML file; without a known suffix the content decides.

    Raises SettingsError with the file's name, line and column.
    """
    text = read_text(path)
    if not text.strip():
        raise SettingsError(f"'{path}' is empty; write {{}} for a file that sets nothing.")
    suffix = path.suffix.lower()
    looks_like_json = text.lstrip()[0] in "{["
    if suffix == ".json" or (suffix not in (".yaml", ".yml") and looks_like_json):
        return parse_json(text, f"'{path}'")
    return parse_yaml(text, f"'{path}'")


def read_text(path: Path) -> str:
    """A text file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark; raises SettingsError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"'{path}' cannot be read ({error.strerror}); check its permissions."
        ) from error
    if b"\x00" in data and not data.startswith(tuple(_MARKS)):
        raise SettingsError(f"'{path}' is a binary file; a JSON or YAML text file is expected.")
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, "replace")
        raise SettingsError(
            f"'{path}' is not {encoding.upper()} text ({_where(before, len(before))}); "
            "save it as UTF-8."
        ) from error


def parse_json(text: str, name: str) -> Any:
    """The value of a JSON text; `name` says in errors where it comes from.

    Raises SettingsError for bad syntax, a key given twice, and what JSON cannot hold.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in items:
            if key in found:
                raise SettingsError(_twice(text, name, key))
            found[key] = value
        return found

    def refuse(number: str) -> Any:
        where = _where(text, text.find(number))
        raise SettingsError(
            f"{name}: {number:.40} is not a JSON number ({where}); use null, or quote it."
        )

    def finite(number: str) -> float:
        value = float(number)
        return value if math.isfinite(value) else refuse(number)

    try:
        value = json.loads(text, object_pairs_hook=pairs, parse_constant=refuse, parse_float=finite)
    except json.JSONDecodeError as error:
        raise SettingsError(
            f"{name} is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})."
        ) from error
    except RecursionError as error:
        raise SettingsError(_too_deep(name)) from error
    except ValueError as error:  # Python's limit on the digits of an integer
        raise SettingsError(f"{name} holds a number with too many digits; quote it.") from error
    _check(value, name)
    return value


def _twice(text: str, name: str, key: str) -> str:
    found = re.finditer(re.escape(json.dumps(key, ensure_ascii=False)) + r"\s*:", text)
    lines = sorted({text.count("\n", 0, match.start()) + 1 for match in found})
    where = f" (line{'s' * (len(lines) > 1)} {', '.join(map(str, lines))})" if lines else ""
    return f"{name}: the key '{key}' is given twice{where}; keep one of them."


def _where(text: str, position: int) -> str:
    line = text.count("\n", 0, position) + 1
    return f"line {line}, column {position - text.rfind(chr(10), 0, position)}"


def _too_deep(name: str) -> str:
    return f"{name} is nested more than {DEEPEST} levels deep; flatten it."


def _check(value: Any, name: str, depth: int = 0) -> None:
    """Refuse what the parsers let through but a later reader could not take."""
    if depth > DEEPEST:
        raise SettingsError(_too_deep(name))
    if isinstance(value, dict):
        for key, item in value.items():
            _check(key, name, depth + 1)
            _check(item, name, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, name, depth + 1)
    elif isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise SettingsError(
            f"{name} holds half a surrogate pair (\\ud800 to \\udfff), which is no text; remove it."
        )
