"""The requests of a pod: one GET for each input, one PUT for each output."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from byok8s.worker import lean
from byok8s.worker.names import FACTS_VARIABLE, S3_VARIABLE, STORED_VARIABLE
from byok8s.worker.spec import Command, File
from byok8s.worker.transfer import Transfers
from byok8s.workflow.storage import StorageProvider
from support.objects import obj
from support.s3proxy import S3Proxy


class TestPod:
    """Snakemake in a pod, with the leader's facts: one GET per input, one PUT per output."""

    SNAKEFILE = (
        "rule make:\n"
        "    input: 'in/{n}.txt', folder='folder'\n"
        "    output: 'out/{n}.txt', touch('.flag{n}'), directory('made{n}')\n"
        "    shell: 'cat {input[0]:q} {input.folder}/f > {output[0]:q}; mkdir -p {output[2]}; '\n"
        "        'echo 1 > {output[2]}/one'\n"
    )

    def test_inputs_travel_side_by_side(
        self, leading: StorageProvider, proxy: S3Proxy, client: Any, bucket: str
    ) -> None:
        for i in range(20):
            client.put_object(Bucket=bucket, Key=f"run/{i}", Body=b"x" * 1024)
        things = [obj(leading, bucket, f"run/{i}") for i in range(20)]
        assert leading.leader is not None and leading.leader.keys_below("")
        proxy.reset()
        proxy.latency = 0.05

        async def retrieve() -> None:
            await asyncio.gather(*(thing.managed_retrieve() for thing in things))

        began = time.monotonic()
        asyncio.run(retrieve())
        assert time.monotonic() - began < 0.5
        assert proxy.counts() == {"GET": 20}
        assert all(thing.local_path().stat().st_size == 1024 for thing in things)

    def test_inputs_of_a_lean_job_travel_side_by_side(
        self, transfers: Transfers, proxy: S3Proxy, client: Any, bucket: str, tmp_path: Path
    ) -> None:
        for i in range(20):
            client.put_object(Bucket=bucket, Key=f"run/{i}", Body=b"x" * 1024)
        files = tuple(File(f"run/{i}", f"in/{i}") for i in range(20))
        proxy.latency = 0.05
        began = time.monotonic()
        lean.prepare(Command("", 1, files, (), ()), tmp_path, transfers)
        assert time.monotonic() - began < 0.5
        assert proxy.counts() == {"GET": 20}
        assert all((tmp_path / file.path).stat().st_size == 1024 for file in files)

    def test_requests(
        self, leading: StorageProvider, proxy: S3Proxy, client: Any, bucket: str, tmp_path: Path
    ) -> None:
        client.put_object(Bucket=bucket, Key="run/in/1.txt", Body=b"one\n")
        client.put_object(Bucket=bucket, Key="run/folder/f", Body=b"two\n")
        files = ["in/1.txt", "folder", "out/1.txt", ".flag1", "made1"]
        assert leading.leader is not None
        facts = leading.leader.facts(f"s3://{bucket}/run/{name}" for name in files)
        proxy.reset()
        stored = self.run(tmp_path, bucket, facts)
        assert sorted(proxy.requests) == [
            ("GET", "run/folder/f"),
            ("GET", "run/in/1.txt"),
            ("PUT", "run/.flag1"),
            ("PUT", "run/made1/.snakemake_timestamp"),
            ("PUT", "run/made1/one"),
            ("PUT", "run/out/1.txt"),
        ]
        assert client.get_object(Bucket=bucket, Key="run/out/1.txt")["Body"].read() == (
            b"one\ntwo\n"
        )
        assert {row[0]: row[1] for row in stored} == {
            "run/.flag1": 0,
            "run/made1/.snakemake_timestamp": 0,
            "run/made1/one": 2,
            "run/out/1.txt": 8,
        }

    def run(self, folder: Path, bucket: str, facts: dict[str, Any]) -> list[list[Any]]:
        work = folder / "pod"
        work.mkdir()
        (work / "Snakefile").write_text(self.SNAKEFILE)
        (folder / "facts").write_text(json.dumps(facts))
        environment = {
            **os.environ,
            FACTS_VARIABLE: str(folder / "facts"),
            STORED_VARIABLE: str(folder / "stored"),
            S3_VARIABLE: json.dumps({"bucket": bucket}),
        }
        options = """--target-jobs make:n=1 --allowed-rules make --cores 1 --force --nolock
            --ignore-incomplete --rerun-triggers code input mtime params software-env
            --mode remote --max-inventory-time 0 --shared-fs-usage none
            --default-storage-provider byok8s --default-storage-prefix"""
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", *options.split(), f"s3://{bucket}/run"],
            check=False,
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        told = [json.loads(line) for line in (folder / "stored").read_text().splitlines()]
        assert sorted(row for row in told if isinstance(row, int)) == [4, 4], "bytes fetched"
        return [row for row in told if isinstance(row, list)]
