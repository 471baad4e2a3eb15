"""What is known of a bucket's objects, so that nothing is asked twice."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from byok8s.storage.objects import ObjectMeta, Objects

OURS = ".byok8s/"  # below the run's prefix: sources, logs, records; never seen by a workflow


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or a folder in the bucket. A folder is any KEY with objects below KEY/."""

    mtime: float  # epoch seconds; a folder's is its newest object's
    size: int  # bytes; 0 for a folder
    total: int  # bytes of all files
    etag: str = ""  # '' for a folder
    names: tuple[str, ...] | None = None  # of a folder's files, relative to it; None for a file

    @property
    def meta(self) -> ObjectMeta:
        """Of a file."""
        return ObjectMeta(self.size, self.mtime, self.etag)


class Inventory:
    """Presence and absence of objects, kept through a run.

    Below the run's prefix one paged LIST tells all; elsewhere one LIST per folder. Without any
    listing, as in a pod, single objects are looked up. What jobs store is told, not asked for.
    """

    def __init__(self, objects: Objects, prefix: str | None = None) -> None:
        """prefix is the run's, without a slash at its end; None: there is none in this bucket."""
        self.objects = objects
        self._run = None if prefix is None else f"{prefix}/" if prefix else ""
        self._known: dict[str, ObjectMeta] = {}
        self._keys: list[str] = []  # sorted, so that a folder is a slice
        # prefixes of which everything is known; a KEY here together with KEY/: this one is known
        self._listed: set[str] = set()
        self._doubted: set[str] = set()  # keys to be looked up again
        self._lock = threading.RLock()

    def find(self, key: str) -> Entry | None:
        """The object or folder, from memory where possible; raises StorageError."""
        with self._lock:
            if key in self._doubted or not (key in self._known or self._covers(key)):
                self._look_up(key)
            return self._entry(key)

    def prepare(self, key: str) -> None:
        """List what is around a key, once: the run's prefix, or the folder of the key."""
        with self._lock:
            if self._covers(key):
                return
            folder = key[: key.rfind("/") + 1]
            if self._run is not None and key.startswith(self._run):
                self._list(self._run)
            elif folder:  # at the top of a foreign bucket a LIST could be of millions
                self._list(folder)

    def keys_below(self, prefix: str) -> list[str]:
        """Keys that begin with PREFIX ('' or with a slash at its end), without our own."""
        with self._lock:
            self.prepare(f"{prefix}x")
            if not self._covers(f"{prefix}x"):
                self._list(prefix)
            for key in [key for key in self._doubted if key.startswith(prefix)]:
                self._look_up(key)
            return [key for key in self._slice(prefix) if not self.is_ours(key)]

    def is_ours(self, key: str) -> bool:
        """Whether a key is one of byok8s itself."""
        return self._run is not None and key.startswith(self._run + OURS)

    def told_stored(
        self, key: str, size: int | None = None, mtime: float | None = None, etag: str = ""
    ) -> None:
        """Something was stored. Without a size it is looked up when next asked for."""
        with self._lock:
            if size is None:
                self._doubted.add(key)
            else:
                self._doubted.discard(key)
                self._add(key, ObjectMeta(size, time.time() if mtime is None else mtime, etag))

    def told_gone(self, key: str) -> None:
        """An object, or a folder with all in it, was removed."""
        with self._lock:
            self._drop(key)
            self._doubted.discard(key)
            self._listed |= {key, f"{key}/"}

    def is_file(self, key: str) -> bool:
        """Whether an object of exactly this key is known."""
        with self._lock:
            return key in self._known

    def names_below(self, key: str) -> list[str] | None:
        """Objects KEY/NAME by NAME; None where that is not known."""
        with self._lock:
            if key in self._doubted or not self._covers(f"{key}/"):
                return None
            return [name[len(key) + 1 :] for name in self._slice(f"{key}/")]

    def facts(self, keys: Iterable[str]) -> dict[str, Any]:
        """What is known of these keys, in words for JSON, for a process that cannot list."""
        objects: dict[str, list[Any]] = {}
        asked = list(keys)
        with self._lock:
            for key in asked:
                entry = self.find(key)
                names = entry.names if entry else None
                if entry:
                    for name in [key] if names is None else [f"{key}/{n}" for n in names]:
                        meta = self._known[name]
                        objects[name] = [meta.size, meta.mtime, meta.etag]
        return {"bucket": self.objects.bucket, "asked": asked, "objects": objects}

    def learn(self, facts: Mapping[str, Any]) -> None:
        """Take over what another process knows of the keys that it was asked for."""
        with self._lock:
            for key in facts["asked"]:
                self._listed |= {key, f"{key}/"}
            for key, row in facts["objects"].items():
                self._add(key, ObjectMeta(*row))

    def _covers(self, key: str) -> bool:
        """Whether everything about a key is known, also that it is not there."""
        if key in self._listed and f"{key}/" in self._listed:
            return True
        slashes = [i + 1 for i, letter in enumerate(key) if letter == "/"]
        return "" in self._listed or any(key[:end] in self._listed for end in slashes)

    def _entry(self, key: str) -> Entry | None:
        meta = self._known.get(key)
        if meta and meta.size:
            return Entry(meta.mtime, meta.size, meta.size, meta.etag)
        # An empty object may be a console's "folder" KEY/, of which obstore drops the slash
        if below := self._slice(f"{key}/"):
            metas = [self._known[name] for name in below]
            return Entry(
                mtime=max(m.mtime for m in metas),
                size=0,
                total=sum(m.size for m in metas),
                names=tuple(name[len(key) + 1 :] for name in below),
            )
        return Entry(meta.mtime, 0, 0, meta.etag) if meta else None

    def _look_up(self, key: str) -> None:
        self._drop(key)
        if meta := self.objects.head(key):
            self._add(key, meta)
        else:
            for name, child in self.objects.list(f"{key}/").items():
                self._add(name, child)
        self._listed |= {key, f"{key}/"}
        self._doubted.discard(key)

    def _list(self, prefix: str) -> None:
        skip = f"{prefix}{OURS}" if prefix == self._run else None
        found = self.objects.list(prefix, skip=skip)
        self._known.update(found)
        self._keys = sorted(self._known)
        self._listed.add(prefix)

    def _slice(self, prefix: str) -> list[str]:
        start = bisect_left(self._keys, prefix)
        end = bisect_left(self._keys, prefix[:-1] + "0") if prefix else len(self._keys)
        return self._keys[start:end]  # '0' is the letter after '/'

    def _add(self, key: str, meta: ObjectMeta) -> None:
        if key not in self._known:
            insort(self._keys, key)
        self._known[key] = meta

    def _drop(self, key: str) -> None:
        """Forget an object and all below it."""
        for name in [key, *self._slice(f"{key}/")]:
            if self._known.pop(name, None):
                del self._keys[bisect_left(self._keys, name)]
