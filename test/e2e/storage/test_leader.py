"""The leader's view of the bucket, and how few requests it takes."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

from byok8s.cluster import S3Server
from byok8s.storage.objects import Objects
from byok8s.worker.s3 import open_store
from byok8s.worker.transfer import Transfers
from byok8s.workflow.inputs import LocalInputs
from byok8s.workflow.storage import Lead, StorageProvider, lead
from support.objects import obj, write
from support.s3proxy import S3Proxy


class TestLeader:
    def test_one_listing_answers_all(
        self, leading: StorageProvider, proxy: S3Proxy, client: Any, bucket: str
    ) -> None:
        from snakemake.io import IOCache

        for i in range(30):
            client.put_object(Bucket=bucket, Key=f"run/in/{i}.txt", Body=b"x" * i)
        client.put_object(Bucket=bucket, Key="run/.byok8s/runs/1/log", Body=b"")
        for i in range(100):
            thing = obj(leading, bucket, f"run/in/{i}.txt")
            asyncio.run(thing.inventory(IOCache(max_wait_time=10)))
            assert thing.exists() == (i < 30)
            if i < 30:
                assert thing.size() == i and thing.mtime() > 1e9
                assert thing.checksum() == f"md5:{hashlib.md5(b'x' * i).hexdigest()}"
        assert leading.leader is not None
        assert "runs/1/log" not in str(leading.leader.keys_below(""))
        assert proxy.counts() == {"LIST": 1}

    def test_a_listing_has_as_many_pages_as_it_needs(
        self, leading: StorageProvider, proxy: S3Proxy, bucket: str, server: Any
    ) -> None:
        with_many = Transfers(open_store(bucket, server.endpoint_url))
        for i in range(1001):
            with_many.store.put(f"run/in/{i:05}", b"")
        assert leading.leader is not None
        leading.leader.inventory().prepare("run/x")
        assert proxy.counts() == {"LIST": 2}
        assert all(obj(leading, bucket, f"run/in/{i:05}").exists() for i in range(1001))
        assert not obj(leading, bucket, "run/in/01001").exists()
        assert proxy.counts() == {"LIST": 2}

    def test_our_own_pages_are_not_fetched(
        self, leading: StorageProvider, proxy: S3Proxy, client: Any, bucket: str, server: Any
    ) -> None:
        with_many = Transfers(open_store(bucket, server.endpoint_url))
        for i in range(2300):
            with_many.store.put(f"run/.byok8s/m/{i:05}", b"")
        for key in ("run/!first", "run/.byok8s.txt", "run/.c", "run/z/last"):
            client.put_object(Bucket=bucket, Key=key, Body=b"")
        assert leading.leader is not None
        assert leading.leader.keys_below("") == ["!first", ".byok8s.txt", ".c", "z/last"]
        assert proxy.counts() == {"LIST": 2}

    def test_results_are_told_and_doubts_looked_up_once(
        self, leading: StorageProvider, proxy: S3Proxy, client: Any, bucket: str
    ) -> None:
        leader = leading.leader
        assert leader is not None
        told, untold, folder = (obj(leading, bucket, f"run/{k}") for k in ("t", "u", "d"))
        assert leader.keys_below("") == [] and not told.exists()
        client.put_object(Bucket=bucket, Key="run/t", Body=b"abc")
        client.put_object(Bucket=bucket, Key="run/u", Body=b"abcd")
        client.put_object(Bucket=bucket, Key="run/d/x", Body=b"")
        proxy.reset()
        from byok8s.worker.transfer import ObjectMeta

        leader.told_stored("run/t", ObjectMeta(3, 5.0, "etag"))
        leader.told_finished([told.query, untold.query, folder.query], ["run/t"])
        assert (told.size(), told.mtime(), untold.size()) == (3, 5.0, 4)
        assert folder.exists() and folder._entry().names == ("x",)
        assert untold.exists() and folder.exists() and told.exists()
        assert proxy.counts() == {"HEAD": 2, "LIST": 1}

    def test_glob_over_the_bucket(self, leading: StorageProvider, client: Any, bucket: str) -> None:
        import snakemake.api  # noqa: F401 (its modules import each other in this order only)
        from snakemake.io import glob_wildcards
        from snakemake.storage import flag_with_storage_object

        for key in ("data/a.txt", "data/b c.txt", "data/sub/d.txt", "data/x.csv", "other/e.txt"):
            client.put_object(Bucket=bucket, Key=f"run/{key}", Body=b"")
        pattern = obj(leading, bucket, "run/data/{s}.txt")
        found = glob_wildcards(flag_with_storage_object("x", pattern))
        assert found.s == ["a", "b c", "sub/d"]
        folders = obj(leading, bucket, "run/{folder,[^/]+}")
        assert glob_wildcards(flag_with_storage_object("x", folders)).folder == ["data", "other"]


class TestManyJobs:
    SNAKEFILE = (
        "N = range(500)\n"
        "rule all:\n    input: 'all.txt'\n"
        "rule one:\n    input: 'in/{n}.txt'\n    output: 'out/{n}.txt'\n    shell: ''\n"
        "rule gather:\n    input: expand('out/{n}.txt', n=N)\n    output: 'all.txt'\n"
        "    shell: ''\n"
    )

    def test_the_leader_asks_nothing_per_job(
        self, proxy: S3Proxy, server: S3Server, client: Any, bucket: str, tmp_path: Path
    ) -> None:
        direct = Transfers(open_store(bucket, server.endpoint_url))
        for n in range(500):
            direct.store.put(f"run/in/{n}.txt", b"")
        (tmp_path / "Snakefile").write_text(self.SNAKEFILE)
        script = Path(__file__).parents[2] / "support" / "nullrun.py"
        done = subprocess.run(
            [sys.executable, str(script), bucket, server.endpoint_url],
            check=False,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert len(direct.list("run/out/")) == 500 and "all.txt" in direct.list("run/")
        assert proxy.counts() == {"LIST": 1}


class TestLocalInputs:
    def test_requests_of_the_first_and_of_the_next_run(
        self, proxy: S3Proxy, bucket: str, tmp_path: Path
    ) -> None:
        for i in range(20):
            write(tmp_path / f"data/{i}.txt", b"x" * i)

        def run() -> tuple[tuple[int, int], dict[str, int]]:
            proxy.reset()
            leader = Lead(bucket, "run", lambda name: Objects(open_store(name)))
            inputs = LocalInputs(leader.inventory(), "run", tmp_path)
            inputs.producible = lambda path: False
            leader.keys_below("")
            for i in range(20):
                inputs.look(f"run/data/{i}.txt")
            return inputs.flush(), dict(proxy.counts())

        assert run() == ((20, 190), {"LIST": 1, "GET": 1, "PUT": 21})
        assert run() == ((0, 0), {"LIST": 1, "GET": 1})
        write(tmp_path / "data/7.txt", b"changed")
        assert run() == ((1, 7), {"LIST": 1, "GET": 1, "PUT": 2})

    def test_a_pending_file_is_uploaded_before_a_local_rule_fetches_it(
        self, proxy: S3Proxy, bucket: str, tmp_path: Path
    ) -> None:
        leader = Lead(bucket, "run", lambda name: Objects(open_store(name)))
        inputs = LocalInputs(leader.inventory(), "run", tmp_path / "work")
        inputs.producible = lambda path: False
        leader.look_local, leader.before_retrieval = inputs.look, inputs.flush
        write(tmp_path / "work/in.txt", b"content")
        lead(leader)
        try:
            thing = obj(
                StorageProvider(tmp_path / "local", logging.getLogger("test")), bucket, "run/in.txt"
            )
            assert thing.exists() and thing.size() == 7
            thing.retrieve_object()
            assert thing.local_path().read_bytes() == b"content"
        finally:
            lead(None)
