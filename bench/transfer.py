"""One large file to S3 and back: byok8s's worker beside bare obstore, on the same server.

    .venv/bin/python bench/transfer.py                    # 5 GB, versitygw on loopback
    .venv/bin/python bench/transfer.py --size 1 --rounds 5
    .venv/bin/python bench/transfer.py --bucket NAME      # an S3 server of the AWS_* environment

Bare is the least that obstore allows: put() of a path, and eight threads that each read ranges of
8 MiB into the file; nothing is verified. byok8s verifies by the CRC-32 that it has stored with the
object, and by MD5 what another program has stored. All take turns, each transfer in a process of
its own, of which CPU seconds and the largest resident memory are told. Files and server share the
folder's disk; what is dirty is written before each turn, and what is to be stored is in memory, as
what a job has just written is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "test"))

PART = 8 * 1024 * 1024
THREADS = 8
GETS = 3  # in each round, since they take a tenth of the time
BARE = "obstore"


@dataclass(frozen=True)
class Turn:
    """One transfer: wall time and CPU in seconds, memory in bytes."""

    seconds: float
    cpu: float
    memory: int
    server_cpu: float = 0.0  # of a server that this program has started


def bare_put(store: Any, key: str, path: Path) -> None:
    store.put(key, path, chunk_size=PART, max_concurrency=THREADS)


def bare_get(store: Any, key: str, path: Path) -> None:
    size = store.head(key)["size"]
    with open(path, "wb", buffering=0) as file, ThreadPoolExecutor(THREADS) as pool:
        file.truncate(size)

        def fetch(start: int) -> None:
            end = min(start + PART, size)
            data = store.get_range(key, start=start, end=end)
            os.pwrite(file.fileno(), data, start)

        for _ in pool.map(fetch, range(0, size, PART)):
            pass


def ours_put(store: Any, key: str, path: Path) -> None:
    from byok8s.worker.transfer import Transfers

    Transfers(store).put_file(key, path)


def ours_get(store: Any, key: str, path: Path) -> None:
    from byok8s.worker.transfer import Transfers

    Transfers(store).get_file(key, path)


# What is read was stored by the side that the key names
WAYS = {
    ("put", BARE): (bare_put, "bench-obstore"),
    ("put", "byok8s"): (ours_put, "bench-byok8s"),
    ("get", BARE): (bare_get, "bench-byok8s"),
    ("get", "byok8s"): (ours_get, "bench-byok8s"),
    ("get", "byok8s by MD5"): (ours_get, "bench-obstore"),
}


def turn(direction: str, side: str, bucket: str, path: Path) -> None:
    """In a process of its own: transfer, and print what it took as JSON."""
    from byok8s.worker.s3 import open_store

    store = open_store(bucket)
    store.list(chunk_size=1).collect()  # the way to the server is known
    began, cpu = time.monotonic(), time.process_time()
    way, key = WAYS[direction, side]
    if direction == "put":
        subprocess.run(["cat", path], check=True, stdout=subprocess.DEVNULL)
    way(store, key, path)
    took = Turn(time.monotonic() - began, time.process_time() - cpu, peak_memory())
    print(json.dumps(asdict(took)))


def peak_memory() -> int:
    """Bytes; not what getrusage tells, which begins with that of the parent process."""
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) * 1024


def measure(direction: str, side: str, bucket: str, path: Path) -> Turn:
    os.sync()
    command = [sys.executable, __file__, "--turn", direction, side, bucket, str(path)]
    before = server_cpu()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return replace(Turn(**json.loads(done.stdout)), server_cpu=server_cpu() - before)


def server_cpu() -> float:
    """CPU seconds of this program's child, which between two turns is the server at most."""
    total = 0
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """versitygw on loopback with an empty bucket, named by the environment meanwhile."""
    from support.s3server import find_versitygw, s3_server

    program = find_versitygw()
    if program is None:
        sys.exit("There is no versitygw; make one with: byok8s cluster create --driver native")
    (folder / "buckets/bench").mkdir(parents=True)
    with s3_server(program, folder / "buckets") as running:
        os.environ |= {
            "AWS_ENDPOINT_URL_S3": running.endpoint_url,
            "AWS_ACCESS_KEY_ID": running.access_key,
            "AWS_SECRET_ACCESS_KEY": running.secret_key,
            "AWS_REGION": running.region,
        }
        yield "bench"


def make_file(path: Path, size: int) -> None:
    """Bytes that no server can make smaller."""
    block = os.urandom(PART)
    with open(path, "wb") as file:
        for start in range(0, size, PART):
            file.write((start.to_bytes(8, "big") + block[8:])[: size - start])


def same(first: Path, second: Path) -> bool:
    return subprocess.run(["cmp", "-s", first, second], check=False).returncode == 0


def compare(size: int, rounds: int, folder: Path, bucket: str) -> dict[tuple[str, str], list[Turn]]:
    original, copy = folder / "original", folder / "copy"
    make_file(original, size)
    turns: dict[tuple[str, str], list[Turn]] = {way: [] for way in WAYS}
    for number in range(rounds):
        order = list(WAYS if number % 2 == 0 else reversed(WAYS))
        for direction, side in [way for way in order if way[0] == "put"]:
            turns[direction, side].append(measure(direction, side, bucket, original))
        for direction, side in GETS * [way for way in order if way[0] == "get"]:
            turns[direction, side].append(measure(direction, side, bucket, copy))
            if not same(original, copy):
                sys.exit(f"{side} made another file of it")
            copy.unlink()
    return turns


def report(turns: dict[tuple[str, str], list[Turn]], size: int) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    print(
        f"{size / 1e9:g} GB, {os.cpu_count()} cores, {memory:.0f} GiB, Python "
        f"{platform.python_version()}; load average {load:.1f} at the end\n"
    )
    print("| | MB/s, median | all | of obstore | CPU s: client, server, of obstore | resident MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for (direction, side), taken in turns.items():
        seconds = statistics.median(turn.seconds for turn in taken)
        bare = statistics.median(turn.seconds for turn in turns[direction, BARE])
        bare_cpu = statistics.median(turn.cpu + turn.server_cpu for turn in turns[direction, BARE])
        rates = ", ".join(f"{size / turn.seconds / 1e6:.0f}" for turn in taken)
        cpu = statistics.median(turn.cpu for turn in taken)
        served = statistics.median(turn.server_cpu for turn in taken)
        largest = max(turn.memory for turn in taken) / 1e6
        print(
            f"| {direction}, {side} | {size / seconds / 1e6:.0f} | {rates} | {bare / seconds:.0%} "
            f"| {cpu:.1f}, {served:.1f}, {bare_cpu / (cpu + served):.0%} | {largest:.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--size", type=float, default=5, metavar="GB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the disk to use (default: the system's)")
    parser.add_argument("--bucket", help="on the server of the AWS_* environment")
    parser.add_argument("--turn", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turn:
        direction, side, bucket, path = options.turn
        turn(direction, side, bucket, Path(path))
        return
    size = int(options.size * 1e9)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder)))
        bucket = options.bucket or stack.enter_context(server(folder))
        report(compare(size, options.rounds, folder, bucket), size)


if __name__ == "__main__":
    main()
