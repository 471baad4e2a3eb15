"""Turns tasks into pods: one of its own, or a place in a bundle that is made or sent more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from byok8s.worker.names import BUNDLE_VARIABLE, JOB_VARIABLE
from byok8s.worker.spec import LONGEST_VARIABLE, BundleSpec
from byok8s.workflow.tasks import BundlePod, Task

if TYPE_CHECKING:
    from byok8s.batch import PodRequest
    from byok8s.workflow.session import Session

# A pod costs one to two seconds of a node; what takes as long gets one of its own.
LONG_SECONDS = 2.0
# A volume of the node's disk tells what of a file is in memory, a container's own layer does not:
# what is stored from there in parts has no checksum but its MD5s, which take three times as long
_LIGHT_BYTES = 64_000_000


class Issuer:
    """Writes down what pods are to do, and has the batch system make them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._batch = session.batch
        self._always_volumes = False

    def issue(
        self, task: Task, attempt: int, cpu: float, *, light: bool, early_key: str = ""
    ) -> None:
        """Give a task a pod of its own, which asks for so many CPUs; raises StorageError.

        `early_key` is for an early report.
        """
        request, staging = task.request, task.request.staging
        spec = task.spec.changed(early_key=early_key) if early_key else task.spec
        variables = {JOB_VARIABLE: self._keep(f"{task.id}-{attempt}", spec.dumps())}
        env = {**request.env, **variables}
        if staging:
            env, staging = {**request.env}, replace(staging, env={**staging.env, **variables})
        request = replace(request, attempt=attempt, cpu=cpu, env=env, staging=staging)
        self._batch.issue(self._light(request) if light else request, task.still_there)

    def may_be_light(self, task: Task) -> bool:
        """Whether its pod can do without volumes; it then starts 0.3 s sooner.

        Not with a limit of the disk, which is one of each volume; nor in a sandbox, which may have
        its own layer in memory; nor where much may be written: by Snakemake, or to judge by the
        inputs.
        """
        request, placement = task.request, task.request.placement
        wants_volumes = request.staging or request.disk_mb or task.bytes_in > _LIGHT_BYTES
        special = placement.volumes or placement.template or placement.runtime_class
        if self._always_volumes or task.spec.command is None or wants_volumes or special:
            return False
        return bool(self._session.secret.variable)

    def always_with_volumes(self) -> None:
        """From now on: the API server refuses pods without, as a policy may."""
        self._always_volumes = True

    def _light(self, request: PodRequest) -> PodRequest:
        return replace(request, volumes=False, secret_env=self._session.secret.variable)

    def issue_bundle(self, id: str, tasks: Sequence[Task], *, light: bool, linger: float) -> None:
        """Give tasks a pod that they share, which waits `linger` seconds for more.

        Raises StorageError.
        """
        request = self._light(tasks[0].request) if light else tasks[0].request
        spec = BundleSpec(
            mail=self.mail(id),
            result_key=self._session.result_key(id, 1),
            jobs=tuple(task.in_bundle() for task in tasks),
            ahead=0 if request.disk_mb else 1,  # two jobs' files need twice the disk
            linger=linger,
            patience=LONG_SECONDS,
        )
        variables = {BUNDLE_VARIABLE: self._keep(id, spec.dumps())}
        self._batch.issue(
            replace(
                request,
                id=id,
                attempt=1,
                job=id,
                bundle=True,
                fingerprint="",
                note="",
                deadline_seconds=None,
                env={**request.env, **variables},
            )
        )

    def send(self, pod: BundlePod, tasks: Sequence[Task]) -> None:
        """Give a bundle more tasks; raises StorageError."""
        text = json.dumps([task.in_bundle() for task in tasks], default=vars)
        self._session.objects.put_bytes(f"{pod.mail}{pod.mails}", text.encode())

    def mail(self, id: str) -> str:
        """The key prefix of what a bundle is sent."""
        return self._session.run_key(f"bundles/{id}/")

    def _keep(self, name: str, text: str) -> str:
        """A specification as a variable's value, which must not be too long."""
        if len(text) <= LONGEST_VARIABLE:
            return text
        return f"key:{self._session.keep_spec(name, text)}"
