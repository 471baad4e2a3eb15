"""The archive of the sources: packed by the leader, unpacked in pods."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from byok8s.worker.archive import packed, unpack


def made(name: str) -> bytes:
    """An archive of one file of one byte."""
    return zlib.compress(b"1\0" + name.encode() + b"\x001\0-\0" + b"1")


def test_files_come_out_as_they_went_in(tmp_path: Path) -> None:
    names = {"a.txt": b"1\n2\n", "deep/er/b": b"\0\xff\n", "empty": b"", "name with ü": b"x"}
    source, target = tmp_path / "source", tmp_path / "target"
    for name, content in names.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    (source / "a.txt").chmod(0o700)
    unpack(packed({name: source / name for name in names}), target, "deep/work")
    found = {str(path.relative_to(target)): path for path in target.rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == names
    assert found.pop("a.txt").stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in found.values()} == {0o644}
    assert (target / "deep/work").is_dir()


def test_a_name_that_is_no_utf_8_stays_what_it_is(tmp_path: Path) -> None:
    path = Path(str(tmp_path), b"odd-\xff".decode(errors="surrogateescape"))
    path.write_bytes(b"1")
    unpack(packed({path.name: path}), tmp_path / "target", ".")
    assert [found.name for found in (tmp_path / "target").iterdir()] == [path.name]


def test_nothing_is_written_outside_of_the_folder(tmp_path: Path) -> None:
    for name in ("../x", f"{tmp_path}/x", "a/../../x"):
        with pytest.raises(ValueError, match="outside of the sources"):
            unpack(made(name), tmp_path / "target", ".")
    assert not (tmp_path / "x").exists()
    unpack(made("x"), tmp_path / "target", ".")
    assert (tmp_path / "target/x").read_bytes() == b"1"


def test_what_is_no_archive_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no archive of sources"):
        unpack(b"what a tar would be", tmp_path, ".")
