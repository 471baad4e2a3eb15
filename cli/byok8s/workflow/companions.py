"""Files beside a job's inputs that its rule does not name, and that a failed job may have missed.

On a machine `bwa mem genome.fa` finds genome.fa.bwt whether the rule says so or not; in a pod there
is what the rule names, and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from byok8s.progress import some_of

if TYPE_CHECKING:
    from byok8s.workflow.lead import Lead

_NAMED = 3  # in the sentence


def hint(inputs: list[str], outputs: list[str], lead: Lead, workdir: Path) -> str:
    """A sentence that names such files, of the bucket and of this folder; '' where there are none.

    A file counts that is called as an input is, with more after a dot. All paths are those of the
    Snakefile.
    """
    found = sorted(set(_beside(inputs, lead, workdir)).difference(inputs, outputs))
    if not found:
        return ""
    return (
        "The pod had only the inputs that the rule names, and not "
        f"{some_of(found, _NAMED)} beside them; name as input what the command needs of these."
    )


def _beside(inputs: list[str], lead: Lead, workdir: Path) -> Iterable[str]:
    for folder in {os.path.dirname(path) for path in inputs}:
        here = workdir / folder
        names = set(os.listdir(here)) if here.is_dir() else set()
        above = len(folder) + 1 if folder else 0
        below = (key[above:] for key in lead.keys_below(folder))
        names |= {name for name in below if "/" not in name}
        for path in inputs:
            if os.path.dirname(path) == folder:
                start = f"{os.path.basename(path)}."
                yield from (os.path.join(folder, name) for name in names if name.startswith(start))
