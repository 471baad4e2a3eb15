"""ConfigMaps, Secrets and pods that a fake API keeps, with versions, selectors and watches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from queue import Empty, Queue
from typing import Any

from support.fakeapi import Api, Asked, Says, refusal

Item = dict[str, Any]


@dataclass
class Store:
    """Answers for an Api; `items` are by kind and name. A pod is gone as soon as it is deleted,
    unless its name is in `stuck`: then it stays, marked as deleted."""

    items: dict[tuple[str, str], Item] = field(default_factory=dict)
    stuck: set[str] = field(default_factory=set)
    logs: dict[str, str] = field(default_factory=dict)
    _versions: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _watches: list[Queue[Item]] = field(default_factory=list)

    @classmethod
    def behind(cls, api: Api) -> Store:
        store = cls()
        api.answer = store.answer
        return store

    def names(self, kind: str) -> list[str]:
        return sorted(name for of, name in self.items if of == kind)

    def put(self, kind: str, item: Item, event: str = "MODIFIED") -> Item:
        """Store an object as if somebody else had made or changed it."""
        version = str(next(self._versions))
        metadata = {"uid": f"uid-{version}", "namespace": "lab", **item["metadata"]}
        item = {**item, "metadata": metadata | {"resourceVersion": version}}
        self.items[kind, metadata["name"]] = item
        self._tell(kind, event, item)
        return item

    def remove(self, kind: str, name: str) -> None:
        self._tell(kind, "DELETED", self.items.pop((kind, name)))

    def _tell(self, kind: str, event: str, item: Item) -> None:
        if kind == "pods":
            for watch in self._watches:
                watch.put({"type": event, "object": item})

    def answer(self, asked: Asked) -> Says:
        parts = asked.path.strip("/").split("/")
        rest = parts[parts.index("lab") + 1 :] if "lab" in parts else parts[-1:]
        kind, name = rest[0], rest[1] if len(rest) > 1 else ""
        if rest[2:] == ["log"]:
            return Says(self.logs.get(name, ""))
        if kind == "version":
            return Says({"gitVersion": "v1.35.4"})
        if asked.query.get("watch"):
            return Says(lines=self._watch())
        return getattr(self, asked.method.lower())(asked, kind, name)

    def _watch(self) -> Iterator[Item]:
        queue: Queue[Item] = Queue()
        self._watches.append(queue)
        while True:
            try:
                yield queue.get(timeout=5)
            except Empty:
                return

    def get(self, asked: Asked, kind: str, name: str) -> Says:
        if name:
            found = self.items.get((kind, name))
            return Says(found) if found else refusal(404, "NotFound", f"no {kind} {name}")
        return Says({"metadata": {"resourceVersion": "1"}, "items": self._chosen(asked, kind)})

    def _chosen(self, asked: Asked, kind: str) -> list[Item]:
        wanted = [pair.partition("=") for pair in asked.query.get("labelSelector", "").split(",")]
        return [
            item
            for (of, _), item in self.items.items()
            if of == kind
            and all(
                item["metadata"].get("labels", {}).get(key) == value if equals else
                not key or key in item["metadata"].get("labels", {})
                for key, equals, value in wanted
            )
        ]  # fmt: skip

    def post(self, asked: Asked, kind: str, _: str) -> Says:
        name = asked.body["metadata"]["name"]
        if (kind, name) in self.items:
            return refusal(409, "AlreadyExists", f"{kind} {name} exists")
        return Says(self.put(kind, asked.body, "ADDED"), 201)

    def patch(self, asked: Asked, kind: str, name: str) -> Says:
        found = self.items.get((kind, name))
        if found is None:
            return refusal(404, "NotFound", f"no {kind} {name}")
        metadata = asked.body.get("metadata", {})
        for precondition in ("resourceVersion", "uid"):
            if metadata.get(precondition) not in (None, found["metadata"][precondition]):
                return refusal(409, "Conflict", f"{kind} {name} was modified")
        data = {**found.get("data", {}), **asked.body.get("data", {})}
        changed = {**found, "data": {k: v for k, v in data.items() if v is not None}}
        changed["metadata"] = {**found["metadata"], **metadata}
        return Says(self.put(kind, changed))

    def delete(self, asked: Asked, kind: str, name: str) -> Says:
        if name and (kind, name) not in self.items:
            return refusal(404, "NotFound", f"no {kind} {name}")
        chosen = [self.items[kind, name]] if name else self._chosen(asked, kind)
        for item in chosen:
            called = item["metadata"]["name"]
            if called in self.stuck:
                stamp = {"deletionTimestamp": "2025-01-31T23:59:59Z"}
                self.put(kind, {**item, "metadata": {**item["metadata"], **stamp}})
            else:
                self.remove(kind, called)
        return Says({})
