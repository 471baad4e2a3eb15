"""Toil's own tests of a batch system, for ours: run by a Python that has Toil (test_toil.py)."""

from __future__ import annotations

from typing import Any

import pytest
from toil.batchSystems.abstractBatchSystem import BatchJobExitReason
from toil.batchSystems.registry import get_batch_system
from toil.job import JobDescription
from toil.test.batchSystems.batchSystemTest import hidden


@pytest.fixture(scope="class")
def rootpath(request: pytest.FixtureRequest) -> None:
    """As in the conftest.py of their tests."""
    request.cls._rootpath = request.config.rootpath


NEEDS = {"memory": 10**8, "cores": 0.1, "disk": 1000, "preemptible": False}
NEEDS |= {"accelerators": [], "walltime": 0}


class Byok8sBatchSystemTest(hidden.AbstractBatchSystemTest):
    """Among them test_run_jobs, test_set_env, test_set_job_env and testCheckResourceRequest."""

    def supportsWallTime(self) -> bool:
        return True

    def createBatchSystem(self) -> Any:
        # large enough for what their tests ask for, and small enough for what they want refused
        return get_batch_system("byok8s")(self.config, maxCores=2, maxMemory=1e9, maxDisk=2001)

    def _mockJobDescription(self, jobStoreID: str | None = None, **more: Any) -> JobDescription:
        """Theirs ask for a whole CPU each, of which a small node has not two."""
        more["requirements"] = {**more["requirements"], "cores": 0.1}
        return super()._mockJobDescription(jobStoreID, **more)

    def test_exit_reasons_and_what_is_waited_for(self) -> None:
        for command, code, reason in (
            ("exit 7", 7, BatchJobExitReason.FAILED),
            ("true", 0, BatchJobExitReason.FINISHED),
        ):
            job = JobDescription(requirements=NEEDS, jobName="reasons")
            number = self.batchSystem.issueBatchJob(command, job)
            told = self.batchSystem.getUpdatedBatchJob(maxWait=100)
            assert told is not None
            assert (told.jobID, told.exitStatus, told.exitReason) == (number, code, reason)
            assert told.backing_id
        assert self.batchSystem.getSchedulingStatusMessage() is None
