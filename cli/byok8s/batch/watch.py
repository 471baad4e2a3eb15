"""One list and one watch for all pods of a run."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from byok8s.batch.client import ApiError, KubeClient, Stream, peace_after
from byok8s.batch.ends import Pod
from byok8s.batch.lists import list_all

SILENCE_SECONDS = 90.0  # bookmarks come about every minute
STEADY_SECONDS = 10.0  # a watch that lived this long was not the server's trouble


class PodWatch:
    """Keeps telling what happens to the pods that `selector` names.

    `on_list(pods, asked)` gets every pod there is, `asked` being the monotonic time just before
    the list was asked for; `on_event(kind, pod)` gets ADDED, MODIFIED and DELETED. Both are
    called on the watch's own thread. A list comes first, after every end of a watch, and so at
    least every `reconcile` seconds.
    """

    def __init__(
        self,
        client: KubeClient,
        selector: str,
        on_list: Callable[[list[Pod], float], None],
        on_event: Callable[[str, Pod], None],
        *,
        reconcile: float = 300.0,
    ) -> None:
        self._client = client
        self._selector = selector
        self._path = f"/api/v1/namespaces/{client.namespace}/pods"
        self._on_list = on_list
        self._on_event = on_event
        self._reconcile = reconcile
        self._stop = threading.Event()
        self._stream: Stream | None = None
        self._thread = threading.Thread(target=self._run, name="byok8s-watch", daemon=True)
        self.version = ""  # the resourceVersion up to which everything was delivered
        self.connected = False
        self.trouble: Exception | None = None  # why the last try failed; None while all is well

    def start(self) -> None:
        """List once (raises ApiError), then watch in the background."""
        self._list()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._stream is not None:
            self._stream.cancel()

    def _run(self) -> None:
        failures = 0
        listed = True
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                if not listed:
                    self._list()
                listed = False
                self.trouble = None
                self._watch()
            except Exception as error:  # a thread that dies tells nobody
                self.trouble = error
            self.connected = False
            failures = 0 if time.monotonic() - began > STEADY_SECONDS else failures + 1
            # the first break is answered at once, a server in trouble is left in peace
            pause = random.uniform(0.5, 1.0) * min(10.0, 0.05 * 2**failures)  # noqa: S311
            self._stop.wait(pause + peace_after(self.trouble))

    def _list(self) -> None:
        query = {"labelSelector": self._selector}
        found = list_all(self._client, self._path, query, stop=self._stop)
        self._on_list(found.items, found.asked)  # type: ignore[arg-type]
        self.version = found.version

    def _watch(self) -> None:
        seconds = self._reconcile * random.uniform(0.8, 1.0)  # noqa: S311
        query = {
            "labelSelector": self._selector,
            "watch": 1,
            "allowWatchBookmarks": "true",
            "resourceVersion": self.version,
            "timeoutSeconds": max(1, round(seconds)),
        }
        with self._client.stream(
            self._path, silence=min(SILENCE_SECONDS, seconds + 5), **query
        ) as stream:
            self._stream = stream
            self.connected = True
            for line in stream:
                if self._stop.is_set():
                    return
                self._deliver(json.loads(line))

    def _deliver(self, event: dict[str, Any]) -> None:
        kind, pod = event["type"], event["object"]
        if kind == "ERROR":  # 410: the version is too old
            raise ApiError(pod.get("code", 0), pod.get("reason", ""), pod.get("message", ""))
        if kind != "BOOKMARK":
            self._on_event(kind, pod)
        self.version = pod["metadata"]["resourceVersion"]
