"""What travels beside a rule's script."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from byok8s.workflow import sources


def test_hidden_files_beside_a_script_stay_at_home(tmp_path: Path) -> None:
    for name in ("copy.py", "helpers/more.py", ".env", ".aws/credentials", ".snakemake/log/x.log"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    params = tmp_path / "params.json"
    rule = SimpleNamespace(script=str(tmp_path / "copy.py"), notebook=None, conda_env=None)
    workflow = SimpleNamespace(included=[], configfiles=[], rules=[rule])
    found = set(sources.required_files(workflow, params, Path("/elsewhere")))
    assert found == {params, tmp_path / "copy.py", tmp_path / "helpers/more.py"}


def test_the_whole_project_is_no_scripts_folder(tmp_path: Path) -> None:
    for name in ("Snakefile", "copy.py", "results/large.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    rule = SimpleNamespace(script=str(tmp_path / "copy.py"), notebook=None, conda_env=None)
    workflow = SimpleNamespace(included=[], configfiles=[], rules=[rule])
    found = set(sources.required_files(workflow, tmp_path / "params.json", tmp_path))
    assert found == {tmp_path / "params.json", tmp_path / "copy.py"}
