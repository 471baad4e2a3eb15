"""Files in S3 from inside pods: another way to the server, other buckets, and more than memory."""

from __future__ import annotations

import os
import re
import textwrap
import threading
import uuid
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from byok8s.cluster import ClusterInfo, S3Server
from byok8s.worker.s3 import RETRIES
from support.certificates import self_signed
from support.project import Project, own_bucket
from support.s3proxy import Fault, S3Proxy


@pytest.fixture
def server(cluster: ClusterInfo) -> S3Server:
    assert cluster.s3 is not None
    return cluster.s3


@pytest.fixture
def secure(server: S3Server, tmp_path: Path) -> Iterator[S3Proxy]:
    """The S3 server with TLS, by a certificate that nobody else trusts: in tmp_path/ca.pem."""
    host = urlsplit(server.endpoint_url).hostname or ""
    pem = tmp_path / "server.pem"
    self_signed(pem, tmp_path / "ca.pem", host, authority=False)
    with S3Proxy(server.endpoint_url, host=host, certificate=pem) as running:
        yield running


@pytest.fixture
def other(s3: Any) -> Iterator[str]:
    """A second bucket, removed afterwards."""
    with own_bucket(s3, f"test-{uuid.uuid4().hex[:12]}") as name:
        yield name


def test_pods_know_authority_encryption_and_storage_class(
    project: Project, other: str, server: S3Server, secure: S3Proxy, tmp_path: Path
) -> None:
    project.s3.put_object(Bucket=other, Key="in.txt", Body=b"other\n")
    project.put("in.txt", "ours\n")
    text = f"""
        storage elsewhere:
            provider="byok8s",
            endpoint_url="{server.endpoint_url}"
        rule all:
            input: "lean.txt", "snakemake.txt"
        rule lean:
            input: "in.txt"
            output: "lean.txt"
            shell: "cat {{input}} > {{output}}"
        rule snakemake:
            input: "in.txt", storage.elsewhere("s3://{other}/in.txt")
            output: "snakemake.txt"
            shell: "cat {{input}} > {{output}}"
        """
    project.write({"Snakefile": textwrap.dedent(text)})
    done = project.run(
        f"--s3-endpoint-url={secure.endpoint_url}",
        *("--s3-sse=AES256", "--s3-storage-class=STANDARD_IA"),
        AWS_CA_BUNDLE=str(tmp_path / "ca.pem"),
        AWS_ACCESS_KEY_ID=server.access_key,
        AWS_SECRET_ACCESS_KEY=server.secret_key,
    )
    assert done.code == 0, done.text
    assert project.get("lean.txt") == "ours\n" and project.get("snakemake.txt") == "ours\nother\n"
    asked = [
        (kind, key, headers)
        for (kind, key), headers in zip(secure.requests, secure.headers, strict=True)
        if ".byok8s/" not in key and kind != "LIST"
    ]
    assert sorted((kind, key) for kind, key, _ in asked) == [
        ("GET", "in.txt"),
        ("GET", "in.txt"),
        ("PUT", "lean.txt"),
        ("PUT", "snakemake.txt"),
    ]
    puts = [headers for kind, _, headers in asked if kind == "PUT"]
    assert {headers["x-amz-server-side-encryption"] for headers in puts} == {"AES256"}
    assert {headers["x-amz-storage-class"] for headers in puts} == {"STANDARD_IA"}


@pytest.fixture
def website(server: S3Server, tmp_path: Path) -> Iterator[str]:
    """A folder with a file, by HTTP, where pods find this machine."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path / "site"))

    (tmp_path / "site").mkdir()
    (tmp_path / "site/in.txt").write_text("web\n")
    host = urlsplit(server.endpoint_url).hostname or ""
    with ThreadingHTTPServer((host, 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://{host}:{running.server_port}/in.txt"
        running.shutdown()


def test_files_of_other_storage_plugins(
    project: Project, other: str, server: S3Server, website: str
) -> None:
    """Where they are installed, in this Python and so in the worker image."""
    for plugin in ("http", "s3"):
        pytest.importorskip(f"snakemake_storage_plugin_{plugin}")
    project.s3.put_object(Bucket=other, Key="in.txt", Body=b"other\n")
    text = f"""
        storage official:
            provider="s3", endpoint_url="{server.endpoint_url}", region="{server.region}",
            access_key="{server.access_key}", secret_key="{server.secret_key}"
        rule all:
            input: "out.txt", "lean.txt"
        rule others:
            input: storage.http("{website}"), storage.official("s3://{other}/in.txt")
            output: "out.txt"
            shell: "cat {{input}} > {{output}}"
        rule ours:
            input: "out.txt"
            output: "lean.txt"
            shell: "cat {{input}} > {{output}}"
        """
    project.write({"Snakefile": textwrap.dedent(text)})
    done = project.run()
    assert done.code == 0, done.text
    assert project.get("lean.txt") == "web\nother\n"
    assert "Nothing to be done" in project.run().out


def test_a_file_larger_than_the_pods_memory(
    project: Project, s3: Any, bucket: str, tmp_path: Path
) -> None:
    size = 300 * 1000 * 1000
    with open(tmp_path / "large", "wb") as file:
        file.write(os.urandom(1000))
        file.truncate(size)
    s3.upload_file(str(tmp_path / "large"), bucket, "in.bin")
    project.write(
        {
            "Snakefile": 'rule one:\n    input: "in.bin"\n    output: "out.bin"\n'
            '    resources: mem_mb=150\n    shell: "ln {input} {output}"\n'
        }
    )
    done = project.run()
    assert done.code == 0, done.text
    assert s3.head_object(Bucket=bucket, Key="out.bin")["ContentLength"] == size


def test_s3_that_is_away_for_longer_than_the_retries_costs_no_retry(
    project: Project, server: S3Server
) -> None:
    host = urlsplit(server.endpoint_url).hostname or ""
    project.put("in.txt", "ours\n")
    project.write(
        {
            "Snakefile": """
rule x:
    input: "in.txt"
    output: "x.txt"
    resources: attempt=lambda wildcards, attempt: attempt
    shell: "cat {input} > {output}; echo {resources.attempt} >> {output}"
"""
        }
    )
    with S3Proxy(server.endpoint_url, host=host) as proxy:
        # the first request and all that repeat it; the second pod's goes through
        proxy.faults.append(Fault("GET", "503", key="in.txt", times=1 + RETRIES))
        done = project.run(
            f"--s3-endpoint-url={proxy.endpoint_url}",
            AWS_ACCESS_KEY_ID=server.access_key,
            AWS_SECRET_ACCESS_KEY=server.secret_key,
        )
    assert done.code == 0, done.text
    assert project.get("x.txt") == "ours\n1\n"
    said = r"Again: x: Could not read s3://\S+/in.txt: the S3 server answers 'SlowDown'. It is run "
    assert re.search(said + r"again in 1 s and charged no retry \(disruption 1 of 10\)", done.out)
