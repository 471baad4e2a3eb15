"""`shadow: "full"` for files that lie below .snakemake."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

from byok8s.workflow.shadow import _complete


def test_a_full_shadow_has_the_inputs_and_the_folders_of_what_is_made(folder: Path) -> None:
    given, made, log = (f".snakemake/storage/{name}" for name in ("a/in", "b/c/out", "d/log"))
    Path(given).parent.mkdir(parents=True)
    Path(given).write_text("given")
    Path("shadow").mkdir()
    job = SimpleNamespace(shadow_dir="shadow", input=[given], output=[made], log=[log])
    _complete(job)
    _complete(job)  # what is there stays
    assert Path("shadow", given).read_text() == "given"
    assert all(os.path.isdir(Path("shadow", name).parent) for name in (made, log))
