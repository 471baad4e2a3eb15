"""Outputs that are in the bucket already as something else: a folder where a rule makes a file.

S3 can hold both, no disk can. What to do about it is for a person to say, before anything runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from byok8s.exceptions import SettingsError
from byok8s.workflow.lead import Lead, knows, split_query


def check_outputs(jobs: Iterable[Any], lead: Lead) -> None:
    """Raises SettingsError, with a line for each rule that would make a file of a folder."""
    problems = {}
    for job in jobs:
        for file in job.output:
            if job.rule.name not in problems and _is_folder_instead(file, lead):
                problems[job.rule.name] = _sentence(job.rule.name, file)
    if problems:
        raise SettingsError("\n".join(problems.values()))


def _is_folder_instead(file: Any, lead: Lead) -> bool:
    if file.is_directory or not knows(file):
        return False
    bucket, key = split_query(str(file.storage_object.query))
    entry = lead.inventory(bucket).find(key)
    return entry is not None and entry.names is not None


def _sentence(rule: str, file: Any) -> str:
    query = file.storage_object.query
    return (
        f"Rule '{rule}' makes a file {query}, which is a folder in the bucket; write directory() "
        "in the rule if it makes a folder, name another output, or delete that folder."
    )
