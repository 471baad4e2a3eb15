"""The batch system on the real cluster, and behind a proxy that makes faults."""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from byok8s.batch import (
    ApiError,
    BatchSystem,
    Cause,
    KubeClient,
    Limits,
    PodRequest,
    RunIdentity,
    Update,
)
from byok8s.batch import system as batch_system
from byok8s.cluster import ClusterInfo
from byok8s.settings import KubeSettings
from support.apiproxy import ApiProxy, Fault
from support.fakeapi import kubeconfig

MARKER = "marker-secret-5f1c"


@dataclass
class Lab:
    """A namespace of the test's own, and batch systems in it."""

    client: KubeClient
    image: str
    systems: list[BatchSystem] = field(default_factory=list)

    def start(self, client: KubeClient | None = None, run: str = "", **options: Any) -> BatchSystem:
        identity = RunIdentity(run or f"test-{uuid.uuid4().hex[:8]}", "Jane Doe")
        made = BatchSystem(client or self.client, identity, **options)
        made.start()
        self.systems.append(made)
        return made

    def request(self, job_id: str, script: str = "true", **more: Any) -> PodRequest:
        plain = PodRequest(
            job_id, image=self.image, command=("bash", "-c", script), cpu=0.05, rule="rule"
        )
        return replace(plain, **more)

    def path(self, kind: str = "pods", name: str = "") -> str:
        return f"/api/v1/namespaces/{self.client.namespace}/{kind}" + (f"/{name}" if name else "")

    def names(self, kind: str = "pods") -> list[str]:
        selector = "app.kubernetes.io/managed-by=byok8s"
        items = self.client.get(self.path(kind), labelSelector=selector)["items"]
        return [item["metadata"]["name"] for item in items]


@pytest.fixture(scope="module")
def namespace(cluster: ClusterInfo) -> Iterator[str]:
    """A namespace that enforces Pod Security "restricted"."""
    client = KubeClient.load(KubeSettings(context=cluster.context))
    name = f"batch-{uuid.uuid4().hex[:6]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    client.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    yield name
    client.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def lab(cluster: ClusterInfo, namespace: str) -> Iterator[Lab]:
    assert cluster.worker_image
    settings = KubeSettings(context=cluster.context, namespace=namespace)
    lab = Lab(KubeClient.load(settings), cluster.worker_image)
    yield lab
    for system in lab.systems:
        system.shutdown()


@pytest.fixture
def proxy(cluster: ClusterInfo) -> Iterator[ApiProxy]:
    with ApiProxy(cluster.context) as proxy:
        yield proxy


@pytest.fixture
def through(proxy: ApiProxy, lab: Lab, tmp_path: Path) -> Iterator[KubeClient]:
    """A client that goes through the proxy."""
    settings = kubeconfig(tmp_path / "config", proxy.url)
    yield KubeClient.load(replace(settings, namespace=lab.client.namespace))
    while lab.systems:  # as long as the proxy is there
        lab.systems.pop().shutdown()


def end(batch: BatchSystem, job_id: str = "", within: float = 60) -> Update:
    """The next end (of one job); everything before it is let go."""
    deadline = time.monotonic() + within
    while (left := deadline - time.monotonic()) > 0:
        told = batch.updates(left)
        if told and told.state in ("succeeded", "failed") and told.id in (job_id or told.id, ""):
            return told
    raise AssertionError(f"nothing ended in {within} s; issued: {batch.issued()}")


def started(batch: BatchSystem, count: int) -> dict[str, str]:
    """The pods of the next `count` jobs that start running, by job id."""
    pods: dict[str, str] = {}
    deadline = time.monotonic() + 60
    while len(pods) < count:
        told = batch.updates(max(0.0, deadline - time.monotonic()))
        assert told and told.state in ("running", "waiting"), told  # others use the node too
        if told.state == "running":
            pods[told.id] = told.pod
    return pods


def until(condition: Callable[[], Any], within: float = 30) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.05)


def test_case_1_two_sleeps_are_killed_and_a_third_job_is_told(lab: Lab):
    batch = lab.start()
    batch.issue(lab.request("one", "sleep 1000"))
    batch.issue(lab.request("two", "sleep 1000"))
    assert sorted(batch.issued()) == ["one", "two"]
    assert sorted(started(batch, 2)) == sorted(batch.running()) == ["one", "two"]
    assert min(batch.running().values()) >= 0
    assert batch.kill(["one", "two", "unknown"]) == []
    assert batch.running() == {} and batch.issued() == [] and lab.names() == []
    batch.issue(lab.request("three", "sleep 1"))
    told = end(batch)
    assert (told.id, told.state, told.exit_code) == ("three", "succeeded", 0)
    assert told.started and told.finished and told.finished - told.started >= 1
    assert batch.updates(0.5) is None


def test_case_2_and_case_3_environment_and_exit_code(lab: Lab):
    batch = lab.start()
    script = '[ "$FOO" = bar ] && exit 23; exit 42'
    batch.issue(lab.request("set", script, env={"FOO": "bar"}))
    batch.issue(lab.request("unset", script))
    codes = {told.id: told for told in (end(batch), end(batch))}
    assert codes["set"].exit_code == 23 and codes["unset"].exit_code == 42
    assert codes["set"].cause == Cause.COMMAND_FAILED
    assert codes["set"].message == "The command failed with exit code 23."


def test_commands_and_environment_arrive_unchanged(lab: Lab):
    batch = lab.start()
    text = """quotes ' " \\ $$ $(HOME) ${HOME} `date` ü\nnewline"""
    script = 'printf %s "$A" > /dev/termination-log; printf %s "$0" >> /dev/termination-log'
    batch.issue(lab.request("job", command=("bash", "-c", script, text), env={"A": text}))
    assert end(batch).result == text * 2


def test_a_pod_gets_the_secret_and_nothing_shows_it(lab: Lab):
    batch = lab.start(secret_files={"credentials": MARKER})
    script = (
        "set -e; id -u; pwd; echo $HOME; touch /work/a /tmp/b; cat /var/run/byok8s/credentials; "
        "[ ! -e /var/run/secrets ]; echo 4711 > /dev/termination-log"
    )
    batch.issue(lab.request("job", script))
    told = end(batch)
    assert (told.state, told.result) == ("succeeded", "4711\n"), told
    assert batch.logs("job") == f"65532\n/work\n/tmp\n{MARKER}"
    assert batch.logs("job", tail_lines=1) == MARKER
    assert batch.logs("unknown") == ""
    assert MARKER not in json.dumps(lab.client.get(lab.path()))
    assert MARKER not in json.dumps(lab.client.get(lab.path("events")))
    batch.refresh_secret({"credentials": "renewed"})
    batch.issue(lab.request("again", "cat /var/run/byok8s/credentials"))
    assert end(batch).state == "succeeded"
    assert batch.logs("again") == "renewed"


HOG = "python3 -c 'bytearray(300_000_000)'"


def test_case_14_ends_of_running_pods(lab: Lab):
    batch = lab.start()
    batch.issue(
        lab.request("oom", command=("python3", "-c", "bytearray(300_000_000)"), memory_mb=64)
    )
    batch.issue(lab.request("oom-child", f"{HOG} || exit 1", memory_mb=64))
    batch.issue(lab.request("oom-swallowed", f"{HOG}; true", memory_mb=64))
    batch.issue(lab.request("signal", "sh -c 'kill -SEGV $$'; exit $?"))
    batch.issue(lab.request("deadline", "sleep 100", deadline_seconds=2))
    batch.issue(lab.request("no-command", command=("no-such-program",)))
    told = {u.id: u for u in (end(batch) for _ in range(6))}
    assert told["oom"].cause == told["oom-child"].cause == Cause.OUT_OF_MEMORY
    assert (told["oom"].exit_code, told["oom-child"].exit_code) == (137, 1)
    assert "limit of 64MB; give it more (mem_mb)" in told["oom-child"].message
    assert told["oom-swallowed"].state == "succeeded"
    assert "ran out of memory" in told["oom-swallowed"].message
    assert "SIGSEGV (exit code 139)" in told["signal"].message
    assert told["deadline"].cause == Cause.DEADLINE
    assert "deadline of 2 s" in told["deadline"].message
    assert '"no-such-program": executable file not found' in told["no-command"].message
    assert not any(u.disruption for u in told.values())


def test_case_11_waiting_causes_become_failures(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    def with_faults(run: RunIdentity, request: PodRequest, **more: Any) -> dict[str, Any]:
        made = manifest(run, request, **more)
        spec = made["spec"]
        if request.id == "key":
            reference = {"secretKeyRef": {"name": run.name, "key": "absent"}}
            spec["containers"][0]["env"].append({"name": "X", "valueFrom": reference})
        if request.id == "volume":
            spec["volumes"][0] = {"name": "work", "secret": {"secretName": "absent"}}
        return made

    manifest = batch_system.manifest
    monkeypatch.setattr(batch_system, "manifest", with_faults)
    limits = Limits(image_absent=4, config=4, volume=4)
    batch = lab.start(secret_files={"a": "b"}, limits=limits)
    batch.issue(lab.request("image", image="localhost/no-such-image:1"))
    batch.issue(lab.request("name", image="Bad//Name"))
    batch.issue(lab.request("key"))
    batch.issue(lab.request("volume"))
    batch.issue(lab.request("cpu", cpu=2000))
    batch.issue(lab.request("memory", memory_mb=5_000_000))
    expected = {
        "image": (Cause.IMAGE_PULL, "The image 'localhost/no-such-image:1' cannot be pulled"),
        "name": (Cause.INVALID_IMAGE, "'Bad//Name' is not a valid image name"),
        "key": (Cause.CONFIG_ERROR, "couldn't find key absent in Secret"),
        "volume": (Cause.VOLUME, 'secret "absent" not found'),
        "cpu": (Cause.UNSCHEDULABLE, "asks for 2000 CPUs and the largest node has"),
        "memory": (Cause.UNSCHEDULABLE, "asks for 5000000 MB of memory and the largest node"),
    }
    said: dict[str, str] = {}
    ended: dict[str, Update] = {}
    until_time = time.monotonic() + 90
    while len(ended) < len(expected) and time.monotonic() < until_time:
        told = batch.updates(1)
        if told and told.state == "waiting":
            said[told.id] = told.message
        elif told and told.state == "failed":
            ended[told.id] = told
    assert {name: told.cause for name, told in ended.items()} == {
        name: cause for name, (cause, _) in expected.items()
    }
    for name, (_, sentence) in expected.items():
        assert sentence in ended[name].message
        if name in ("cpu", "memory"):  # at once, without a pod
            assert name not in said
        else:
            assert said[name] == ended[name].message  # it was said before
    until(lambda: lab.names() == [])


def test_case_12_a_refused_pod_fails_and_later_jobs_run(lab: Lab):
    batch = lab.start(image_pull_policy="Sometimes")
    batch.issue(lab.request("refused"))
    told = end(batch)
    assert told.cause == Cause.CREATE_REFUSED
    assert "imagePullPolicy: Unsupported value" in told.message
    other = lab.start()
    other.issue(lab.request("good"))
    assert end(other).state == "succeeded"


def test_a_full_quota_makes_jobs_wait_and_too_much_is_refused(lab: Lab):
    hard = {"pods": "2", "requests.cpu": "1"}
    quota = {"metadata": {"name": "two"}, "spec": {"hard": hard}}
    lab.client.create(lab.path("resourcequotas"), quota)
    path = lab.path("resourcequotas", "two")
    try:
        until(lambda: lab.client.get(path).get("status", {}).get("hard") == hard)
        batch = lab.start()
        for i in range(5):
            batch.issue(lab.request(f"job-{i}", "sleep 1"))
        batch.issue(lab.request("large", cpu=1.5))
        told = []
        while sum(u.state in ("succeeded", "failed") for u in told) < 6:
            news = batch.updates(60)
            assert news, told
            told.append(news)
        failed = [u for u in told if u.state == "failed"]
        assert [u.id for u in failed] == ["large"] and "exceeded quota: two" in failed[0].message
        waiting = [u for u in told if u.state == "waiting" and u.cause == Cause.CREATE_REFUSED]
        assert waiting and "has no quota left for the pod now" in waiting[0].message
    finally:
        lab.client.delete(path)


def test_a_pod_that_somebody_deletes_or_evicts(lab: Lab):
    batch = lab.start()
    batch.issue(lab.request("deleted", "sleep 1000"))
    batch.issue(lab.request("evicted", "trap 'exit 1' TERM; sleep 1000 & wait"))
    pods = started(batch, 2)
    lab.client.delete(lab.path(name=pods["deleted"]))
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pods["evicted"]},
    }
    lab.client.create(f"{lab.path(name=pods['evicted'])}/eviction", eviction)
    ends = {u.id: u for u in (end(batch), end(batch))}
    assert (ends["deleted"].cause, ends["deleted"].disruption) == (Cause.DELETED, True)
    assert (ends["evicted"].cause, ends["evicted"].disruption) == (Cause.EVICTED, True)


def test_case_13_a_long_owner_gives_valid_names_and_labels(lab: Lab):
    identity = RunIdentity("r" * 40, "Jane_Doe" + "x" * 40)
    batch = BatchSystem(lab.client, identity)
    batch.start()
    lab.systems.append(batch)
    batch.issue(lab.request("job", rule="a_very_long_rule_" * 5, job="a job: with=everything " * 5))
    told = end(batch)
    assert told.state == "succeeded" and len(told.pod) <= 63
    selector = f"byok8s.io/owner={'Jane_Doe' + 'x' * 40}"
    found = lab.client.get(lab.path(), labelSelector=selector)["items"]
    assert [item["metadata"]["name"] for item in found] == [told.pod]


def test_shutdown_leaves_nothing(lab: Lab):
    batch = lab.start(secret_files={"a": "b"})
    for i in range(6):
        batch.issue(lab.request(f"sleep-{i}", "sleep 1000"))
    until(lambda: len(batch.running()) >= 3)
    for i in range(30):
        batch.issue(lab.request(f"late-{i}", "sleep 1000"))  # in the middle of creations
    began = time.monotonic()
    assert batch.shutdown() == []
    assert time.monotonic() - began < 10
    time.sleep(1)
    assert [lab.names(kind) for kind in ("pods", "secrets", "configmaps")] == [[], [], []]
    assert batch.updates(0.1) is None or batch.issued()


def test_shutdown_may_keep_the_record(lab: Lab):
    batch = lab.start(run="kept", secret_files={"a": "b"})
    batch.issue(lab.request("sleep", "sleep 1000"))
    until(batch.running)
    assert batch.shutdown(keep_record=True) == []
    assert [lab.names(kind) for kind in ("pods", "secrets", "configmaps")] == [[], [], ["kept"]]
    lab.client.delete(lab.path("configmaps", "kept"))


def test_deleting_the_record_removes_everything(lab: Lab):
    batch = lab.start(run="owner", secret_files={"a": "b"})
    batch.issue(lab.request("sleep", "sleep 1000"))
    until(batch.running)
    lab.client.delete(lab.path("configmaps", "owner"), {"propagationPolicy": "Background"})
    until(lambda: lab.names("pods") == lab.names("secrets") == [])


def test_ended_pods_are_collected_and_failed_ones_stay_for_their_logs(lab: Lab):
    batch = lab.start()
    for i in range(10):
        batch.issue(lab.request(f"good-{i}"))
    batch.issue(lab.request("bad", "echo why; exit 1"))
    states = {u.id: u.state for u in (end(batch) for _ in range(11))}
    assert sorted(states.values()) == ["failed"] + ["succeeded"] * 10
    until(lambda: len(lab.names()) == 1)
    assert batch.logs("bad") == "why\n"
    assert batch.logs("good-1") == ""
    calls = lab.client.calls.copy()
    time.sleep(12)  # nothing is asked while nothing happens, but the lease is renewed
    assert lab.client.calls - calls == {"PATCH configmaps": 2}


def test_case_16_api_calls_per_pod(lab: Lab, proxy: ApiProxy, through: KubeClient):
    batch = lab.start(through)
    count = 100
    for i in range(count):
        batch.issue(lab.request(f"job-{i}", cpu=0.01))
    assert {end(batch, within=120).state for _ in range(count)} == {"succeeded"}
    batch.shutdown()
    assert len(proxy.requests) == sum(through.calls.values())
    # the lease is renewed every few seconds, however many pods there are
    assert (len(proxy.requests) - through.calls["PATCH configmaps"]) / count <= 1.2


def test_case_12_lost_replies_make_one_pod_each(lab: Lab, proxy: ApiProxy, through: KubeClient):
    proxy.faults.append(Fault("POST pods", "lose", times=3))
    proxy.faults.append(Fault("POST configmaps", "lose"))
    batch = lab.start(through)
    for i in range(5):
        batch.issue(lab.request(f"job-{i}", "sleep 1000"))
    until(lambda: len(batch.running()) == 5)
    assert len(lab.names()) == 5
    assert proxy.requests.count("GET pods/NAME") == 3


def test_case_17_faults_of_the_api_are_survived(lab: Lab, proxy: ApiProxy, through: KubeClient):
    batch = lab.start(through)
    proxy.faults += [
        Fault("POST pods", 429, times=4, headers={"Retry-After": "1"}),
        Fault("POST pods", 500, times=3),
        Fault("POST pods", "cut", times=3),
        Fault("POST pods", 401, times=1),
        Fault("DELETE pods", 500, times=2),
    ]
    for i in range(12):
        batch.issue(lab.request(f"job-{i}", "sleep 1"))
    time.sleep(1)
    assert proxy.cut_watches() == 1
    proxy.faults.append(Fault("GET pods", "cut", times=2))
    proxy.faults.append(Fault("WATCH pods", 410, times=2))
    assert [end(batch, within=90).state for _ in range(12)] == ["succeeded"] * 12
    assert batch.updates(1) is None
    assert not any(fault.times for fault in proxy.faults if fault.kind != "DELETE pods")


def test_answers_that_come_twice_or_late_change_nothing(
    lab: Lab, proxy: ApiProxy, through: KubeClient
):
    proxy.faults += [
        Fault("WATCH pods", "duplicate"),  # each event of it
        Fault("POST pods", "duplicate", times=3),  # the second one is refused: it is there already
        Fault("POST pods", "delay", times=3, seconds=2),
        Fault("GET pods/NAME", "delay", seconds=1),
        Fault("DELETE pods", "duplicate"),
    ]
    batch = lab.start(through)
    for i in range(8):
        batch.issue(lab.request(f"job-{i}", "sleep 1"))
    told = []
    while sum(news.state == "succeeded" for news in told) < 8:
        news = batch.updates(60)
        assert news and news.state in ("waiting", "running", "succeeded"), told
        told.append(news)
    assert batch.updates(1) is None
    for state in ("running", "succeeded"):
        assert sorted(u.id for u in told if u.state == state) == [f"job-{i}" for i in range(8)]
    assert proxy.requests.count("GET pods/NAME") == 3  # whose the pods are
    assert batch.shutdown() == [] and lab.names() == []
    assert not any(fault.times for fault in proxy.faults)


def test_what_a_watch_does_not_tell_is_learnt_from_the_next_list(
    lab: Lab, proxy: ApiProxy, through: KubeClient
):
    proxy.faults.append(Fault("WATCH pods", "mute"))
    batch = lab.start(through, reconcile_seconds=8.0)
    batch.issue(lab.request("job", job="job"))
    batch.issue(lab.request("deleted", "sleep 1000", job="deleted"))
    until(lambda: phase_of(lab, "job") == "Succeeded" and phase_of(lab, "deleted") == "Running")
    for pod in pods_of(lab, "deleted"):
        lab.client.delete(lab.path(name=pod["metadata"]["name"]), {"gracePeriodSeconds": 0})
    assert not proxy.faults[0].times  # the first watch has told nothing
    ends = {u.id: u for u in (end(batch), end(batch))}
    assert ends["job"].state == "succeeded" and ends["deleted"].cause == Cause.DELETED


def pods_of(lab: Lab, job: str) -> list[Any]:
    items: list[Any] = lab.client.get(lab.path(), labelSelector=f"byok8s.io/job={job}")["items"]
    return items


def phase_of(lab: Lab, job: str) -> str:
    return "".join(pod["status"]["phase"] for pod in pods_of(lab, job))


PLUGIN = """
import json, pathlib
folder = pathlib.Path(__file__).parent
with (folder / "asked").open("a") as file:
    file.write("x")
print(json.dumps({
    "apiVersion": "client.authentication.k8s.io/v1",
    "kind": "ExecCredential",
    "status": {"token": (folder / "token").read_text()},
}))
"""


@pytest.mark.parametrize("kind", ["plugin", "file"])
def test_case_17_a_token_that_expires_in_the_middle(
    lab: Lab, proxy: ApiProxy, tmp_path: Path, kind: str
):
    """By a plugin, or in a file that somebody replaces, as for a ServiceAccount."""
    plugin, token = tmp_path / "plugin.py", tmp_path / "token"
    plugin.write_text(PLUGIN)
    token.write_text("first")
    version = "client.authentication.k8s.io/v1"
    login = {"apiVersion": version, "command": sys.executable, "args": [str(plugin)]}
    user = {"exec": login} if kind == "plugin" else {"tokenFile": str(token)}
    settings = kubeconfig(tmp_path / "config", proxy.url, user)
    proxy.token = "first"
    batch = lab.start(KubeClient.load(replace(settings, namespace=lab.client.namespace)))
    batch.issue(lab.request("before", "sleep 3"))
    assert list(started(batch, 1)) == ["before"]
    token.write_text("second")
    proxy.token = "second"  # the first one has expired
    assert proxy.cut_watches() == 1
    for i in range(6):  # several threads meet the 401 at once
        batch.issue(lab.request(f"after-{i}"))
    assert [end(batch, within=90).state for _ in range(7)] == ["succeeded"] * 7
    if kind == "plugin":
        assert (tmp_path / "asked").read_text() == "xx"
    batch.shutdown()  # while the proxy is there
    assert lab.names() == []


def test_case_17_an_api_that_is_down_for_a_minute(lab: Lab, proxy: ApiProxy, through: KubeClient):
    batch = lab.start(through)
    batch.issue(lab.request("ends-meanwhile", "sleep 20"))
    batch.issue(lab.request("runs-on", "sleep 70"))
    assert len(started(batch, 2)) == 2
    proxy.go_away(60)
    batch.issue(lab.request("issued-meanwhile"))
    told = {u.id: u for u in (end(batch, within=150) for _ in range(3))}
    assert {u.state for u in told.values()} == {"succeeded"} and len(told) == 3
    seconds = told["ends-meanwhile"].wall_seconds
    assert seconds and seconds < 30  # as the node noted it, however late we heard
    assert batch.updates(1) is None


def test_ends_during_a_cut_watch_are_told_once(lab: Lab, proxy: ApiProxy, through: KubeClient):
    batch = lab.start(through)
    for i in range(4):
        batch.issue(lab.request(f"job-{i}", "sleep 8"))
    batch.issue(lab.request("deleted", "sleep 1000"))
    name = started(batch, 5)["deleted"]
    proxy.go_away(9)
    lab.client.delete(lab.path(name=name), {"gracePeriodSeconds": 0})
    ends = {u.id: u for u in (end(batch) for _ in range(5))}
    assert ends.pop("deleted").cause == Cause.DELETED
    assert {u.state for u in ends.values()} == {"succeeded"}
    assert batch.updates(1) is None


def test_a_job_issued_while_the_api_is_away_runs_when_it_is_back(
    lab: Lab, proxy: ApiProxy, through: KubeClient
):
    batch = lab.start(through)
    proxy.go_away(6)
    batch.issue(lab.request("job"))
    assert end(batch, within=60).state == "succeeded"


def test_shutdown_while_the_api_is_away_says_what_remains(
    lab: Lab, proxy: ApiProxy, through: KubeClient
):
    batch = lab.start(through, run="remains")
    batch.issue(lab.request("sleep", "sleep 1000"))
    until(batch.running)
    proxy.go_away(60)
    began = time.monotonic()
    remains = batch.shutdown(deadline=5)
    assert time.monotonic() - began < 8
    assert remains[0] == "configmap/remains" and "pods of the run" in remains[1]
    lab.client.delete(lab.path("configmaps", "remains"), {"propagationPolicy": "Background"})
    until(lambda: lab.names() == [])
    lab.systems.clear()


def test_case_20_kill_returns_by_its_deadline_though_a_pod_hangs(lab: Lab):
    batch = lab.start()
    batch.issue(lab.request("stuck", "sleep 1000"))
    name = started(batch, 1)["stuck"]
    path = lab.path(name=name)
    lab.client.patch(path, {"metadata": {"finalizers": ["byok8s.io/test"]}})
    began = time.monotonic()
    assert batch.kill(["stuck"], deadline=4) == [name]
    assert 4 <= time.monotonic() - began < 6
    assert batch.updates(0.2) is None and batch.running() == {}
    lab.client.patch(path, {"metadata": {"finalizers": None}})


def kill_leader(batch: BatchSystem) -> None:
    """What a SIGKILL would do."""
    batch._watch.stop()
    batch._stop_threads(1)
    batch._lease.stop()
    assert batch._lease._sign._file
    batch._lease._sign._file.close()


def test_a_second_leader_of_the_same_run_takes_over_its_pods(lab: Lab):
    first = lab.start(run="again")
    for i in range(3):
        first.issue(lab.request(f"job-{i}", f"sleep {1 if i else 8}"))
    until(lambda: len(first.running()) >= 1)
    kill_leader(first)
    second = lab.start(run="again")
    before = sum(v for k, v in second._client.calls.items() if k == "POST pods")
    for i in range(3):
        second.issue(lab.request(f"job-{i}", f"sleep {1 if i else 8}"))
    assert sorted(end(second).state for _ in range(3)) == ["succeeded"] * 3
    assert sum(v for k, v in second._client.calls.items() if k == "POST pods") == before
    lab.systems.remove(first)


def test_a_run_without_permission_is_told_at_its_start(lab: Lab, proxy: ApiProxy):
    client = KubeClient(replace_namespace(lab))
    batch = BatchSystem(client, RunIdentity("nowhere", "jane"))
    with pytest.raises(ApiError, match='namespaces "no-such-namespace" not found'):
        batch.start()
    assert batch.shutdown() == []


def replace_namespace(lab: Lab) -> Any:
    return replace(lab.client._access, namespace="no-such-namespace")
