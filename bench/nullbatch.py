"""A batch system whose pods do nothing: each job has ended, with its outputs, as soon as issued.

It takes the place of byok8s.batch.BatchSystem, so that what is left is the leader's own work.
"""

from __future__ import annotations

import queue
import time
from typing import Any

from byok8s.batch import PodRequest, Update
from byok8s.worker.names import JOB_VARIABLE
from byok8s.worker.spec import JobSpec, Result


class NullBatch:
    """Runs nothing; jobs end in the order in which they were issued."""

    seconds = 0.0  # CPU time of what pods would do; not the leader's

    def __init__(self, *_: Any, **__: Any) -> None:
        self._updates: queue.Queue[Update] = queue.Queue()

    def start(self, adopting: object = ()) -> None:
        """There is nothing to start."""

    def places(self, request: Any) -> None:
        """How many such pods there is room for: nobody knows."""

    def least_cpu(self, request: PodRequest) -> float:
        return request.cpu

    def check(self, request: Any) -> None:
        """Everything fits."""

    def issue(self, request: PodRequest, *_: Any) -> None:
        began = time.thread_time()
        spec = JobSpec.loads(request.env[JOB_VARIABLE])
        assert spec.command is not None, "the job would run Snakemake in its pod"
        result = Result(
            0, stored=[(file.key, 2, 1e9, "0" * 32) for file in spec.command.outputs]
        ).dumps()
        self._updates.put(
            Update(request.id, request.attempt, "succeeded", request.id, result=result)
        )
        NullBatch.seconds += time.thread_time() - began

    def updates(self, timeout: float | None = None) -> Update | None:
        try:
            return self._updates.get(timeout=timeout)
        except queue.Empty:
            return None

    def shutdown(self, **_: Any) -> list[str]:
        return []

    def most_memory_mb(self) -> int | None:
        return None

    def refresh_secret(self, files: Any) -> None:
        """Nobody reads it."""
