"""A Python script with nothing of Snakemake but what the leader sends with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from byok8s.workflow.scripts import NeedsSnakemake, script_command, script_texts
from snakemake.iocontainers import InputFiles, Log, OutputFiles, Params, ResourceList, Wildcards
from snakemake.sourcecache import SourceCache

SCRIPT = """\
import json, os, sys
from neighbour import WORD
from pathlib import Path
os.chdir("/")
logger.info("told the logger")
out = Path(__file__).parent.parent / snakemake.output.table
out.write_text(json.dumps({
    "params": [snakemake.params[0], *map(str, snakemake.params.paths), snakemake.params.get("n")],
    "input": [list(snakemake.input), list(snakemake.input.reads)],
    "rest": [snakemake.wildcards.sample, snakemake.threads, snakemake.resources["mem_mb"]],
    "config": snakemake.config, "rule": snakemake.rule, "log": snakemake.log[0], "word": WORD,
    "redirect": snakemake.log_fmt_shell(),
    "modules": sorted(m for m in sys.modules if "snake" in m),
}))
"""


def job_of(folder: Path, **params: Any) -> Any:
    inputs = InputFiles(["a.fq", "b.fq", "ref.fa"])
    inputs._set_name("reads", 0, end=2)
    cache = SourceCache(folder / "cache", runtime_cache_path=folder / "runtime")
    rule = SimpleNamespace(
        script="scripts/plot.py",
        basedir=cache_folder(folder),
        name="plot",
        workflow=SimpleNamespace(
            sourcecache=cache, globals={"config": {"deep": [1, None, "1.10"]}}
        ),
    )
    return SimpleNamespace(
        rule=rule,
        input=inputs,
        output=OutputFiles(fromdict={"table": "out/table.json"}),
        params=Params(fromdict=params),
        wildcards=Wildcards(fromdict={"sample": "s1"}),
        threads=3,
        resources=ResourceList(fromdict={"mem_mb": 100, "tmpdir": "/x"}),
        log=Log(["logs/plot.log"]),
        jobid=7,
    )


def cache_folder(folder: Path) -> Any:
    from snakemake.sourcecache import LocalSourceFile

    return LocalSourceFile(str(folder))


def test_a_python_script_runs_where_there_is_no_snakemake(folder: Path) -> None:
    (folder / "scripts").mkdir()
    (folder / "scripts/plot.py").write_text(SCRIPT)
    (folder / "scripts/neighbour.py").write_text("WORD = 'beside'")
    pod = folder / "pod"
    job = job_of(folder, first="it's {odd}", paths=[Path("x"), Path("y")], n=1.5)
    texts = script_texts(job, str(pod))
    for path, text in texts:
        (pod / path).parent.mkdir(parents=True, exist_ok=True)
        (pod / path).write_text(text)
    (pod / "out").mkdir()
    (pod / "scripts").mkdir()
    (pod / "scripts/neighbour.py").write_text("WORD = 'beside, in the pod'")
    command = script_command(texts[0][0])
    assert command.startswith("$(command -v python || echo python3) ./.snakemake/scripts/")
    # -S: none of the packages that are installed here
    script = str(pod / texts[0][0])
    done = subprocess.run(
        [sys.executable, "-E", "-S", script], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "told the logger" in done.stderr
    told = json.loads((pod / "out/table.json").read_text())
    assert told == {
        "params": ["it's {odd}", "x", "y", 1.5],
        "input": [["a.fq", "b.fq", "ref.fa"], ["a.fq", "b.fq"]],
        "rest": ["s1", 3, 100],
        "config": {"deep": [1, None, "1.10"]},
        "rule": "plot",
        "log": "logs/plot.log",
        "word": "beside, in the pod",
        "redirect": " > logs/plot.log 2>&1",
        "modules": ["snakemake", "snakemake.io", "snakemake.iocontainers", "snakemake.logging"],
    }


def test_a_value_that_cannot_be_sent_is_named(folder: Path) -> None:
    (folder / "scripts").mkdir()
    (folder / "scripts/plot.py").write_text(SCRIPT)
    with pytest.raises(NeedsSnakemake, match="has a value that cannot be sent to its pod"):
        script_texts(job_of(folder, function=lambda: 1), "/work")
