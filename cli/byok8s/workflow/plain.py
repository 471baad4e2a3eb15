"""`snakemake --executor byok8s`: the executor without byok8s's own command line around it."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byok8s.exceptions import SettingsError
from byok8s.settings import WORKER_IMAGE, KubeSettings, S3Location
from byok8s.worker.s3 import first_variable
from byok8s.workflow.events import JobFailure, JobName
from byok8s.workflow.session import Session

if TYPE_CHECKING:
    from byok8s.workflow.executor import ExecutorSettings


class LogListener:
    """Tells Snakemake's own log what the executor knows more than Snakemake."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def planned(self, counts: Mapping[str, int]) -> None: ...
    def submitted(self, job: JobName) -> None: ...
    def started(self, job: JobName) -> None: ...
    def withdrawn(self, job: JobName) -> None: ...
    def progress(self, done: int, total: int) -> None: ...

    def waiting(self, job: JobName, reason: str, *, busy: bool) -> None:
        if not busy:
            self._logger.warning(f"Waiting: {job}: {reason}")

    def retried(self, job: JobName, why: str) -> None:
        self._logger.warning(f"Again: {job}: {why}")

    def ended(self, job: JobName, failure: JobFailure | None) -> None:
        if failure is not None:
            where = f"\nWhole log: {failure.log}" if failure.log else ""
            self._logger.error(f"{job}: {failure.reason}\n{failure.tail}{where}")

    def note(self, text: str) -> None:
        self._logger.info(text)

    def warn(self, text: str) -> None:
        self._logger.warning(text)


def plain_session(settings: ExecutorSettings | None, workflow: Any) -> Session:
    """A run made from Snakemake's own settings and the AWS and Kubernetes environment.

    Raises SettingsError without `--default-storage-provider byok8s --default-storage-prefix
    s3://BUCKET`, ClusterError and StorageError when cluster or credentials cannot be used.
    """
    from byok8s.batch import KubeClient, Lease, RunIdentity
    from byok8s.storage.account import find_account, find_server
    from byok8s.workflow.bucket import WorkflowBucket

    prefix = workflow.storage_settings.default_storage_prefix
    if not prefix:
        raise SettingsError("Name the bucket with --default-storage-prefix s3://BUCKET/PREFIX.")
    endpoint = first_variable("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    region = first_variable("AWS_REGION", "AWS_DEFAULT_REGION")
    s3 = find_server(S3Location.parse(prefix or ""), endpoint, region)
    account = find_account()
    bucket = WorkflowBucket.of(s3, account, Path.cwd())
    image = getattr(settings, "image", None) or WORKER_IMAGE
    kube = KubeSettings(
        context=getattr(settings, "context", None), namespace=getattr(settings, "namespace", None)
    )
    config = Path.cwd() / ".snakemake/byok8s/params.json"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(json.dumps(workflow.config_settings.config or {}))
    client = KubeClient.load(kube)
    name = f"snakemake-{workflow.start_time:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    return Session(
        client=client,
        lease=Lease(client, RunIdentity(name, "snakemake"), s3.as_words()),
        s3=s3,
        objects=bucket.objects,
        credentials=lambda: account.current().as_ini(),
        image=image,
        listener=LogListener(workflow.logger_manager.logger),
        workdir=Path.cwd(),
        configfile=config,
        inputs=bucket.inputs,
        leader=bucket.leader,
        max_pods=workflow.resource_settings.nodes or 1000,
    )
