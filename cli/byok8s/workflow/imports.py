"""Imports Snakemake without what a run does not use.

Snakemake declares its records of finished jobs with sqlmodel, on which its database of records
builds, and asks pulp which solvers there are for a scheduler that byok8s does not use. Importing
them, and pydantic with them, takes 0.5 s of CPU, as much as all the rest of Snakemake. A run keeps
its records in the bucket or in files, never in the database, so that for it a record need only be
an object with the declared fields.

Sources are opened with smart_open, which imports boto3 and requests when the first one is read:
0.2 s. For files of this machine it opens what Python opens.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple, NoReturn, Self

from byok8s.standins import module, standing_in

# What snakemake.persistence and snakemake.scheduling.milp import themselves comes first: plugins
# are found and imported with it, and they must find the libraries as they are.
_BEFORE = ("snakemake.io", "snakemake.settings.types", "snakemake_interface_scheduler_plugins.base")


def import_snakemake() -> None:
    """Import snakemake.api; what has been imported, or looks different inside, is left as it is.

    Whoever asks for sqlmodel, sqlalchemy or pulp later gets the real ones.
    """
    if any(name in sys.modules for name in ("snakemake", "sqlalchemy", "sqlmodel")):
        import_module("snakemake.api")
        return
    for name in _BEFORE:
        import_module(name)
    with contextlib.suppress(Exception), standing_in(_libraries()):
        import_module("snakemake.persistence")
        import_module("snakemake.scheduling.milp")
    with standing_in({_DATABASE: module(_DATABASE, DbPersistence=_NoDatabase)}):
        import_module("snakemake.api")
    _open_files_plainly(import_module("snakemake.sourcecache"))


def _open_files_plainly(sources: Any) -> None:
    """Let the sources that are files of this machine be read without smart_open."""
    open_any, parse_any = sources.SourceCache._open, sources.parse_uri

    def open_one(cache: Any, source: Any, mode: str, encoding: str | None = None) -> Any:
        path = str(source.get_path_or_uri(secret_free=False))
        if type(source) is sources.LocalSourceFile and os.path.isfile(path):
            return open(path, mode, encoding=None if "b" in mode else encoding)
        return open_any(cache, source, mode, encoding)  # and says what is wrong

    def parse_one(path: Any) -> Any:
        text = str(path)
        return _Uri("file", text) if text.startswith("/") else parse_any(path)

    sources.SourceCache._open, sources.parse_uri = open_one, parse_one


class _Uri(NamedTuple):
    """As smart_open.parse_uri has it."""

    scheme: str
    uri_path: str


_DATABASE = "snakemake.persistence.db"


def _libraries() -> dict[str, ModuleType | None]:
    return {
        "sqlalchemy": module("sqlalchemy", Column=_nothing, JSON=None),
        "sqlmodel": module("sqlmodel", SQLModel=Record, Field=_Field),
        "pulp": None,
    }


def _nothing(*_: object) -> None:
    """A column's type, which files of records do not need."""


class _NoDatabase:
    """In place of Snakemake's persistence in a database, which byok8s has no option for."""

    def __init__(self, *_: object, **__: object) -> NoReturn:
        raise NotImplementedError("byok8s imports Snakemake without its database")


class _Field:
    """What a field is when nothing was said."""

    def __init__(self, default: Any = None, default_factory: Any = None, **_: object) -> None:
        self.make = default_factory or (lambda: default)


class Record:
    """In place of sqlmodel's SQLModel: an object with the fields that a subclass declares.

    Values are taken as they come: they are Snakemake's own, back from JSON.
    """

    _fields: Mapping[str, _Field] = {}

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__()
        fields = dict(cls._fields)
        for name in inspect.get_annotations(cls):
            default = cls.__dict__.get(name)
            fields[name] = default if isinstance(default, _Field) else _Field(default)
        cls._fields = fields

    def __init__(self, **values: Any) -> None:
        for name, field in self._fields.items():
            setattr(self, name, values[name] if name in values else field.make())

    @classmethod
    def model_validate(cls, values: Mapping[str, Any] | Record) -> Self:
        """A record of those values, or of a record's, that are its fields."""
        return cls(**(vars(values) if isinstance(values, Record) else values))

    def model_dump(self) -> dict[str, Any]:
        """The fields and their values, in the order of their declaration."""
        return {name: getattr(self, name) for name in self._fields}
