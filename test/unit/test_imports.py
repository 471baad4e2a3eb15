"""Snakemake without its database library is the same Snakemake."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

TELL = """
import json, sys
import snakemake.workflow
from snakemake.persistence import MetadataRecord
loaded = [name for name in ("sqlalchemy", "sqlmodel") if name in sys.modules]
values = {"rule": "a", "input": ["b"], "params": [1, "x", None], "starttime": 1, "code": None,
    "input_checksums": {"b": "md5:c"}, "job_hash": -7, "incomplete": False}
record = MetadataRecord.model_validate(values)
try:
    MetadataRecord.model_validate({"input": 7})
    refused = False
except ValueError as error:
    refused = [problem["loc"] for problem in error.errors()]
schema = MetadataRecord.model_json_schema()
print(json.dumps({"loaded": loaded, "schema": schema, "dump": record.model_dump(),
    "json": record.model_dump_json(), "item": record["rule"], "refused": refused,
    "from": MetadataRecord.model_validate(record).model_dump(),
    "fresh": MetadataRecord().model_dump()}))
"""
LIGHT = "from byok8s.workflow.imports import import_snakemake; import_snakemake()\n"


def told(*code: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", "".join(code)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_records_are_what_they_are_with_the_database_library() -> None:
    theirs, ours = told("import snakemake.api\n", TELL), told(LIGHT, TELL)
    assert (theirs.pop("loaded"), ours.pop("loaded")) == (["sqlalchemy", "sqlmodel"], [])
    assert ours == theirs
    assert ours["refused"] == [["input"]]


def test_who_asks_for_the_database_library_gets_it() -> None:
    code = "import json, sqlmodel, sqlalchemy; print(json.dumps(hasattr(sqlalchemy, 'select')))"
    assert told(LIGHT, code) is True


@pytest.mark.parametrize("before", ["import sqlmodel\n", "import snakemake.api\n"])
def test_what_is_there_already_is_left_as_it_is(before: str) -> None:
    code = "import json, snakemake.persistence.db as db; print(json.dumps(hasattr(db, 'Session')))"
    assert told(before, LIGHT, code) is True
