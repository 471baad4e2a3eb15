"""What a job does, in a few letters: whether a pod of an earlier leader still does the same.

It holds what Snakemake itself would run the job again for, namely the rule's code, the params and
the inputs, and what the pod asks the cluster for. Files that a command reads unknown to Snakemake
are not in it, as they are not reasons for Snakemake.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from byok8s.workflow.lead import Lead, knows, split_query

if TYPE_CHECKING:
    from byok8s.batch import PodRequest
    from byok8s.batch.placement import Placement
    from byok8s.worker.spec import Command


def fingerprint(job: Any, command: Command | None, request: PodRequest, lead: Lead) -> str:
    """Equal for equal work, in every leader."""
    jobs = sorted(job.jobs, key=lambda j: str(j.uuid())) if job.is_group() else [job]
    parts = [
        [(name, value) for name, value in vars(request).items() if name not in _APART],
        _text(request.placement),
        None if command is None else command.text,
        [_of_job(single) for single in jobs],
        _inputs(job.input, lead),
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


# The environment is the same for all jobs; where they may run, for most
_APART = ("env", "placement")
_texts: dict[int, tuple[Placement, str]] = {}  # by identity, which the object kept here holds


def _text(placement: Placement) -> str:
    """A placement in words; made once for the one that most jobs share."""
    known, text = _texts.get(id(placement), (None, ""))
    if known is not placement:
        text = repr(placement)
        _texts.clear()
        _texts[id(placement)] = placement, text
    return text


def _of_job(job: Any) -> list[Any]:
    persistence = job.rule.workflow.persistence
    return [
        job.rule.name,
        job.wildcards_dict,
        persistence._code(job.rule),
        job.container_img_url,
        sorted(map(str, persistence._params(job))),
        list(map(str, job.output)),
    ]


def _inputs(files: Iterable[Any], lead: Lead) -> list[Any]:
    """Each input with what tells its content from another one."""
    found: list[Any] = []
    for file in files:
        entry = None
        if knows(file):
            bucket, key = split_query(str(file.storage_object.query))
            entry = lead.inventory(bucket).find(key)
        # of a folder no content is known, but when it last changed
        what = entry and (entry.etag or entry.mtime, entry.total, entry.names)
        found.append([str(file), what])
    return found
