"""Run the Snakefile of this folder with Snakemake's official Kubernetes executor and S3 plugin.

It runs in an environment of its own (official.py makes it), where byok8s is not:
the executor's plugin wants an older Kubernetes client. Arguments: one JSON object.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from snakemake.api import SnakemakeApi
from snakemake.scheduling.greedy import SchedulerSettings as Greedy
from snakemake.settings.types import (
    ConfigSettings,
    DAGSettings,
    ExecutionSettings,
    OutputSettings,
    RemoteExecutionSettings,
    ResourceSettings,
    SchedulingSettings,
    StorageSettings,
)
from snakemake_interface_common.plugin_registry.plugin import TaggedSettings
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry
from snakemake_interface_storage_plugins.registry import StoragePluginRegistry


def main(
    *,
    image: str,
    namespace: str,
    prefix: str,
    endpoint: str,
    region: str,
    seconds_between_checks: int,
) -> bool:
    """Run it; `prefix` is s3://BUCKET/PREFIX. True when all is done."""
    executor = ExecutorPluginRegistry().get_plugin("kubernetes")
    # no `pip install` of the storage plugin in each pod: the image has it
    executor.common_settings.auto_deploy_default_storage_provider = False
    with SnakemakeApi(OutputSettings()) as api:
        try:
            workflow = api.workflow(
                snakefile=Path("Snakefile"),
                workdir=Path.cwd(),
                resource_settings=ResourceSettings(nodes=1000),
                config_settings=ConfigSettings(configfiles=[Path.cwd() / "params.json"]),
                storage_settings=StorageSettings(
                    default_storage_provider="s3",
                    default_storage_prefix=prefix,
                    shared_fs_usage=frozenset(),
                ),
                storage_provider_settings={"s3": s3_settings(endpoint, region)},
            )
            workflow.dag(DAGSettings()).execute_workflow(
                executor="kubernetes",
                executor_settings=executor.settings_cls(namespace=namespace),
                execution_settings=ExecutionSettings(),
                scheduling_settings=SchedulingSettings(scheduler="greedy"),
                scheduler_settings=Greedy(),
                remote_execution_settings=RemoteExecutionSettings(
                    container_image=image,
                    envvars=["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
                    seconds_between_status_checks=seconds_between_checks,
                ),
            )
        except Exception as error:
            api.print_exception(error)
            return False
    return True


def s3_settings(endpoint: str, region: str) -> Any:
    """Where the bucket is; boto3 takes the keys from the environment."""
    tagged = TaggedSettings()
    settings = StoragePluginRegistry().get_plugin("s3").settings_cls
    tagged.register_settings(settings(endpoint_url=endpoint, region=region))
    return tagged


if __name__ == "__main__":
    sys.exit(0 if main(**json.loads(sys.argv[1])) else 1)
