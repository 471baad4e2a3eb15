"""Run pods that do nothing with Toil's own Kubernetes batch system, as Toil's leader does.

It runs in an environment of its own (calls.py makes it), where byok8s is not. Arguments: one JSON
object. Instead of Toil's program in the pod, which Toil's image has, runs `true`: the sooner a pod
ends, the fewer calls Toil makes for it.
"""

from __future__ import annotations

import json
import sys
import uuid

import toil.batchSystems.kubernetes as module
from configargparse import ArgumentParser
from toil.common import Config
from toil.job import JobDescription


def main(*, image: str, jobs: int) -> None:
    module.applianceSelf = lambda: image
    module.pack_job = lambda *args, **kwargs: ["true"]
    config = Config()
    config.workflowID = str(uuid.uuid4())
    parser = ArgumentParser()
    module.KubernetesBatchSystem.add_options(parser)
    for name, value in vars(parser.parse_args([])).items():
        setattr(config, name, value)
    batch = module.KubernetesBatchSystem(config, 10000, 2**50, 2**50)
    try:
        for _ in range(jobs):
            needs = {"memory": 10**8, "cores": 0.95, "disk": 1000, "preemptible": False}
            needs |= {"accelerators": [], "walltime": 0}
            batch.issueBatchJob("true", JobDescription(requirements=needs, jobName="nothing"))
        left = jobs
        while left:
            update = batch.getUpdatedBatchJob(maxWait=2)  # as toil/leader.py
            if update is not None:
                if update.exitStatus != 0:
                    sys.exit(f"Job {update.jobID} ended with {update.exitStatus}.")
                left -= 1
    finally:
        batch.shutdown()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
