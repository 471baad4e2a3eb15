"""Imports Snakemake without a database library, which a run has no use for.

Snakemake's provenance record is a pydantic model made by way of sqlmodel, so that a database may
keep it: 0.4 s of CPU, a quarter of all that a run imports. byok8s keeps records in the bucket, or
with --local in files.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

_DATABASE = ("sqlalchemy", "sqlmodel")


def import_snakemake() -> None:
    """Import snakemake.api. Whoever asks for sqlmodel or sqlalchemy later gets the real ones."""
    if "snakemake" in sys.modules or any(name in sys.modules for name in _DATABASE):
        import_module("snakemake.api")
        return
    import_module("snakemake")
    with _stand_ins():
        import_module("snakemake.persistence")
    database = ModuleType("snakemake.persistence.db")
    vars(database).update(DbPersistence=DbPersistence)
    sys.modules[database.__name__] = database
    import_module("snakemake.api")


class DbPersistence:
    """In the place of Snakemake's, which keeps records in a database."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError("byok8s keeps provenance in the bucket, or in files")


@contextmanager
def _stand_ins() -> Iterator[None]:
    """What the record's definition takes from the two, with no more than a model in it."""
    import pydantic

    class SQLModel(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(from_attributes=True)  # as sqlmodel's

    def field(*arguments: Any, sa_column: object = None, **options: Any) -> Any:
        return pydantic.Field(*arguments, **options)

    sqlalchemy, sqlmodel = (ModuleType(name) for name in _DATABASE)
    vars(sqlalchemy).update(Column=lambda *_: None, JSON=None)
    vars(sqlmodel).update(SQLModel=SQLModel, Field=field)
    sys.modules |= {"sqlalchemy": sqlalchemy, "sqlmodel": sqlmodel}
    try:
        yield
    finally:
        for name in _DATABASE:
            del sys.modules[name]
