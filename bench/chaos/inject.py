"""Makes the faults happen: in the cluster, on its node, in the proxies, to the leader."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from byok8s.batch import ApiError, KubeClient
from byok8s.cluster.native import processes
from byok8s.cluster.native.layout import Layout
from support.apiproxy import ApiProxy
from support.apiproxy import Fault as ApiFault
from support.s3proxy import Fault as S3Fault
from support.s3proxy import S3Proxy

from chaos.faults import API, NODE, POD, S3, Fault
from chaos.judge import Struck

TAINT = "byok8s.io/chaos"
BURST_SECONDS = 20.0  # for which a burst waits for requests that it can meet
_API = {"api_429": 429, "api_500": 500, "api_lost": "lose"}
_S3 = {"s3_503": "503", "s3_cut": "cut", "s3_lost": "lose"}


class Node:
    """The cluster's one node. A fault of it hits all runs, and one at a time is enough."""

    def __init__(self, client: KubeClient, layout: Layout) -> None:
        self._client, self._layout = client, layout
        self._path = f"/api/v1/nodes/{layout.node}"
        self._lock = threading.Lock()
        self.struck: list[Struck] = []

    def strike(self, kind: str, seconds: float, over: threading.Event) -> bool:
        """Have a fault of the node until it has lasted; False when the run is over before."""
        while not self._lock.acquire(timeout=0.2):
            if over.is_set():
                return False
        try:
            began = time.time()
            with self._tainted() if kind == "taint" else self._without_kubelet():
                time.sleep(seconds)
            self.struck.append(Struck(kind, began, time.time()))
        finally:
            self._lock.release()
        return True

    def await_peace(self) -> None:
        """Wait until no fault of the node is under way."""
        with self._lock:
            pass

    @contextmanager
    def _tainted(self) -> Iterator[None]:
        taints = self._client.get(self._path)["spec"].get("taints") or []
        mine = {"key": TAINT, "effect": "NoExecute"}
        self._client.patch(self._path, {"spec": {"taints": [*taints, mine]}})
        try:
            yield
        finally:
            self._lift_taint()

    def _lift_taint(self) -> None:
        taints = self._client.get(self._path)["spec"].get("taints") or []
        kept = [taint for taint in taints if taint["key"] != TAINT]
        if len(kept) < len(taints):
            self._client.patch(self._path, {"spec": {"taints": kept}})

    @contextmanager
    def _without_kubelet(self) -> Iterator[None]:
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        os.kill(processes.leaders(self._layout.root)["kubelet"].pid, number)

    def restore(self, patience: float = 120.0) -> None:
        """The node as it was; returns when the cluster's own pods are back."""
        self._signal(signal.SIGCONT)
        self._lift_taint()
        path = "/apis/apps/v1/namespaces/kube-system/deployments"
        until = time.monotonic() + patience
        while time.monotonic() < until:
            if all(map(_is_available, self._client.get(path)["items"])):
                return
            time.sleep(0.5)


def _is_available(deployment: dict[str, Any]) -> bool:
    return bool(deployment["status"].get("availableReplicas") == deployment["spec"]["replicas"])


class Injector:
    """Has the faults of one run strike, each in a thread of its own, until the run is `over`.

    `kill(fault)` kills the leader. What struck is in `struck`, but for that and what hit the node.
    """

    def __init__(
        self,
        client: KubeClient,
        node: Node,
        api: ApiProxy,
        s3: S3Proxy,
        *,
        begun: Callable[[], int],
        kill: Callable[[Fault], None],
    ) -> None:
        self._client, self._node, self._api, self._s3 = client, node, api, s3
        self._begun, self._kill = begun, kill
        self._pods = f"/api/v1/namespaces/{client.namespace}/pods"
        self._threads: list[threading.Thread] = []
        self.over = threading.Event()
        self.struck: list[Struck] = []
        self._lasting: list[Fault] = []

    def start(self, faults: list[Fault]) -> None:
        for fault in faults:
            thread = threading.Thread(target=self._strike_in_time, args=(fault,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """The run has ended: what has not struck will not, what lasts ends."""
        self.over.set()
        for thread in self._threads:
            thread.join(90)

    def _strike_in_time(self, fault: Fault) -> None:
        while self._begun() < fault.after:
            if self.over.wait(0.05):
                return
        if not self.over.wait(fault.delay):
            with suppress(ApiError):  # the pod has just ended
                self._strike(fault)

    def _strike(self, fault: Fault) -> None:
        if fault.where == POD:
            self._hit_pod(fault)
        elif fault.where == NODE:
            self._node.strike(fault.kind, fault.seconds, self.over)
        elif fault.kind == "kill":
            self._kill(fault)
        else:
            began = time.time()
            self._lasting.append(fault)
            self._in_proxies(fault)
            self.struck.append(Struck(fault.kind, began, time.time()))
            self._lasting.remove(fault)

    def hampered(self, began: float, ended: float) -> bool:
        """Whether the API server or S3 was faulty at some time between."""
        return bool(self._lasting) or any(
            struck.where in (API, S3) and struck.at <= ended and struck.until >= began
            for struck in self.struck
        )

    def _hit_pod(self, fault: Fault) -> None:
        """Wait for a pod that lives, and hit it."""
        while not (pods := self._live_pods()):
            if self.over.wait(0.2):
                return
        name = pods[int(fault.pick * len(pods))]
        path, at = f"{self._pods}/{name}", time.time()
        if fault.kind == "evict":
            body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
            self._client.create(f"{path}/eviction", body)
        else:
            options = {"gracePeriodSeconds": 0} if fault.kind == "delete_now" else None
            self._client.delete(path, options)
        self.struck.append(Struck(fault.kind, at, time.time(), (name,)))

    def _live_pods(self) -> list[str]:
        items = self._client.get(self._pods)["items"]
        return sorted(
            pod["metadata"]["name"]
            for pod in items
            if pod["status"].get("phase") in ("Pending", "Running")
            and "deletionTimestamp" not in pod["metadata"]
        )

    def _in_proxies(self, fault: Fault) -> None:
        if fault.kind.startswith("api_gone"):
            self._api.go_away(fault.seconds)
            self.over.wait(fault.seconds)
        elif fault.kind == "s3_gone":
            self._s3.go_away(fault.seconds)
            self.over.wait(fault.seconds)
        elif fault.kind == "watch":
            self._api.cut_watches()
        elif fault.kind in _API:
            # an answer that is lost matters for what changes something
            kind = "POST pods" if fault.kind == "api_lost" else "*"
            headers = {"Retry-After": "1"} if fault.kind == "api_429" else {}
            made = ApiFault(kind, _API[fault.kind], fault.times, headers=headers)
            self._api.faults.append(made)
            self._await_use(made)
        else:
            burst = S3Fault("*", _S3[fault.kind], times=fault.times)
            self._s3.faults.append(burst)
            self._await_use(burst)

    def _await_use(self, burst: Any) -> None:
        """Wait until a burst is used up, or is over."""
        until = time.monotonic() + BURST_SECONDS
        while burst.times and time.monotonic() < until and not self.over.wait(0.05):
            pass
        burst.times = 0
