"""Snakemake without its database library is the same Snakemake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TELL = """
import json, sys
import snakemake.workflow
from snakemake.persistence import MetadataRecord
libraries = ("sqlalchemy", "sqlmodel", "pydantic", "pulp", "psutil")
loaded = [name for name in libraries if name in sys.modules]
values = {"rule": "a", "input": ["b"], "params": [1, "x", None], "starttime": 1, "code": None,
    "input_checksums": {"b": "md5:c"}, "job_hash": -7, "incomplete": False, "of another": 1}
record = MetadataRecord.model_validate(values)
again = MetadataRecord.model_validate(record)
again.endtime = 2.5
fresh = MetadataRecord()
fresh.input_checksums["own"] = "md5:d"
print(json.dumps({"loaded": loaded, "dump": record.model_dump(), "items": dict(record.items()),
    "item": record["rule"], "get": [record.get("code", 3), record.get("none", 3)],
    "again": again.model_dump(), "keys": list(fresh.keys()), "fresh": fresh.model_dump(),
    "other": MetadataRecord().model_dump()}))
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
    assert len(theirs.pop("loaded")) == 5
    assert ours.pop("loaded") == []
    assert ours == theirs
    assert (ours["item"], ours["again"]["endtime"]) == ("a", 2.5)


def test_the_database_is_not_there() -> None:
    code = """
import json, snakemake.workflow as w
try:
    w.DbPersistence(dag=None)
except NotImplementedError as error:
    print(json.dumps(str(error)))
"""
    assert "without its database" in told(LIGHT, code)


def test_who_asks_for_the_database_library_gets_it() -> None:
    code = """
import json, pulp, sqlmodel, sqlalchemy, snakemake.persistence.db as db
told = [hasattr(sqlalchemy, "select"), hasattr(pulp, "LpProblem"), db.create_engine.__name__]
print(json.dumps(told))
"""
    assert told(LIGHT, code) == [True, True, "create_engine"]


@pytest.mark.parametrize("before", ["import sqlmodel\n", "import snakemake.api\n"])
def test_what_is_there_already_is_left_as_it_is(before: str) -> None:
    code = "import json, snakemake.persistence.db as db; print(json.dumps(hasattr(db, 'Session')))"
    assert told(before, LIGHT, code) is True


def test_sources_of_this_machine_are_read_without_smart_open(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text("# ä\r\nrule one:\n", encoding="utf-8")
    code = f"""
import json, sys
from pathlib import Path
from snakemake.exceptions import WorkflowError
from snakemake.sourcecache import LocalSourceFile, SourceCache, infer_source_file
folder = Path({str(tmp_path)!r})
cache = SourceCache(folder / "cache", runtime_cache_path=folder / "runtime")
source = infer_source_file(folder / "Snakefile")
with cache.open(source) as text, cache._open(source, "rb") as content:
    told = [text.read(), content.read().hex(), str(cache.get_path(source))]
try:
    cache._open(LocalSourceFile(str(folder / "none")), "r")
except WorkflowError as error:
    told.append(str(error))
"""
    heavy = (
        'told += [name for name in ("smart_open", "boto3", "requests") if name in sys.modules]\n'
    )
    lines = code.split("try:", 1)
    read = [LIGHT, lines[0], heavy, "print(json.dumps(told))"]
    assert len(told(*read)) == 3
    theirs, ours = (
        told(first, code, "print(json.dumps(told))") for first in ("import snakemake.api\n", LIGHT)
    )
    assert ours == theirs
    assert ours[0] == "# ä\nrule one:\n" and "none" in ours[3]
