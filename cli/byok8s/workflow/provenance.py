"""What a job's outputs depend on beside its inputs and params: values of the Snakefile and config.

Snakemake re-runs a job when the text of its command changes, not when a value that the command
takes from the Snakefile does (`shell: "echo {name}"` with `name = config["name"]`). Here such
values are recorded with the params, so that a changed value re-runs what it goes into.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path
from string import Formatter
from typing import Any

from byok8s.workflow.sources import beside

# Names that Snakemake gives to a command itself; it compares what stands behind them.
_JOB_NAMES = frozenset(
    [
        "input",
        "output",
        "params",
        "wildcards",
        "threads",
        "resources",
        "log",
        "jobid",
        "rule",
        "bench_iteration",
        "benchmark",
    ]
)


def outside_values(job: Any) -> list[str]:
    """One line for each value from outside the rule that the job's result depends on."""
    rule = job.rule
    if rule.shellcmd is not None:
        return [line for field in outside_names(rule.shellcmd) if (line := _value(job, field))]
    if rule.script or rule.notebook:
        uses_config = "config" in _script_text(rule)
    else:
        # A `run:` block may reach any value of the Snakefile, and these come from the config
        uses_config = rule.run_func_src is not None and not rule.norun
    return [f"config {_digest(job.rule.workflow.globals['config'])}"] if uses_config else []


@lru_cache  # asked for every job of a rule
def outside_names(template: str) -> tuple[str, ...]:
    """The fields of a command that name something other than the job's own parts."""
    try:
        parsed = list(Formatter().parse(template))
    except ValueError:  # a malformed command: Snakemake will say so
        return ()
    names = (field for _, field, _, _ in parsed if field)
    return tuple(n for n in names if re.split(r"[.\[]", n, maxsplit=1)[0] not in _JOB_NAMES)


def _value(job: Any, field: str) -> str | None:
    # Not by job.format_wildcards: that fails while the DAG is built, when a job has no id yet,
    # and takes {name} for the rule's name, where a command gets the Snakefile's own `name`.
    try:
        value, _ = Formatter().get_field(field, (), job.rule.workflow.globals)
    except Exception:  # unknown names are Snakemake's to report when it formats the command
        return None
    return f"{field} = {str(value)!r}"


def _script_text(rule: Any) -> str:
    path = script_path(rule)
    if path is None:
        return "config"  # a remote script: assume that it reads the config
    return path.read_text(encoding="utf-8", errors="replace")


def script_path(rule: Any) -> Path | None:
    """The local file of a rule's `script:` or `notebook:`; None when it has none."""
    name = rule.script or rule.notebook
    return beside(rule, name) if name else None


def script_code(rule: Any) -> str | None:
    """A script's content as a digest: its modification time says nothing on another machine."""
    path = script_path(rule)
    if path is None:
        return None
    return f"script sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def _digest(config: Any) -> str:
    text = json.dumps(config, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
