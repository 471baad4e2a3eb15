"""Which faults the chaos gate draws, and what its proxies and readers make of them."""

from __future__ import annotations

import json
from collections import Counter

from chaos.drive import Counter as Stored
from chaos.drive import ask_for_little, executions
from chaos.faults import KINDS, LONG, MOST_KILLS, draw
from chaos.workload import JOBS
from support.apiproxy import kind_of


def test_a_seed_always_means_the_same_faults_and_another_one_others() -> None:
    assert draw(7) == draw(7)
    assert len({tuple(draw(seed)) for seed in range(1, 201)}) == 200


def test_25_seeds_have_every_kind_and_200_have_each_often() -> None:
    assert {fault.kind for seed in range(1, 26) for fault in draw(seed)} == set(KINDS)
    count = Counter(fault.kind for seed in range(1, 201) for fault in draw(seed))
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
    moments = Counter("start" if f.after == 0 else "end" if f.after == JOBS else "" for f in kills)
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


def test_executions_are_read_from_what_commands_leave() -> None:
    stored = Stored()
    stored.stored["seed-1/out/a.txt"] += [50.0, 103.0, 120.0]
    told = {
        "ran/a.txt/1.began": {"pod": "pod-1", "at": 100.0},
        "ran/a.txt/1.ended": {"pod": "pod-1", "at": 102.0},
        "ran/a.txt/2.began": {"pod": "pod-2", "at": 110.0},
    }
    first, second = executions(told, "seed-1", stored)
    assert (first.job, first.pod, first.ended, first.stored) == ("out/a.txt", "pod-1", 102.0, 103.0)
    assert (second.pod, second.ended, second.stored) == ("pod-2", None, None)
    stored("seed-1/ran/a.txt/1.began")
    assert stored.begun == 1
