"""Which faults the chaos gate draws, and what its proxies and readers make of them."""

from __future__ import annotations

import collections
import json
import socket
import subprocess
from pathlib import Path

from chaos.count import Counter
from chaos.drive import ask_for_little
from chaos.faults import KINDS, LONG, MOST_KILLS, draw
from chaos.workload import JOBS, write
from support.apiproxy import kind_of


def test_a_seed_always_means_the_same_faults_and_another_one_others() -> None:
    assert draw(7) == draw(7)
    assert len({tuple(draw(seed)) for seed in range(1, 201)}) == 200


def test_25_seeds_have_every_kind_and_200_have_each_often() -> None:
    assert {fault.kind for seed in range(1, 26) for fault in draw(seed)} == set(KINDS)
    count = collections.Counter(fault.kind for seed in range(1, 201) for fault in draw(seed))
    assert all(count[kind] == 10 for kind in LONG)
    assert min(count.values()) == 10


def test_faults_stay_within_their_bounds() -> None:
    for seed in range(1, 201):
        faults = draw(seed)
        brief = [fault for fault in faults if fault.kind not in LONG]
        assert 3 <= len(brief) <= 5 and len(faults) - len(brief) == (seed % 10 == 0)
        for fault in faults:
            assert 0 <= fault.after <= JOBS and 0 <= fault.delay <= 5 and 0 <= fault.pick < 1
            assert len(fault.again) < MOST_KILLS and (fault.kind == "kill" or not fault.again)
            lasts = fault.kind.startswith(("taint", "kubelet", "api_gone", "s3_gone"))
            assert bool(fault.seconds) == lasts


def test_some_strike_before_the_first_command_and_some_after_the_last_has_begun() -> None:
    kills = [f for seed in range(1, 201) for f in draw(seed) if f.kind == "kill"]
    moments = collections.Counter(
        "start" if f.after == 0 else "end" if f.after == JOBS else "" for f in kills
    )
    assert min(moments.values()) >= 10


def test_the_kinds_of_requests() -> None:
    pod = "/api/v1/namespaces/space/pods/pod-1"
    assert kind_of("GET", f"{pod}/log?container=job&follow=true") == "FOLLOW pods/NAME/log"
    assert kind_of("GET", f"{pod}/log?tailLines=5") == "GET pods/NAME/log"
    assert kind_of("GET", "/api/v1/namespaces/space/pods?watch=1") == "WATCH pods"
    assert kind_of("GET", "/api/v1/namespaces/space") == "GET namespaces"


def test_only_the_cpu_of_a_new_pod_is_changed() -> None:
    pod = {"spec": {"containers": [{"resources": {"requests": {"cpu": "950m", "memory": "1M"}}}]}}
    body = json.dumps(pod).encode()
    assert ask_for_little("PATCH pods/NAME", body) == body
    changed = json.loads(ask_for_little("POST pods", body))
    requests = changed["spec"]["containers"][0]["resources"]["requests"]
    assert requests == {"cpu": "100m", "memory": "1M"}


def say(counter: Counter, line: str) -> str:
    host, _, port = counter.address.partition("/")
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.sendall(f"{line}\n".encode())
        return connection.makefile().readline()


def test_commands_are_counted_once_however_often_they_tell() -> None:
    with Counter("127.0.0.1") as counter:
        for line in ("began 1 a.txt pod-1", "began 1 a.txt pod-1", "ended 1 a.txt pod-1"):
            assert say(counter, line) == "counted\n"
        assert say(counter, "what is this") == ""
        counter.on_stored("seed-1/out/a.txt")
        say(counter, "began 2 a.txt pod-2")
        assert counter.begun == 2
    first, second = counter.executions("seed-1")
    assert (first.job, first.pod) == ("out/a.txt", "pod-1")
    assert first.ended and first.stored and first.began <= first.ended <= first.stored
    assert (second.pod, second.ended, second.stored) == ("pod-2", None, None)


def test_the_step_makes_its_output_of_its_inputs_alone(tmp_path: Path) -> None:
    digests = set()
    with Counter("127.0.0.1") as counter:
        write(tmp_path / "project", counter.address)
        for folder, content in (("one", "a"), ("two", "a"), ("three", "b")):
            given, made = tmp_path / f"{folder}.in", tmp_path / folder / "made.txt"
            given.write_text(content)
            made.parent.mkdir()
            step = ["bash", str(tmp_path / "project" / "step.sh"), counter.address]
            subprocess.run([*step, "0", str(made), str(given)], check=True, timeout=60)
            assert len(made.read_text().splitlines()) == 300
            digests.add(made.read_bytes())
        assert len(digests) == 2
        assert [e.ended is not None for e in counter.executions("")] == [True] * 3
