"""A Snakemake executor whose pods do nothing but store empty outputs, and tell the leader."""

from __future__ import annotations

from typing import Any, ClassVar

from byok8s.worker.transfer import ObjectMeta
from byok8s.workflow.lead import Lead, split_query
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.real import RealExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings, ExecMode

NAME = "snakemake_executor_plugin_nullpods"

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=True,
    job_deploy_sources=False,
    auto_deploy_default_storage_provider=False,
    can_transfer_local_files=True,
)


class Executor(RealExecutor):
    """Ends every job as soon as it is submitted."""

    client: ClassVar[Any] = None  # of boto3, past whatever counts the leader's requests
    leader: ClassVar[Lead | None] = None

    @property
    def cores(self) -> str:
        return "all"

    def get_exec_mode(self) -> ExecMode:
        return ExecMode.REMOTE

    def run_job(self, job: Any) -> None:
        info = SubmittedJobInfo(job)
        self.report_job_submission(info)
        assert self.leader is not None
        for file in job.output:
            bucket, key = split_query(file.storage_object.query)
            self.client.put_object(Bucket=bucket, Key=key, Body=b"")
            self.leader.told_stored(key, ObjectMeta(0, 1e9, "etag"))
        self.report_job_success(info)

    def get_python_executable(self) -> str:
        return "python3"

    def cancel(self) -> None:
        pass

    def shutdown(self) -> None:
        pass
