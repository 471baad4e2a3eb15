"""Reports that pods with one job put into the bucket, which tell of its end before the cluster.

The kubelet looks at its containers once a second, and before it has seen one run, nobody may read
its log either.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from byok8s.exceptions import StorageError
from byok8s.worker.spec import Result
from byok8s.workflow.tasks import read_result

if TYPE_CHECKING:
    from byok8s.workflow.session import Session

_FOLDER = "ended/"
_AGAIN_SECONDS = 0.15  # between two looks; each is one LIST, for however many jobs
_LOOK_SECONDS = 10.0  # for who takes longer, the cluster is soon enough
_REMOVE_SECONDS = 5.0


@dataclass(frozen=True)
class EarlyReport:
    """How a job ended, from the bucket."""

    pod: str
    attempt: int
    result: Result


class EarlyReports:
    """Looks for the reports that are expected, and tells each once; leaves none in the bucket.

    From any thread. A report that does not come, or cannot be read, is not missed: the cluster
    tells of the pod's end as well.
    """

    def __init__(
        self, session: Session, tell: Callable[[EarlyReport], None], stop: threading.Event
    ) -> None:
        self._session = session
        self._tell = tell
        self._stop = stop
        self._lock = threading.Lock()
        self._expected: dict[str, tuple[str, int, float]] = {}  # by key: pod, attempt, until when
        self._keys: set[str] = set()  # of reports that were asked for and are not removed
        self._looking = False

    def ask(self, pod: str, attempt: int) -> str:
        """The key for a pod's report."""
        key = self._key(pod, attempt)
        with self._lock:
            self._keys.add(key)
        return key

    def expect(self, pod: str, attempt: int) -> None:
        """Look for a report that was asked for."""
        until = time.monotonic() + _LOOK_SECONDS
        with self._lock:
            self._expected[self._key(pod, attempt)] = (pod, attempt, until)
            if self._looking:
                return
            self._looking = True
        threading.Thread(target=self._look, name="byok8s-early", daemon=True).start()

    def remove(self) -> None:
        """Remove the reports that came too late to be read; a bucket that is away keeps them."""
        with self._lock:
            keys, self._keys = self._keys, set()
        if keys:
            # the store's own retries take minutes, for which nobody should wait at the end
            remover = threading.Thread(target=self._delete, args=(keys,), daemon=True)
            remover.start()
            remover.join(_REMOVE_SECONDS)

    def _delete(self, keys: set[str]) -> None:
        with suppress(StorageError):
            self._session.objects.delete(sorted(keys))

    def _key(self, pod: str, attempt: int) -> str:
        return self._session.run_key(f"{_FOLDER}{pod}-{attempt}.json")

    def _look(self) -> None:
        while not self._stop.wait(_AGAIN_SECONDS) and self._is_one_expected():
            with suppress(StorageError):
                for key in self._session.objects.list(self._session.run_key(_FOLDER)):
                    self._take(key)

    def _is_one_expected(self) -> bool:
        now = time.monotonic()
        with self._lock:
            kept = {key: of for key, of in self._expected.items() if of[2] > now}
            self._expected, self._looking = kept, bool(kept)
        return bool(kept)

    def _take(self, key: str) -> None:
        with self._lock:
            expected = self._expected.pop(key, None)
        if expected is None:
            return
        pod, attempt, _ = expected
        result = read_result((self._session.objects.get_bytes(key) or b"").decode(errors="replace"))
        if result is not None:
            self._tell(EarlyReport(pod, attempt, result))
        self._session.objects.delete([key])
        with self._lock:
            self._keys.discard(key)
