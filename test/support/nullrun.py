"""Run the Snakefile of this folder with pods that do nothing: nullrun.py BUCKET ENDPOINT.

ENDPOINT is where the pods store; the leader takes its own from the environment.
"""

from __future__ import annotations

import sys
from pathlib import Path

import boto3
from byok8s.storage.objects import Objects
from byok8s.worker.s3 import open_store
from byok8s.workflow.lead import Lead, lead
from snakemake.api import SnakemakeApi
from snakemake.scheduling.greedy import SchedulerSettings
from snakemake.settings.types import (
    ExecutionSettings,
    OutputSettings,
    RemoteExecutionSettings,
    ResourceSettings,
    SchedulingSettings,
    StorageSettings,
)
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

sys.path.insert(0, str(Path(__file__).parents[1]))
from support import nullpods


def main(bucket: str, endpoint_url: str) -> None:
    """Exits with an exception when the workflow fails."""
    leader = Lead(bucket, "run", lambda name: Objects(open_store(name)))
    lead(leader)
    nullpods.Executor.leader = leader
    nullpods.Executor.client = boto3.client("s3", endpoint_url=endpoint_url)
    ExecutorPluginRegistry().register_plugin(nullpods.NAME, nullpods)
    with SnakemakeApi(OutputSettings()) as api:
        workflow = api.workflow(
            snakefile=Path("Snakefile"),
            resource_settings=ResourceSettings(nodes=1000),
            storage_settings=StorageSettings(
                default_storage_provider="byok8s",
                default_storage_prefix=f"s3://{bucket}/run",
                shared_fs_usage=frozenset(),
            ),
        )
        workflow.dag().execute_workflow(
            executor="nullpods",
            execution_settings=ExecutionSettings(lock=False),
            scheduling_settings=SchedulingSettings(scheduler="greedy"),
            scheduler_settings=SchedulerSettings(),
            remote_execution_settings=RemoteExecutionSettings(job_deploy_sources=False),
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
