"""Finds the Snakefile, the workflow file and the parameter file, and reads the two latter."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from byok8s.exceptions import SettingsError
from byok8s.run.parsing import parse_json, read_values
from byok8s.run.problems import Problems
from byok8s.settings import RunSettings

SUFFIXES = ("", ".json", ".yaml", ".yml")
TARGET_KEY = "workflow_target"


@dataclass(frozen=True)
class WorkflowFiles:
    """What the files on the command line say."""

    snakefile: Path
    workflow: Path
    params: Path
    targets: tuple[str, ...] = ()  # empty: the Snakefile's default target
    config: Mapping[str, Any] = field(default_factory=dict)  # the params, with --param put in


def look_up(settings: RunSettings) -> WorkflowFiles:
    """Find and read the files that the settings name.

    Raises SettingsError, one sentence for every file that is missing or cannot be read.
    """
    problems = Problems()
    snakefile = problems.of(lambda: find_snakefile(settings.snakefile))
    folder = settings.snakefile.expanduser().parent

    def workflow() -> tuple[Path, tuple[str, ...]]:
        path = find_file(settings.workflow, "workflow file", folder)
        return path, settings.targets or read_targets(path)

    def params() -> tuple[Path, dict[str, Any]]:
        path = find_file(settings.params, "parameter file", folder)
        return path, merge(read_params(path), settings.overrides)

    found, given = problems.of(workflow), problems.of(params)
    problems.tell()
    assert snakefile and found and given  # or it was told
    return WorkflowFiles(snakefile, found[0], given[0], found[1], given[1])


def find_snakefile(path: Path) -> Path:
    """The Snakefile, a path as given; raises SettingsError."""
    path = path.expanduser()
    if path.is_file():
        return path
    kind = "is a folder" if path.is_dir() else "not found"
    usual = Path("workflow", "Snakefile")
    hint = f"use -s {usual}, which exists" if usual.is_file() else "name it with --snakefile (-s)"
    raise SettingsError(f"Snakefile '{path}' {kind} (tried {path.absolute()}); {hint}.")


def find_file(name: str, kind: str, snakefile_folder: Path) -> Path:
    """A path as given, else with a suffix, in the current folder, then in the Snakefile's.

    Raises SettingsError that lists every path tried.
    """
    if not name.strip():
        raise SettingsError(f"The name of the {kind} is empty; give the path of a file.")
    given = Path(name).expanduser()
    folders = [Path(), snakefile_folder]
    tried = [folder / f"{given}{suffix}" for folder in folders for suffix in SUFFIXES]
    for path in tried:
        if path.is_file() or path.is_fifo():  # a FIFO is what <(command) gives
            return path
    paths = ", ".join(dict.fromkeys(str(path.absolute()) for path in tried))
    folder = "; the first is a folder" if tried[0].is_dir() else ""
    raise SettingsError(f"Cannot find the {kind} '{name}'{folder}; tried {paths}.")


def read_targets(path: Path) -> tuple[str, ...]:
    """The targets that a workflow file names; none when it leaves that to the Snakefile.

    Raises SettingsError when the file is not a mapping with one target or a list of targets.
    """
    content = _mapping(path, "workflow file")
    if TARGET_KEY not in content:
        for key in difflib.get_close_matches(TARGET_KEY, content, n=1, cutoff=0.8):
            raise SettingsError(f"'{path}': the key '{key}' is unknown; it is {TARGET_KEY}.")
        return ()
    target = content[TARGET_KEY]
    targets = target if isinstance(target, list) else [target]
    if not targets or not all(isinstance(item, str) and item.strip() for item in targets):
        raise SettingsError(
            f"'{path}': {TARGET_KEY} is {_shown(target)}, but must be one target or a list of "
            "targets, each a text; leave the key out for the Snakefile's default target."
        )
    return tuple(targets)


def read_params(path: Path) -> dict[str, Any]:
    """The parameters, of any JSON type, unchanged; raises SettingsError."""
    return _mapping(path, "parameter file")


def parse_param(text: str) -> tuple[str, Any]:
    """The key and the value of `--param KEY=VALUE`.

    The value is JSON when JSON would print it back unchanged (5, true, null, {"a": 1}), and
    otherwise text: 1.10 and 007 keep their digits. Raises SettingsError without a key or `=`.
    """
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise SettingsError(f"--param '{text}' must be KEY=VALUE, for example --param name=blue.")
    if value[:1] in ("{", "[", '"'):
        try:
            json.loads(value)
        except ValueError:
            return key, value
        return key, parse_json(value, f"--param {key}")
    try:
        parsed = json.loads(value)
    except ValueError:
        return key, value
    unchanged = json.dumps(parsed) == value and value not in ("NaN", "Infinity", "-Infinity")
    return key, parsed if unchanged else value


def merge(params: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The params with every override put in; `a.b` is the key b in the mapping a.

    A key that is there with its dots is replaced as it is. Raises SettingsError when a dotted
    key leads through something that is not a mapping.
    """
    merged = dict(params)
    for key, value in overrides.items():
        parts = [key] if key in merged else key.split(".")
        _put(merged, parts, value, key)
    return merged


def _put(mapping: dict[str, Any], parts: list[str], value: Any, key: str) -> None:
    head, *rest = parts
    if not rest:
        mapping[head] = value
        return
    inner = mapping.get(head, {})
    if not isinstance(inner, dict):
        raise SettingsError(
            f"--param {key}: '{head}' is {_shown(inner)} in the params, not a mapping with keys."
        )
    mapping[head] = dict(inner)  # the caller's params stay as they are
    _put(mapping[head], rest, value, key)


def _mapping(path: Path, kind: str) -> dict[str, Any]:
    content = read_values(path)
    if not isinstance(content, dict):
        raise SettingsError(
            f"'{path}' holds {_shown(content)}, but a {kind} must be a mapping of keys to values "
            '({"key": "value"} in JSON).'
        )
    return content


def _shown(value: Any) -> str:
    kinds: Iterable[tuple[type, str]] = ((dict, "a mapping"), (list, "a list"), (str, "text"))
    for kind, words in kinds:
        if isinstance(value, kind):
            return words if value else f"empty ({json.dumps(value)})"
    return json.dumps(value)
