"""A real S3 server (versitygw) on loopback, with its buckets in a folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from byok8s.cluster import S3Server
from byok8s.settings import cache_folder

ACCESS_KEY, SECRET_KEY = "test-access-key", "test-secret-key"


def find_versitygw() -> str | None:
    """The program, as `byok8s cluster create` has built it, or from PATH."""
    built = sorted((cache_folder() / "bin").glob("versitygw-*/versitygw"))
    return str(built[-1]) if built else shutil.which("versitygw")


@contextmanager
def s3_server(program: str, folder: Path, *options: str) -> Iterator[S3Server]:
    """Runs until the end of the block; buckets are folders of `folder`."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "ROOT_ACCESS_KEY": ACCESS_KEY,
        "ROOT_SECRET_KEY": SECRET_KEY,
    }
    command = [program, "--quiet", "--port", f"127.0.0.1:{port}", *options, "posix", str(folder)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            _wait(port, process)
            yield S3Server(f"http://127.0.0.1:{port}", ACCESS_KEY, SECRET_KEY)
        finally:
            process.terminate()


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        assert process.poll() is None, "versitygw has ended"
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError("versitygw does not listen")
