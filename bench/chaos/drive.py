"""One run under the faults of a seed, from its namespace to its record."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from byok8s.batch import KubeClient
from byok8s.cluster import ClusterInfo
from byok8s.exceptions import ClusterError
from byok8s.settings import KubeSettings
from support.apiproxy import ApiProxy
from support.project import BYOK8S, clean_environment
from support.s3proxy import S3Proxy

from chaos import workload
from chaos.count import Counter
from chaos.faults import Fault
from chaos.inject import Injector, Node
from chaos.judge import Lead, Record, Struck

MOST_SECONDS = 600.0  # for a run; one that takes longer has failed
PAUSE_SECONDS = 0.5  # between a leader's end and the same command again
# Several runs at once on a node of two cores: their pods ask for less than byok8s would have
# them ask for, which nothing of byok8s looks at afterwards
POD_CPU = "100m"
NOT_READY = 3  # byok8s's exit code


@dataclass
class Place:
    """What all runs share."""

    info: ClusterInfo
    bucket: str
    s3: Any
    node: Node


@dataclass
class Leader:
    """The leader's processes of one run, one after the other."""

    command: list[str]
    folder: Path
    env: dict[str, str]
    log: Path
    leads: list[Lead] = field(default_factory=list)
    struck: list[Struck] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    _process: subprocess.Popen[bytes] | None = None
    _killed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def lead(self, until: float) -> int:
        """Start a leader and wait for its end; the exit code, -9 when it was killed."""
        began = time.time()
        with self.log.open("ab") as stream:
            stream.write(f"--- {time.strftime('%T')} {' '.join(self.command)}\n".encode())
            stream.flush()
            process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        with self._lock:
            self._process, self._killed = process, False
        try:
            code = process.wait(max(1.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        with self._lock:
            self._process = None
            killed = self._killed and code == -signal.SIGKILL
            self.leads.append(Lead(began, time.time(), code, killed))
        with self.log.open("ab") as stream:
            stream.write(f"--- {time.strftime('%T')} ended with {code}\n".encode())
        return code

    def kill(self, fault: Fault) -> None:
        """SIGKILL to the leader, and to those that follow it."""
        self._kill_next()
        for seconds in fault.again:
            before = len(self.leads)
            while len(self.leads) <= before and not self.over.wait(0.05):
                with self._lock:
                    if self._process is not None and not self._killed:
                        break
            if self.over.wait(seconds):
                return
            self._kill_next()

    def _kill_next(self) -> None:
        while not self.over.wait(0.02):
            with self._lock:
                if self._process is None or self._killed or self._process.poll() is not None:
                    continue
                self._killed = True
                self._process.kill()
                self.struck.append(Struck("kill", time.time(), time.time()))
                return


def run(place: Place, seed: int, faults: list[Fault], keep: Path) -> Record:
    """Run the workflow under faults; its folder, with the leader's output, is in `keep`."""
    record = Record(seed)
    prefix = f"seed-{seed}-{uuid.uuid4().hex[:6]}"
    folder = keep / f"seed-{seed}"
    server = place.info.s3
    assert server is not None
    host = server.endpoint_url.split("//")[1].split(":")[0]
    with (
        namespace(place.info.context, f"chaos-{prefix}") as client,
        ApiProxy(place.info.context, rewrite=ask_for_little) as api,
        Counter(host) as counter,
        S3Proxy(server.endpoint_url, host=host, on_stored=counter.on_stored) as s3,
    ):
        workload.write(folder, counter.address)
        leader = Leader(
            command(place, prefix, client.namespace, s3, kubeconfig(folder, place.info, api)),
            folder,
            environment(place.info),
            folder / "leader.log",
        )
        injector = Injector(
            client, place.node, api, s3, begun=lambda: counter.begun, kill=leader.kill
        )
        leader.over = injector.over
        began, at = time.monotonic(), time.time()
        injector.start(faults)
        try:
            lead_to_the_end(leader, injector, began + MOST_SECONDS)
            record.seconds = time.monotonic() - began
        finally:
            injector.stop()
        place.node.await_peace()  # a kubelet that is stopped removes nothing
        record.objects = objects_left(client)
    record.leads = leader.leads
    ours = [*injector.struck, *leader.struck]
    on_node = [s for s in place.node.struck if s.until >= at and s.at <= leader.leads[-1].ended]
    record.struck = sorted(ours + on_node, key=lambda struck: struck.at)
    record.executions = counter.executions(prefix)
    record.outputs = read_bucket(place, prefix)
    (folder / "record.json").write_text(json.dumps(asdict(record), indent=1))
    return record


def lead_to_the_end(leader: Leader, injector: Injector, until: float) -> None:
    """The same command again and again, as a person would, until it ends by itself."""
    while time.monotonic() < until:
        code = leader.lead(until)
        last = leader.leads[-1]
        if code == NOT_READY and injector.hampered(last.began, last.ended):
            leader.leads[-1] = Lead(last.began, last.ended, code, last.killed, refused=True)
        elif not last.killed:
            return
        time.sleep(PAUSE_SECONDS)


def command(place: Place, prefix: str, name: str, s3: S3Proxy, config: Path) -> list[str]:
    return [
        BYOK8S,
        "run",
        "flow",
        "params",
        f"--s3-bucket={place.bucket}/{prefix}",
        f"--s3-endpoint-url={s3.endpoint_url}",
        f"--kubeconfig={config}",
        f"--k8s-namespace={name}",
    ]


def environment(info: ClusterInfo) -> dict[str, str]:
    assert info.s3 is not None
    return {
        **clean_environment(),
        "AWS_ACCESS_KEY_ID": info.s3.access_key,
        "AWS_SECRET_ACCESS_KEY": info.s3.secret_key,
        "AWS_REGION": info.s3.region,
    }


def kubeconfig(folder: Path, info: ClusterInfo, api: ApiProxy) -> Path:
    """Through the proxy, under the context's own name, by which byok8s knows the image."""
    name = info.context
    content = {
        "clusters": [{"name": name, "cluster": {"server": api.url}}],
        "users": [{"name": name, "user": {}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(content))
    return path


def ask_for_little(kind: str, body: bytes) -> bytes:
    """A pod's creation with a smaller request of CPU."""
    if kind != "POST pods":
        return body
    pod = json.loads(body)
    for container in pod["spec"]["containers"]:
        container["resources"]["requests"]["cpu"] = POD_CPU
    return json.dumps(pod).encode()


@contextmanager
def namespace(context: str, name: str) -> Iterator[KubeClient]:
    """A namespace of its own; leaving waits until it is gone with all that was in it."""
    client = KubeClient.load(KubeSettings(context=context, namespace=name))
    client.create("/api/v1/namespaces", {"metadata": {"name": name}})
    try:
        _await(client, f"/api/v1/namespaces/{name}/serviceaccounts", "default", present=True)
        yield client
    finally:
        client.delete(f"/api/v1/namespaces/{name}")
        _await(client, "/api/v1/namespaces", name, present=False)
        client.close()


def _await(client: KubeClient, folder: str, name: str, *, present: bool) -> None:
    until = time.monotonic() + 180
    while time.monotonic() < until:
        if bool(client.get(folder, fieldSelector=f"metadata.name={name}")["items"]) == present:
            return
        time.sleep(0.3)
    raise ClusterError(f"{folder}/{name} is {'not' if present else 'still'} there after 3 min.")


def objects_left(client: KubeClient, patience: float = 20.0) -> list[str]:
    """Names of what byok8s has left in the namespace, when what was deleted has had time to go."""
    until = time.monotonic() + patience
    while True:
        found = [
            f"{kind}/{item['metadata']['name']}"
            for kind in ("pods", "secrets", "configmaps")
            for item in client.get(
                f"/api/v1/namespaces/{client.namespace}/{kind}",
                labelSelector="app.kubernetes.io/managed-by=byok8s",
            )["items"]
        ]
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.5)


def read_bucket(place: Place, prefix: str) -> dict[str, str]:
    """Keys and digests of what is there, beside byok8s's own."""
    found = {}
    pages = place.s3.get_paginator("list_objects_v2")
    for page in pages.paginate(Bucket=place.bucket, Prefix=f"{prefix}/"):
        for entry in page.get("Contents", []):
            key = entry["Key"].removeprefix(f"{prefix}/")
            if not key.startswith(".byok8s/"):
                answer = place.s3.get_object(Bucket=place.bucket, Key=entry["Key"])
                found[key] = hashlib.sha256(answer["Body"].read()).hexdigest()
    return found
