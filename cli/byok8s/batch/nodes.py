"""How large the cluster's nodes are, for jobs that no node has room for."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from typing import Any

from byok8s.batch.client import ApiError, KubeClient
from byok8s.batch.lists import list_all
from byok8s.batch.pods import PodRequest
from byok8s.exceptions import Byok8sError

FRESH_SECONDS = 60.0
POD_SHARE = 0.9  # of a node's memory; DaemonSets have the rest
_SUFFIX = {
    "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0,
    "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60,
}  # fmt: skip


def quantity(text: str) -> float:
    """The number that a Kubernetes quantity such as '500m' or '2Gi' stands for.

    Raises ValueError.
    """
    found = re.fullmatch(r"\s*([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([A-Za-z]*)\s*", text)
    if not found or found[2] not in _SUFFIX:
        raise ValueError(f"'{text}' is not a quantity")
    return float(found[1]) * _SUFFIX[found[2]]


class NeverFits(Byok8sError):
    """No node is large enough for a job, and none that is may be added."""


class Nodes:
    """The largest node of each resource, and whether new nodes may come; asked for rarely.

    Thread-safe.
    """

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._asked: float | None = None
        self.largest: Mapping[str, float] = {}  # of each resource; empty: we may not know
        self._sizes: list[dict[str, float]] = []  # of each node
        self.can_grow = True

    def refresh(self) -> None:
        """Ask again when the last answer is old. Never raises: who may not look, does not know."""
        with self._lock:  # who comes meanwhile waits for the answer
            now = time.monotonic()
            if self._asked is None or now - self._asked >= FRESH_SECONDS:
                self._asked = now
                self._ask()

    def _ask(self) -> None:
        try:
            items = list_all(self._client, "/api/v1/nodes", patience=5.0).items
            self.can_grow = _cloud(items) or self._has_autoscaler()
        except Byok8sError:
            return
        self._sizes = [
            {name: quantity(text) for name, text in node["status"].get("allocatable", {}).items()}
            for node in items
        ]
        largest: dict[str, float] = {}
        for size in self._sizes:
            largest |= {name: max(largest.get(name, 0.0), size[name]) for name in size}
        self.largest = largest

    def places(self, request: PodRequest) -> int | None:
        """How many pods of this kind empty nodes could hold; None when we may not know, or others
        may come.
        """
        if self.can_grow:
            return None
        wanted = {name: amount for name, (amount, *_) in _wanted(request).items() if amount}
        places = [
            min(int(size.get(name, 0.0) / amount) for name, amount in wanted.items())
            for size in self._sizes
        ]
        return sum(places) if places else None

    def least_cpu(self, request: PodRequest) -> float:
        """The least CPU it can ask for without any empty node holding more pods of this kind.

        All that it asks for, where we may not know the nodes or others may come.
        """
        least = 0.0
        for size in () if self.can_grow else self._sizes:
            capacity = size.get("cpu", 0.0)
            if held := int(capacity / request.cpu):
                least = max(least, capacity / (held + 1) + 0.001)
        return min(request.cpu, least) if least else request.cpu

    def never_fits(self, request: PodRequest) -> str | None:
        """What of a request neither a node has nor one that may come; None when it may fit."""
        self.refresh()
        lack = None if self.can_grow else self.too_large(request)
        return lack and f"No node is large enough for the pod: {lack}."

    def most_memory_mb(self) -> int | None:
        """What one pod can get on the largest node, in MB; None when we may not know."""
        self.refresh()
        most = self.largest.get("memory")
        return None if most is None else int(most * POD_SHARE / 1e6)

    def _has_autoscaler(self) -> bool:
        groups = self._client.call("GET", "/apis", patience=5.0).get("groups", ())
        if any(group["name"] in ("karpenter.sh", "cluster.x-k8s.io") for group in groups):
            return True
        path = "/api/v1/namespaces/kube-system/configmaps/cluster-autoscaler-status"
        try:
            self._client.call("GET", path, patience=5.0)
        except ApiError as error:
            return error.status != 404
        return True

    def too_large(self, request: PodRequest) -> str | None:
        """What of a request no node has, as a part of a sentence; None when one may have it."""
        wanted = _wanted(request)
        for name, (amount, unit, scale, option) in wanted.items():
            most = self.largest.get(name, 0.0)
            if self.largest and amount > most:
                return (
                    f"it asks for {_plain(amount / scale)} {unit} and the largest node has "
                    f"{_plain(most / scale)}; ask for less ({option}) or add a larger node"
                )
        if self._sizes and not any(
            all(size.get(name, 0.0) >= amount for name, (amount, *_) in wanted.items())
            for size in self._sizes
        ):
            asked = [
                f"{_plain(amount / scale)} {unit}"
                for amount, unit, scale, _ in wanted.values()
                if amount
            ]
            return (
                f"it asks for {', '.join(asked)}, and no node has all of that; ask for less or "
                "add a larger node"
            )
        return None


def _wanted(request: PodRequest) -> dict[str, tuple[float, str, float, str]]:
    """By resource: the amount, its unit with the size of that, and the rule's word for it."""
    return {
        "cpu": (request.cpu, "CPUs", 1.0, "threads"),
        "memory": ((request.memory_mb or 0) * 1e6, "MB of memory", 1e6, "mem_mb"),
        "ephemeral-storage": ((request.disk_mb or 0) * 1e6, "MB of disk", 1e6, "disk_mb"),
        **{
            name: (count, f"GPUs ({name})", 1.0, "gpu")
            for name, count in request.placement.devices.items()
        },
    }


def _plain(number: float) -> str:
    """Without an exponent: '0.5', '2', '25170'."""
    return f"{number:.0f}" if number >= 10 else f"{number:g}"


def _cloud(items: list[Any]) -> bool:
    """Nodes of a cloud may be of a group that grows."""
    clouds = ("gce:", "aws:", "azure:", "digitalocean:")
    return any(node["spec"].get("providerID", "").startswith(clouds) for node in items)
