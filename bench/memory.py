"""A very large object through little memory: memory.py [--size 20] [--limit 200].

    .venv/bin/python bench/memory.py

Stores a file in a versitygw on loopback and gets it back with byok8s's worker, each in a process
in a control group that allows --limit MB, page cache included; as root. The file is sparse, but
for its number in each 8 MiB, and the copy is compared with it. Needs room for twice the size.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transfer import PART, same, server

LIMITS = {
    "memory.max": Path("/sys/fs/cgroup"),
    "memory.limit_in_bytes": Path("/sys/fs/cgroup/memory"),
}
TURN = """
import json, re, sys, time
from pathlib import Path
from byok8s.worker.s3 import open_store
from byok8s.worker.transfer import Transfers

began = time.monotonic()
getattr(Transfers(open_store(sys.argv[1])), sys.argv[2])("large", Path(sys.argv[3]))
resident = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())
print(json.dumps([time.monotonic() - began, int(resident[1]) / 1000]))
"""


@contextmanager
def group(limit: int) -> Iterator[Path]:
    """A control group with so many bytes of memory."""
    there = [(name, parent) for name, parent in LIMITS.items() if parent.exists()]
    name, parent = there[-1]
    folder = parent / f"byok8s-bench-{os.getpid()}"
    folder.mkdir()
    try:
        (folder / name).write_text(str(limit))
        yield folder
    finally:
        folder.rmdir()


def sparse(path: Path, size: int) -> None:
    with open(path, "wb") as file:
        file.truncate(size)
        for start in range(0, size - 8, PART):
            os.pwrite(file.fileno(), start.to_bytes(8, "big"), start)


def turn(inside: Path, way: str, bucket: str, path: Path, size: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TURN, bucket, way, str(path)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: (inside / "cgroup.procs").write_text(str(os.getpid())),
    )
    seconds, resident = json.loads(done.stdout)
    print(
        f"{way}: {seconds:.0f} s, {size / seconds / 1e6:.0f} MB/s, "
        f"{resident:.0f} MB resident at most",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=float, default=20, metavar="GB")
    parser.add_argument("--limit", type=float, default=200, metavar="MB")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    size = int(options.size * 1e9)
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as name,
        group(int(options.limit * 1e6)) as inside,
        server(Path(name)) as bucket,
    ):
        original, copy = Path(name, "original"), Path(name, "copy")
        sparse(original, size)
        turn(inside, "put_file", bucket, original, size)
        turn(inside, "get_file", bucket, copy, size)
        if not same(original, copy):
            sys.exit("the copy is another file")
        print(f"{options.size:g} GB came back as they were; load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
