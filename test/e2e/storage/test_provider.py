"""The storage provider for Snakemake: its interface, files, folders, and what it deletes."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from byok8s.worker.transfer import MARKER, PART
from byok8s.workflow.storage import StorageProvider
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_storage_plugins.tests import TestStorageBase
from support.objects import keys, obj, write
from support.project import BYOK8S
from support.s3proxy import Fault, S3Proxy


@pytest.mark.usefixtures("proxy")
class TestInterface(TestStorageBase):
    """The tests that Snakemake's interface package ships."""

    __test__ = True
    files_only = False
    touch = True

    @pytest.fixture(autouse=True)
    def _bucket(self, bucket: str) -> None:
        self.bucket = bucket

    def get_storage_provider_cls(self) -> type[StorageProvider]:
        return StorageProvider

    def get_query(self, tmp_path: Path) -> str:
        return f"s3://{self.bucket}/some folder/test.txt"

    def get_query_not_existing(self, tmp_path: Path) -> str:
        return f"s3://{self.bucket}/not/there.txt"


class TestContent:
    SNAKEFILE = (
        "rule one:\n    input: 'in.txt'\n    output: 'out.txt'\n    shell: 'cp {input} {output}'\n"
    )

    def test_a_newer_input_with_the_same_content_runs_nothing_again(
        self, proxy: S3Proxy, client: Any, bucket: str, tmp_path: Path
    ) -> None:
        write(tmp_path / "Snakefile", self.SNAKEFILE.encode())
        write(tmp_path / "flow.json", b"{}")
        write(tmp_path / "params.json", b"{}")

        def run(content: bytes) -> str:
            client.put_object(Bucket=bucket, Key="in.txt", Body=content)
            done = subprocess.run(
                [BYOK8S, "flow", "params", "--local", "-b", bucket],
                check=True,
                cwd=tmp_path,
                capture_output=True,
                text=True,
            )
            return done.stdout + done.stderr

        assert "Done: 1 job" in run(b"same")
        time.sleep(1.1)  # the server keeps whole seconds
        assert "Nothing to be done" in run(b"same")
        assert "Done: 1 job" in run(b"other")


class TestFolders:
    def test_there_and_back_and_in_the_place_of_the_old_one(
        self, leading: StorageProvider, client: Any, bucket: str
    ) -> None:
        folder = obj(leading, bucket, "run/dir")
        for name in ("x", "sub/y", "sub/ z%.txt"):
            write(folder.local_path() / name, name.encode())
        folder.store_object()
        client.put_object(Bucket=bucket, Key="run/dir-not-in-it", Body=b"")
        assert set(folder._entry().names or ()) == {"x", "sub/y", "sub/ z%.txt", MARKER}
        assert folder.size() == 0 and folder.local_footprint() == len("xsub/ysub/ z%.txt")
        (folder.local_path() / "sub/y").unlink()
        write(folder.local_path() / "new", b"n")
        folder.store_object()
        assert keys(client, bucket) == [
            "run/dir-not-in-it",
            f"run/dir/{MARKER}",
            "run/dir/new",
            "run/dir/sub/ z%.txt",
            "run/dir/x",
        ]
        write(folder.local_path() / "only-here", b"")
        folder.retrieve_object()
        files = [p for p in folder.local_path().rglob("*") if p.is_file()]
        assert sorted(p.name for p in files) == [" z%.txt", MARKER, "new", "x"]
        folder.remove()
        assert keys(client, bucket) == ["run/dir-not-in-it"] and not folder.exists()

    def test_an_empty_folder_exists(self, provider: StorageProvider, bucket: str) -> None:
        folder = obj(provider, bucket, "run/empty")
        folder.local_path().mkdir(parents=True)
        folder.store_object()
        assert folder.exists() and folder.mtime() > 0
        folder.local_path().rmdir()
        folder.retrieve_object()
        assert folder.local_path().is_dir()

    def test_half_a_folder_does_not_appear_on_either_side(
        self, leading: StorageProvider, proxy: S3Proxy, client: Any, bucket: str
    ) -> None:
        folder = obj(leading, bucket, "run/dir")
        for name in "abcdefgh":
            write(folder.local_path() / name, b"x")
        proxy.faults.append(Fault("PUT", "403", key="/e"))
        with pytest.raises(WorkflowError, match=r"run/dir/e: access denied"):
            folder.store_object()
        assert keys(client, bucket) == [] and not folder.exists()
        folder.store_object()
        write(folder.local_path() / "old", b"")
        proxy.faults.append(Fault("GET", "403", key="/e"))
        with pytest.raises(WorkflowError, match=r"run/dir/e: access denied"):
            folder.retrieve_object()
        assert (folder.local_path() / "old").exists()  # as it was
        assert [p.name for p in folder.local_path().parent.iterdir()] == ["dir"]

    def test_a_folder_whose_upload_was_cut_off_is_not_whole(
        self, leading: StorageProvider, proxy: S3Proxy, client: Any, bucket: str
    ) -> None:
        """As when the pod is killed meanwhile: nobody tidies up."""
        folder = obj(leading, bucket, "run/dir")
        for name in "abcd":
            write(folder.local_path() / name, b"1")
        folder.store_object()
        assert not folder.is_half()
        write(folder.local_path() / "a", b"2")
        proxy.faults += [Fault("PUT", "403", key="/d"), Fault("LIST", "403")]
        with pytest.raises(WorkflowError):
            folder.store_object()
        left = keys(client, bucket)
        assert "run/dir/a" in left and f"run/dir/{MARKER}" not in left
        proxy.faults.clear()
        leading.leader.inventory().told_stored("run/dir")  # what another leader would find
        assert folder.exists() and folder.is_half()

    def test_a_file_in_the_place_of_a_folder_and_back(
        self, leading: StorageProvider, client: Any, bucket: str
    ) -> None:
        thing = obj(leading, bucket, "run/thing")
        write(thing.local_path() / "child", b"x")
        thing.store_object()
        (thing.local_path() / "child").unlink()
        thing.local_path().rmdir()
        write(thing.local_path(), b"file")
        thing.store_object()
        assert keys(client, bucket) == ["run/thing"] and thing.size() == 4
        thing.local_path().unlink()
        write(thing.local_path() / "child", b"x")
        thing.store_object()
        assert keys(client, bucket) == [f"run/thing/{MARKER}", "run/thing/child"]

    def test_empty_objects_that_stand_for_folders(
        self, leading: StorageProvider, client: Any, bucket: str
    ) -> None:
        """As consoles make them: keys that end with a slash."""
        for key in ("run/data/", "run/data/sub/", "run/data/empty/", "run/data/sub/x"):
            client.put_object(Bucket=bucket, Key=key, Body=b"1" if key[-1] == "x" else b"")
        folder = obj(leading, bucket, "run/data")
        folder.retrieve_object()
        found = sorted(p.relative_to(folder.local_path()) for p in folder.local_path().rglob("*"))
        assert list(map(str, found)) == ["empty", "sub", "sub/x"]
        assert (folder.local_path() / "sub/x").read_bytes() == b"1"

    def test_links_are_read_through_and_loops_refused(
        self, leading: StorageProvider, client: Any, bucket: str, tmp_path: Path
    ) -> None:
        folder = obj(leading, bucket, "run/dir")
        write(tmp_path / "elsewhere/f", b"content")
        folder.local_path().mkdir(parents=True)
        (folder.local_path() / "link").symlink_to(tmp_path / "elsewhere")
        folder.store_object()
        assert "run/dir/link/f" in keys(client, bucket)
        (folder.local_path() / "loop").symlink_to(folder.local_path())
        with pytest.raises(WorkflowError, match="links to a folder above itself"):
            folder.store_object()

    def test_half_a_folder_is_made_again(
        self, proxy: S3Proxy, client: Any, bucket: str, tmp_path: Path
    ) -> None:
        text = (
            "rule one:\n    output: directory('d')\n    shell: 'mkdir {output}; touch {output}/x'\n"
        )
        assert "Done: 1 job" in local_run(tmp_path, bucket, text).stdout
        assert "Nothing to be done" in local_run(tmp_path, bucket, text).stdout
        client.delete_object(Bucket=bucket, Key="d/x")
        client.put_object(Bucket=bucket, Key="d/of-a-lost-pod", Body=b"")
        client.delete_object(Bucket=bucket, Key=f"d/{MARKER}")
        assert "Done: 1 job" in local_run(tmp_path, bucket, text).stdout
        assert [key for key in keys(client, bucket) if key[0] != "."] == [f"d/{MARKER}", "d/x"]


class TestTouching:
    @pytest.mark.parametrize("size", [0, 10, 2 * PART + 3])
    def test_content_stays_and_mtime_moves(
        self, leading: StorageProvider, client: Any, bucket: str, size: int
    ) -> None:
        thing = obj(leading, bucket, "run/thing")
        data = os.urandom(size)
        write(thing.local_path(), data)
        thing.store_object()
        before = client.head_object(Bucket=bucket, Key="run/thing")["LastModified"]
        time.sleep(1.1)  # the server keeps whole seconds
        thing.touch()
        assert client.head_object(Bucket=bucket, Key="run/thing")["LastModified"] > before
        assert client.get_object(Bucket=bucket, Key="run/thing")["Body"].read() == data
        thing.retrieve_object()  # the new checksum is right
        assert thing.local_path().read_bytes() == data and thing.mtime() > before.timestamp()

    def test_a_folder(self, leading: StorageProvider, client: Any, bucket: str) -> None:
        client.put_object(Bucket=bucket, Key="run/dir/x", Body=b"1")
        folder = obj(leading, bucket, "run/dir")
        before = folder.mtime()
        time.sleep(1.1)
        folder.touch()
        assert folder.mtime() > before and f"run/dir/{MARKER}" in keys(client, bucket)


class TestDeleting:
    def test_exactly_this_object(self, provider: StorageProvider, client: Any, bucket: str) -> None:
        for key in ("a", "ab", "a/b", "dir/x", f"dir/{MARKER}", "dirs/x", "dir.txt"):
            if key != "a/b":  # this server cannot hold both; S3 could
                client.put_object(Bucket=bucket, Key=key, Body=b"1")
        obj(provider, bucket, "a").remove()
        obj(provider, bucket, "dir").remove()
        obj(provider, bucket, "not-there").remove()
        assert keys(client, bucket) == ["ab", "dir.txt", "dirs/x"]

    def test_the_bucket_stays_when_its_last_object_goes(
        self, provider: StorageProvider, client: Any, bucket: str
    ) -> None:
        client.put_object(Bucket=bucket, Key="last", Body=b"")
        obj(provider, bucket, "last").remove()
        client.head_bucket(Bucket=bucket)

    def test_a_missing_bucket_is_not_made(
        self, provider: StorageProvider, proxy: S3Proxy, client: Any
    ) -> None:
        thing = obj(provider, "no-such-bucket", "k")
        write(thing.local_path(), b"")
        with pytest.raises(WorkflowError, match="bucket 'no-such-bucket' does not exist"):
            thing.store_object()
        with pytest.raises(client.exceptions.ClientError):
            client.head_bucket(Bucket="no-such-bucket")

    def test_delete_all_output_deletes_outputs_and_nothing_else(
        self, proxy: S3Proxy, client: Any, bucket: str, tmp_path: Path
    ) -> None:
        given = ["run/in.txt", "run/out.txt.bak", "run/dir-not/x", "run/other/y", "elsewhere"]
        for key in given:
            client.put_object(Bucket=bucket, Key=key, Body=b"1")
        text = (
            "rule one:\n    input: 'in.txt'\n    output: 'out.txt', directory('dir')\n"
            "    shell: 'cp {input} {output[0]}; mkdir {output[1]}; touch {output[1]}/x'\n"
        )
        write(tmp_path / "Snakefile", text.encode())
        storage = ["--default-storage-provider", "byok8s", "--default-storage-prefix"]
        command = [str(Path(BYOK8S).parent / "snakemake"), "--cores=1", *storage]
        for more in ((), ("--delete-all-output",)):
            subprocess.run([*command, f"s3://{bucket}/run", *more], check=True, cwd=tmp_path)
            made = set(keys(client, bucket)) - set(given)
            assert made == (set() if more else {"run/out.txt", "run/dir/x", f"run/dir/{MARKER}"})
        assert keys(client, bucket) == sorted(given)


class TestFoldersOfOthers:
    """A rule that names a folder where it means a file deletes nothing in it."""

    @pytest.mark.parametrize("mark", ["{}", "temp({})", "touch({})"])
    @pytest.mark.parametrize("command", ["false", "echo x > {output}"])
    def test_no_folder_is_deleted_where_a_rule_says_file(
        self, proxy: S3Proxy, client: Any, bucket: str, tmp_path: Path, mark: str, command: str
    ) -> None:
        client.put_object(Bucket=bucket, Key="data/precious.txt", Body=b"1")
        output = mark.format("'data'")
        done = local_run(
            tmp_path,
            bucket,
            "rule all:\n    input: 'end.txt'\n"
            "rule end:\n    input: 'data'\n    output: 'end.txt'\n    shell: 'true > {output}'\n"
            f"rule data:\n    output: {output}\n    shell: '{command}'\n",
            "--force",
        )
        assert done.returncode == 2, done.stdout + done.stderr
        assert f"makes a file s3://{bucket}/data, which is a folder" in done.stderr
        assert keys(client, bucket) == ["data/precious.txt"]

    def test_nor_by_plain_snakemake(
        self, provider: StorageProvider, client: Any, bucket: str
    ) -> None:
        client.put_object(Bucket=bucket, Key="data/precious.txt", Body=b"1")
        thing = obj(provider, bucket, "data")
        thing.remove()
        write(thing.local_path(), b"x")
        with pytest.raises(WorkflowError, match="objects that no rule has made"):
            thing.store_object()
        assert keys(client, bucket) == ["data/precious.txt"]


def local_run(
    folder: Path, bucket: str, snakefile: str, *options: str
) -> subprocess.CompletedProcess[str]:
    """`byok8s --local` with files in the bucket."""
    write(folder / "Snakefile", snakefile.encode())
    write(folder / "flow.json", b"{}")
    write(folder / "params.json", b"{}")
    command = [BYOK8S, "flow", "params", "--local", "-b", bucket, *options]
    return subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("data/a.txt", "of the form"),
        ("s3://bucket/", "of the form"),
        ("s3://B/key", "no bucket name"),
        ("s3://bucket/a//b", "absolute path"),
        ("s3://bucket/../b", "'..' part"),
        ("s3://bucket/a\nb", "control character"),
    ],
)
def test_queries_that_are_refused(query: str, reason: str) -> None:
    result = StorageProvider.is_valid_query(query)
    assert not result and reason in str(result)


@pytest.mark.parametrize("query", ["s3://bucket/{a}/b", "s3://my.bucket-1/x y%", "s3://{b}/k"])
def test_queries_that_are_accepted(query: str) -> None:
    assert StorageProvider.is_valid_query(query)
