"""The source archive: what is in it, and that equal sources are equal bytes."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from byok8s.worker.archive import unpack
from byok8s.workflow import sources


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(archive: sources.SourceArchive) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        unpack(archive.data, Path(folder), ".")
        return relative(Path(folder), (path for path in Path(folder).rglob("*") if path.is_file()))


def relative(folder: Path, paths: object) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in paths)  # type: ignore[attr-defined]


def test_equal_sources_are_equal_bytes_whatever_their_times(tmp_path: Path) -> None:
    write(tmp_path, Snakefile="rule a:", helper_dot_py="x = 1")
    files = [tmp_path / "Snakefile", tmp_path / "helper.py"]
    first = sources.pack(files, [], tmp_path)
    os.utime(files[0], (1, 1))
    assert sources.pack(reversed(files), [], tmp_path) == first
    write(tmp_path, helper_dot_py="x = 2")
    assert sources.pack(files, [], tmp_path).sha256 != first.sha256


def test_files_beside_the_working_directory_keep_their_places(tmp_path: Path) -> None:
    write(tmp_path, work__params_dot_json="{}", pipeline__Snakefile="rule a:")
    work = tmp_path / "work"
    packed = sources.pack([work / "../pipeline/Snakefile", work / "params.json"], [], work)
    assert names(packed) == ["pipeline/Snakefile", "work/params.json"]
    assert packed.workdir == "work"


def test_what_exceeds_the_total_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_TOTAL", 10)
    write(tmp_path, Snakefile="12345", a="12345", b="12345")
    packed = sources.pack([tmp_path / "Snakefile"], [tmp_path / "a", tmp_path / "b"], tmp_path)
    assert names(packed) == ["Snakefile", "a"]
    assert packed.skipped == ("b",)


def test_in_a_checkout_git_decides(tmp_path: Path) -> None:
    write(
        tmp_path,
        tracked="t", untracked="u", ignored="i", deleted="d", output="o",
        _dot_gitignore="ignored\n", _dot_env="SECRET=1", sub__more="m",
    )  # fmt: skip
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "tracked", "deleted"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    (tmp_path / "deleted").unlink()  # Snakemake itself does not start in this state
    found = sources.project_files(tmp_path, lambda name: name == "output")
    assert relative(tmp_path, found) == ["sub/more", "tracked", "untracked"]


def test_outside_of_a_checkout_small_visible_files_go_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_git_files", lambda folder: None)
    monkeypatch.setattr(sources, "MAX_FILE", 5)
    write(tmp_path, small="1", large="123456", _dot_aws__credentials="k", lib__x_dot_py="y")
    found = sources.project_files(tmp_path, lambda name: False)
    assert relative(tmp_path, found) == ["lib/x.py", "small"]
