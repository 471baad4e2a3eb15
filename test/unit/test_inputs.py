"""Which local input files are uploaded, and when."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest
from byok8s.storage.inventory import Inventory
from byok8s.worker.checksum import has_etag
from byok8s.workflow.inputs import LocalInputs
from support.memory import MemoryBucket


class Here:
    """A working directory, a bucket, and a fresh run whenever one begins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bucket = MemoryBucket()
        self.begin()

    def begin(self) -> None:
        self.inventory = Inventory(self.bucket.objects, "run")
        self.inventory.prepare("run/x")
        self.inputs = LocalInputs(self.inventory, "run", self.folder)
        self.inputs.producible = lambda path: path.startswith("out")
        self.bucket.calls.clear()

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def files(self) -> dict[str, str]:
        content = self.bucket.content().items()
        return {key: data.decode() for key, data in content if ".byok8s" not in key}


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


def test_a_new_file_counts_as_there_and_new_and_is_uploaded_once(here: Here) -> None:
    path = here.write("data/a b.txt", "content")
    os.utime(path, (1000, 1000))
    entry = here.inputs.look("run/data/a b.txt")
    assert entry is not None and entry.size == 7
    assert entry.mtime == pytest.approx(time.time(), abs=5)  # newer than any output
    assert here.inputs.pending() == (1, 7)
    assert "put" not in here.bucket.calls
    assert here.inputs.flush() == (1, 7) and here.inputs.flush() == (0, 0)
    assert here.files() == {"run/data/a b.txt": "content"}
    assert here.inputs.look("run/data/a b.txt") is None  # the bucket knows it now
    assert here.inventory.find("run/data/a b.txt").size == 7
    here.begin()
    assert here.inputs.look("run/data/a b.txt") is None and here.inputs.flush() == (0, 0)
    assert "put" not in here.bucket.calls


@pytest.mark.parametrize("name", ["nope.txt", "out/made.txt", ".byok8s/uploads.json"])
def test_what_is_not_an_input_of_ours(here: Here, name: str) -> None:
    if name != "nope.txt":
        here.write(name, "x")
    assert here.inputs.look(f"run/{name}") is None
    assert here.inputs.look("other/data") is None and here.inputs.pending() == (0, 0)


def test_before_the_snakefile_is_read_nothing_is_decided(here: Here) -> None:
    here.write("a", "x")
    here.inputs.producible = None
    assert here.inputs.look("run/a") is None
    here.inputs.producible = lambda path: False
    assert here.inputs.look("run/a") is not None


def test_the_same_size_and_time_is_not_read_again(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.write("a", "x")
    here.inputs.look("run/a")
    here.inputs.flush()
    here.begin()
    monkeypatch.setattr("byok8s.workflow.inputs._sha256", pytest.fail)
    monkeypatch.setattr("byok8s.workflow.inputs.has_etag", pytest.fail)
    assert here.inputs.look("run/a") is None


def test_a_changed_file_is_uploaded_and_a_touched_one_is_not(here: Here) -> None:
    path = here.write("a", "old")
    here.inputs.look("run/a")
    here.inputs.flush()
    os.utime(path, (5000, 5000))
    here.begin()
    assert here.inputs.look("run/a") is None and here.inputs.pending() == (0, 0)
    here.inputs.flush()
    assert here.files() == {"run/a": "old"}
    path.write_text("new")
    os.utime(path, (1, 1))  # also when it looks older than everything
    here.begin()
    assert here.inputs.look("run/a") is not None and here.inputs.flush() == (1, 3)
    assert here.files() == {"run/a": "new"}


def test_an_object_that_someone_else_replaced_is_put_right(here: Here) -> None:
    here.write("a", "mine")
    here.inputs.look("run/a")
    here.inputs.flush()
    here.bucket._store.put("run/a", b"else")
    here.begin()
    assert here.inputs.look("run/a") is not None
    here.inputs.flush()
    assert here.files() == {"run/a": "mine"}


def test_folders_go_with_their_files_and_forget_what_is_gone(here: Here, tmp_path: Path) -> None:
    here.write("db/x", "1")
    here.write("db/sub/y", "22")
    (tmp_path / "elsewhere").write_text("333")
    (tmp_path / "db/link").symlink_to(tmp_path / "elsewhere")
    here.bucket._store.put("run/db/not-ours", b"stays")
    here.begin()
    entry = here.inputs.look("run/db")
    assert entry is not None and entry.names == ("link", "sub/y", "x") and entry.total == 6
    assert here.inputs.flush() == (3, 6)
    (tmp_path / "db/x").unlink()
    here.begin()
    assert here.inputs.look("run/db") is not None and here.inputs.flush() == (0, 0)
    assert set(here.files()) == {"run/db/link", "run/db/sub/y", "run/db/not-ours"}
    here.begin()
    assert here.inputs.look("run/db") is None


def test_a_damaged_record_is_a_lost_short_cut_only(here: Here) -> None:
    here.write("a", "x")
    here.inputs.look("run/a")
    here.inputs.flush()
    here.bucket._store.put("run/.byok8s/uploads.json", b"{not json")
    here.bucket._store.put("run/a", b"y")
    here.begin()
    assert here.inputs.look("run/a") is not None and here.inputs.flush() == (1, 1)


def test_content_is_known_by_etags_of_several_clients(tmp_path: Path) -> None:
    data = os.urandom(20 * 1024 * 1024 + 3)
    path = tmp_path / "big"
    path.write_bytes(data)

    def etag(part: int) -> str:
        digests = [hashlib.md5(data[i : i + part]).digest() for i in range(0, len(data), part)]
        return f"{hashlib.md5(b''.join(digests)).hexdigest()}-{len(digests)}"

    for part in (5, 8, 16, 7):
        assert has_etag(path, etag(part * 1024 * 1024)) == (part != 6)
    assert has_etag(path, hashlib.md5(data).hexdigest())
    assert not has_etag(path, hashlib.md5(b"other").hexdigest())
    assert not has_etag(path, "anything")
