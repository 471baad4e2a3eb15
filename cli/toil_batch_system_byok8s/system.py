"""Toil's batch-system interface on byok8s.batch."""

from __future__ import annotations

import math
import os
import time
from argparse import ArgumentParser
from typing import Any

from byok8s.batch import BatchSystem, Cause, KubeClient, NeverFits, PodRequest, RunIdentity, Update
from byok8s.batch.placement import ANYWHERE
from byok8s.batch.placement_text import override
from byok8s.settings import KubeSettings
from toil import applianceSelf
from toil.batchSystems.abstractBatchSystem import (
    EXIT_STATUS_UNAVAILABLE_VALUE,
    BatchJobExitReason,
    InsufficientSystemResources,
    UpdatedBatchJobInfo,
)
from toil.batchSystems.cleanup_support import BatchSystemCleanupSupport
from toil.batchSystems.contained_executor import pack_job

OVERHEAD = 512 * 2**20  # bytes of memory and disk for Toil's worker, as in Toil's own batch system
LOOK_SECONDS = 1.0  # between two looks at the jobs that run on the leader's machine
REASONS = {
    Cause.COMMAND_FAILED: BatchJobExitReason.FAILED,
    Cause.OUT_OF_MEMORY: BatchJobExitReason.MEMLIMIT,
    Cause.DEADLINE: BatchJobExitReason.TIMELIMIT,
    Cause.EVICTED: BatchJobExitReason.FAILED,  # by its own doing: it used too much disk
}


class Byok8sBatchSystem(BatchSystemCleanupSupport):
    """Each job is a pod; jobs that Toil wants on the leader's machine run there."""

    @classmethod
    def supportsAutoDeployment(cls) -> bool:
        return True

    def __init__(self, config: Any, maxCores: float, maxMemory: float, maxDisk: int) -> None:
        super().__init__(config, maxCores, maxMemory, maxDisk)
        self.environment |= {"TMPDIR": "/tmp", "TOIL_WORKDIR": "/work"}  # noqa: S108
        self._script: Any = None
        # what the variable names need not be in a registry, where applianceSelf looks
        self._image = os.environ.get("TOIL_APPLIANCE_SELF") or applianceSelf()
        wishes = [text.partition("=") for text in getattr(config, "byok8s_placement", None) or ()]
        self._wishes = {name: value for name, _, value in wishes}
        context = getattr(config, "byok8s_context", None)
        namespace = getattr(config, "byok8s_namespace", None)
        client = KubeClient.load(KubeSettings(context=context, namespace=namespace))
        # of this leader alone: Toil, restarted, knows nothing of the jobs of the one before
        name = f"toil-{config.workflowID[:8]}-{int(time.time())}".lower()
        self._batch = BatchSystem(client, RunIdentity(name, "toil"))
        self._batch.start()

    def setUserScript(self, userScript: Any) -> None:
        self._script = userScript

    def issueBatchJob(
        self, command: str, job_desc: Any, job_environment: dict[str, str] | None = None
    ) -> int:
        local: int | None = self.handleLocalJob(command, job_desc)
        if local is not None:
            return local
        self.check_resource_request(job_desc)
        number: int = self.getNextJobID()
        env = {**self.environment, **(job_environment or {})}
        words = ["/bin/sh", "-c", command]  # what pack_job's program does when there is no script
        if self._script is not None:
            words = pack_job(command, self._script, environment=env)
        spot = {"spot": "prefer" if job_desc.preemptible else "never"}
        self._batch.issue(self._request(number, job_desc, spot, tuple(words), env))
        return number

    def _request(
        self,
        number: int,
        needs: Any,
        spot: dict[str, str],
        command: tuple[str, ...],
        env: dict[str, str],
    ) -> PodRequest:
        wishes: dict[str, Any] = {**spot, **self._wishes}
        for accelerator in needs.accelerators:
            wishes["gpu"] = wishes.get("gpu", 0) + accelerator["count"]
            wishes["gpu_manufacturer"] = accelerator.get("brand", "nvidia")
            if "model" in accelerator:
                wishes["gpu_model"] = accelerator["model"]
        return PodRequest(
            str(number),
            self._image,
            command,
            env=env,
            rule=str(getattr(needs, "jobName", "")),
            cpu=needs.cores,
            memory_mb=math.ceil((needs.memory + OVERHEAD) / 1e6),
            disk_mb=math.ceil((needs.disk + OVERHEAD) / 1e6),
            placement=override(ANYWHERE, wishes, lambda name: f"--byok8sPlacement {name}"),
        )

    def check_resource_request(self, requirer: Any) -> None:
        super().check_resource_request(requirer)
        try:
            self._batch.check(self._request(0, requirer, {}, (), {}))
        except NeverFits as error:
            words = {"memory": "MB of memory", "disk": "MB of disk", "accelerators": "GPUs"}
            lack = next((name for name, word in words.items() if word in str(error)), "cores")
            raise InsufficientSystemResources(requirer, lack, details=[str(error)]) from error

    def _check_accelerator_request(self, requirer: Any) -> None:
        for accelerator in requirer.accelerators:
            if accelerator["kind"] != "gpu":
                raise InsufficientSystemResources(
                    requirer, "accelerators", details=["byok8s knows GPUs only."]
                )

    def getUpdatedBatchJob(self, maxWait: int) -> UpdatedBatchJobInfo | None:
        until = time.monotonic() + maxWait
        while True:
            if (local := self.getUpdatedLocalJob(0)) is not None:
                return local
            left = until - time.monotonic()
            news = self._batch.updates(max(0.0, min(left, LOOK_SECONDS)))
            if news is not None and news.state in ("succeeded", "failed"):
                return _info(news)
            if news is None and left <= 0:
                return None

    def killBatchJobs(self, jobIDs: list[int]) -> None:
        self.killLocalJobs(jobIDs)
        self._batch.kill(map(str, jobIDs))

    def getIssuedBatchJobIDs(self) -> list[int]:
        return [*self.getIssuedLocalJobIDs(), *map(int, self._batch.issued())]

    def getRunningBatchJobIDs(self) -> dict[int, float]:
        running = {int(number): seconds for number, seconds in self._batch.running().items()}
        return {**self.getRunningLocalJobIDs(), **running}

    def getSchedulingStatusMessage(self) -> str | None:
        return self._batch.status_message()

    def shutdown(self) -> None:
        self.shutdownLocal()
        self._batch.shutdown()

    @classmethod
    def add_options(cls, parser: ArgumentParser) -> None:
        add: Any = parser.add_argument  # configargparse's, which knows env_var
        add("--byok8sContext", dest="byok8s_context", env_var="TOIL_BYOK8S_CONTEXT")
        add("--byok8sNamespace", dest="byok8s_namespace", env_var="TOIL_BYOK8S_NAMESPACE")
        add("--byok8sPlacement", dest="byok8s_placement", metavar="NAME=VALUE", action="append")

    @classmethod
    def setOptions(cls, setOption: Any) -> None:
        for name in ("byok8s_context", "byok8s_namespace", "byok8s_placement"):
            setOption(name)


def _info(news: Update) -> UpdatedBatchJobInfo:
    reason = BatchJobExitReason.FINISHED
    if news.state == "failed":
        fault = news.cause and REASONS.get(news.cause)
        reason = BatchJobExitReason.LOST if news.disruption else fault or BatchJobExitReason.ERROR
    code = news.exit_code or (0 if news.state == "succeeded" else EXIT_STATUS_UNAVAILABLE_VALUE)
    # Toil wants more than 0; Kubernetes notes whole seconds
    seconds = None if news.wall_seconds is None else max(news.wall_seconds, 0.001)
    return UpdatedBatchJobInfo(int(news.id), code, reason, seconds, news.pod)
