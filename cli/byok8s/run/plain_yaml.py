"""YAML read as JSON values, where every reader of YAML agrees on the value.

YAML 1.1 (Snakemake's reader) and 1.2 give different values for some plain words: `no`, `010`,
`1_000`, `1e-5`. A wrong guess would change a workflow's results without a word, so these have to
be quoted or written as JSON would. Dates and times, for which JSON has no type, stay text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from byok8s.exceptions import SettingsError

DEEPEST = 100  # levels: far above any real file, and below what Snakemake and json can carry
_CORE = "tag:yaml.org,2002:"
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_NUMBER_IN_YAML_1_2 = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|0o[0-7]+|[-+]?\.(inf|Inf|INF)"
)


def parse_yaml(text: str, name: str) -> Any:
    """The JSON value of a YAML text; `name` says in errors where it comes from.

    Raises SettingsError, with line and column, for bad syntax, a key given twice, a word that
    YAML readers disagree about, and what JSON cannot hold.
    """
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_depth(yaml.parse(text, loader), name)
        node = yaml.compose(text, loader)
        return None if node is None else _Reader(name).value(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise SettingsError(f"{name} is not valid YAML: {error.problem}{where}.") from error
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise SettingsError(f"{name} is not valid YAML: {' '.join(str(error).split())}.") from error


def _check_depth(events: Iterable[Any], name: str) -> None:
    """Refuse deep nesting while parsing, before composing, which would overflow the C stack."""
    depth = 0
    for event in events:
        kind = type(event).__name__
        depth += kind.endswith(("SequenceStartEvent", "MappingStartEvent"))
        depth -= kind.endswith(("SequenceEndEvent", "MappingEndEvent"))
        if depth > DEEPEST:
            line = event.start_mark.line + 1
            raise SettingsError(f"{name} is nested more than {DEEPEST} deep (line {line}).")


class _Reader:
    """Turns PyYAML's nodes, which know their line and their YAML 1.1 type, into values."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._open: list[int] = []  # nodes that are being read, to notice one inside itself

    def value(self, node: Any) -> Any:
        kind = node.tag.removeprefix(_CORE)
        if kind not in ("map", "seq"):
            return self._scalar(node, kind)
        if id(node) in self._open:
            self._refuse(node, "a value that holds itself has no JSON equivalent")
        self._open.append(id(node))
        value = self._mapping(node) if kind == "map" else [self.value(item) for item in node.value]
        self._open.pop()
        return value

    def _mapping(self, node: Any) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _CORE + "merge":
                merged = self._merge(value_node) | merged
                continue
            key = self.value(key_node)
            if not isinstance(key, str):
                self._refuse(key_node, "a key that is not text has no JSON equivalent; quote it")
            if key in found:
                self._refuse(key_node, f"the key '{key}' is given twice; keep one of them")
            found[key] = self.value(value_node)
        return merged | found

    def _merge(self, node: Any) -> dict[str, Any]:
        """The mappings after `<<:`, of which the first that has a key wins."""
        value = self.value(node)
        merged: dict[str, Any] = {}
        for source in value if isinstance(value, list) else [value]:
            if not isinstance(source, dict):
                self._refuse(node, "'<<' takes a mapping or a list of mappings")
            merged = source | merged
        return merged

    def _scalar(self, node: Any, kind: str) -> Any:
        text: str = node.value
        plain = not getattr(node, "style", None)
        if kind in ("timestamp", "value", "merge"):
            return text
        if kind == "str":
            if plain and _NUMBER_IN_YAML_1_2.fullmatch(text):
                self._ambiguous(node)
            return text
        if kind == "null":
            return None
        if kind == "bool":
            return self._bool(node)
        if kind in ("int", "float"):
            return self._number(node, kind)
        return self._refuse(node, f"the type {node.tag} has no JSON equivalent; write it as text")

    def _bool(self, node: Any) -> bool:
        if node.value.lower() not in ("true", "false"):
            self._ambiguous(node)
        return bool(node.value.lower() == "true")

    def _number(self, node: Any, kind: str) -> Any:
        text: str = node.value
        if ":" in text:
            return text  # 12:30 is a time of day, in YAML 1.1 a number to the base of 60
        try:
            if kind == "float" and "_" not in text:
                return self._finite(node, float(text.replace(".inf", "inf").replace(".nan", "nan")))
            if _DECIMAL.fullmatch(text):
                return int(text)
        except ValueError:  # .Inf, .NaN, and more digits than Python reads
            self._refuse(node, f"{text:.40} is not a JSON number; use null, or quote it")
        if _HEXADECIMAL.fullmatch(text):
            return int(text, 16)
        return self._ambiguous(node)

    def _finite(self, node: Any, value: float) -> float:
        if not math.isfinite(value):
            self._refuse(node, f"{node.value} is not a JSON number; use null, or quote it")
        return value

    def _ambiguous(self, node: Any) -> NoReturn:
        self._refuse(
            node,
            f"'{node.value}' is not the same value to every YAML reader; put it in quotes for "
            "text, or write true, false or a plain number",
        )

    def _refuse(self, node: Any, problem: str) -> NoReturn:
        mark = node.start_mark
        raise SettingsError(
            f"{self._name}: {problem} (line {mark.line + 1}, column {mark.column + 1})."
        )
