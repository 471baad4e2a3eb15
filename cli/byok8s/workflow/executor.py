"""The Snakemake executor: hands jobs to the batch system and tells Snakemake how they end."""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.real import RealExecutor
from snakemake_interface_executor_plugins.settings import (
    CommonSettings,
    ExecMode,
    ExecutorSettingsBase,
)
from snakemake_interface_executor_plugins.utils import format_cli_arg

from byok8s.worker.spec import JobSpec
from byok8s.workflow.containers import container_command, image_of, in_image
from byok8s.workflow.dispatch import Dispatcher
from byok8s.workflow.events import JobFailure, JobName
from byok8s.workflow.fingerprint import fingerprint
from byok8s.workflow.lean import lean_command
from byok8s.workflow.resources import placement_of
from byok8s.workflow.retries import Retries
from byok8s.workflow.shares import CPU_PER_THREAD
from byok8s.workflow.tasks import Outcome, Task

if TYPE_CHECKING:
    from byok8s.batch import Decision, PodRequest
    from byok8s.workflow.session import Session

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=True,
    # byok8s packs and uploads the sources itself: Snakemake's way costs every pod a second start
    job_deploy_sources=False,
    pass_default_storage_provider_args=True,
    pass_default_resources_args=True,
    pass_envvar_declarations_to_cmd=False,
    auto_deploy_default_storage_provider=False,
    pass_group_args=True,
    # what stands in the way of "a shared file system or sources in the storage": we transfer them
    can_transfer_local_files=False,
)

# A rule that says nothing of memory gets this request and no limit: enough for Snakemake in the
# pod (137 MB resident) and a small tool, and never the reason for a kill.
DEFAULT_MEMORY_MB = 256


@dataclass
class ExecutorSettings(ExecutorSettingsBase):
    """Settings of `snakemake --executor byok8s`."""

    namespace: str | None = field(
        default=None,
        metadata={"type": str, "help": "Kubernetes namespace (default: the context's)"},
    )
    context: str | None = field(
        default=None,
        metadata={"type": str, "help": "kubeconfig context (default: the current one)"},
    )
    image: str | None = field(
        default=None, metadata={"type": str, "help": "Worker image (default: the published one)"}
    )


@dataclass
class SessionSettings(ExecutorSettings):
    """Settings of a run that byok8s itself has prepared."""

    session: Session | None = field(default=None, metadata={"help": "the prepared run"})


class Executor(RealExecutor):
    """Bare pods, one watch, no polling: an update ends a job as soon as the watch delivers it."""

    session: Session
    _retries: Retries

    def __post_init__(self) -> None:
        session = getattr(self.executor_settings, "session", None)
        self._own_session = session is None
        if session is None:
            from byok8s.workflow.plain import plain_session

            session = plain_session(self.executor_settings, self.workflow)
        self.session = session
        self._jobs: dict[str, SubmittedJobInfo] = {}
        self._lock = threading.Lock()
        self._dispatcher: Dispatcher | None = None

    @property
    def cores(self) -> str:
        return "all"

    def get_exec_mode(self) -> ExecMode:
        return ExecMode.REMOTE

    def get_python_executable(self) -> str:
        return "python3"

    def _in_pod_argv(self, job: Any) -> tuple[str, ...]:
        """The Python arguments that run Snakemake for the job in its pod."""
        arguments = [
            format_cli_arg("--snakefile", os.path.relpath(self.snakefile)),
            self.get_job_args(job),
            self.workflow.spawned_job_args_factory.general_args(self.common_settings),
            # The job limit's timer would keep Snakemake in the pod alive for a second after its
            # work; and what it tells of its progress is no news to who reads the job's log
            "--max-jobs-per-timespan 1000/0s --quiet progress host rules",
            "--mode remote",
        ]
        # -P: a user's file such as copy.py must not stand in for Python's own module
        return ("-P", "-m", "byok8s.workflow.in_pod", *shlex.split(" ".join(arguments)))

    def run_jobs(self, jobs: list[Any]) -> None:
        if self._dispatcher is None:
            self.session.open(self.workflow, self.envvars())
            self._retries = Retries(self.session.retry_policy, self.session.batch.most_memory_mb)
            self._dispatcher = self._dispatch()
            self._dispatcher.start()
        self.session.upload_inputs()
        for job in jobs:
            self.run_job_pre(job)
            self.run_job(job)

    def _dispatch(self) -> Dispatcher:
        session, listener = self.session, self.session.listener
        return Dispatcher(
            session,
            limit=session.max_pods,
            share=session.share_pods,
            durations=session.durations(),
            on_started=lambda task: listener.started(task.name),
            on_waiting=lambda task, why, busy: listener.waiting(task.name, why, busy=busy),
            on_ended=self._ended,
            on_broken=self.workflow.scheduler.executor_error_callback,
        )

    def run_job(self, job: Any) -> None:
        task = self._task(job)
        info = SubmittedJobInfo(job, external_jobid=task.id)
        with self._lock:
            self._jobs[task.id] = info
        self.report_job_submission(info)
        self.session.listener.submitted(task.name)
        assert self._dispatcher is not None
        self._dispatcher.submit(task)

    def _task(self, job: Any) -> Task:
        """What is to be done for a job; where a dead leader's pod does it, as that one saw it."""
        left = self.session.stock.of(job_id(job))
        if left is None or job.attempt > 1:
            return self._new_task(job)
        if left.note:  # its resources may depend on how often it was tried
            self._retries.recall(job_id(job), left.note)
            job.attempt = self._retries.tries(job_id(job))
        task = self._new_task(job)
        if task.request.fingerprint != left.fingerprint and left.note:
            self._retries.recall(job_id(job), "")
            job.attempt = 1
            task = self._new_task(job)
        return task

    def _new_task(self, job: Any) -> Task:
        from byok8s.batch.pods import WORK

        name, id, session = job_name(job), job_id(job), self.session
        image, leader = image_of(job), session.leader
        command = (
            container_command(job, leader, f"{WORK}/{session.sources.workdir}")
            if image
            else lean_command(job, leader)
        )
        spec = JobSpec(
            sources_key=session.sources_key,
            sources_sha256=session.sources.sha256,
            workdir=session.sources.workdir,
            argv=() if command else self._in_pod_argv(job),
            log_key=session.log_key(id, job.attempt),
            result_key=session.result_key(id, job.attempt),
            command=command,
            facts={} if command else session.facts(job, tried=job.attempt > 1),
            globs={} if command else session.late_globs(),
            rule_logs=() if job.is_group() else tuple(map(str, job.log)),
        )
        request = self._request(job, id, name)
        # before it has grown: that is no other work
        request = replace(request, fingerprint=fingerprint(job, command, request, leader))
        request = self._retries.grown(request)
        sharable = command is not None and not image and job.resources.get("bundle", 1) != 0
        # which is told as /tmp; where pods are shared, $TMPDIR is another folder for each job
        sharable = sharable and "tmpdir" not in (job.rule.shellcmd or "")
        sharable = sharable and id not in session.stock.alone  # its pod is adopted, or replaced
        return Task(
            name,
            in_image(request, image, session.bucket.variables) if image else request,
            spec,
            sharable,
            bytes_in=session.bytes_of(command.inputs) if command and not image else 0,
            still_there=lambda: session.outputs_exist(job),
        )

    def _request(self, job: Any, id: str, name: JobName) -> PodRequest:
        from byok8s.batch import PodRequest

        session, resources = self.session, job.resources
        memory = _whole(resources.get("mem_mb"))
        runtime = _whole(resources.get("runtime"))
        return PodRequest(
            id=id,
            rule=name.rule,
            job=str(name),
            image=session.image,
            command=("python3", "-P", "-c", "from byok8s.worker.plain import main; main()"),
            env=session.pod_env,
            cpu=CPU_PER_THREAD * max(1, job.threads),
            memory_mb=memory or DEFAULT_MEMORY_MB,
            limit_memory=memory is not None,
            disk_mb=_whole(resources.get("disk_mb")),
            deadline_seconds=runtime * 60 if runtime else None,
            placement=placement_of(job, session.placement),
        )

    def _ended(self, task: Task, outcome: Outcome) -> None:
        with self._lock:
            info = self._jobs.pop(task.id, None)
        if info is None:
            return
        listener = self.session.listener
        if outcome.result is None or outcome.result.storage_away:
            self.session.cut_short(info.job)
        if outcome.success:
            self.session.told(outcome.result, info.job)
            listener.ended(task.name, None)
            self.report_job_success(info)
            return
        decision = self._retries.decide(task, outcome, info.job.restart_times)
        if decision.retry and not decision.charged:
            self._run_again(info, task, f"{_reason(outcome).rstrip('.')}. {decision.message}")
            self._later(decision.wait_seconds, lambda: self._submit_again(info.job, task))
        else:
            self._fail(info, task, outcome, decision)

    def _run_again(self, info: SubmittedJobInfo, task: Task, why: str) -> None:
        """Snakemake is told nothing, so that its count of attempts is that of the job's own."""
        with self._lock:
            self._jobs[task.id] = info
        self.session.listener.retried(task.name, why)

    def _submit_again(self, job: Any, task: Task) -> None:
        assert self._dispatcher is not None
        spec = task.spec
        if spec.command is None:
            spec = spec.changed(facts=self.session.facts(job, tried=True))
        request = self._retries.grown(task.request)
        self._dispatcher.submit(replace(task, request=request, spec=spec))

    def _fail(
        self, info: SubmittedJobInfo, task: Task, outcome: Outcome, decision: Decision
    ) -> None:
        self.session.listener.ended(task.name, self._failure(info.job, task, outcome, decision))
        if not decision.retry:  # Snakemake itself would try again whatever the cause
            info.job.attempt = max(info.job.attempt, info.job.restart_times + 1)
        self._later(decision.wait_seconds, lambda: self.report_job_error(info))
        if not (decision.retry or self.workflow.execution_settings.keep_going):
            self._withdraw()

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        if not seconds:
            action()
            return
        timer = threading.Timer(seconds, action)
        timer.daemon = True  # it must not keep a process alive that was interrupted
        timer.start()

    def _withdraw(self) -> None:
        """As Snakemake does after a failure: what runs goes on to its end, nothing else begins."""
        assert self._dispatcher is not None
        for task in self._dispatcher.withdraw():
            with self._lock:
                info = self._jobs.pop(task.id)
            self.session.listener.withdrawn(task.name)
            self.report_job_error(info)

    def _failure(self, job: Any, task: Task, outcome: Outcome, decision: Decision) -> JobFailure:
        result, reason = outcome.result, _reason(outcome)
        if decision.message and not decision.retry:
            reason = f"{reason.rstrip('.')}. {decision.message}"
        return JobFailure(
            job=task.name,
            reason=reason,
            tail=result.tail if result else self.session.batch.logs(task.id, tail_lines=20),
            log=self.session.log_url(task.id, job.attempt) if result else "",
            hint=self.session.hint(job) if result and result.command_exit else "",
            will_retry=decision.retry,
        )

    def print_job_error(self, job_info: SubmittedJobInfo, msg: Any = None, **kwargs: Any) -> None:
        """Into Snakemake's log file; the listener has been told more."""
        job_info.job.log_error(msg, external_jobid=job_info.external_jobid, **kwargs)

    def cancel(self) -> None:
        """Stop what runs; called for Ctrl-C, SIGTERM and errors of Snakemake itself."""
        self.session.cancelled = True
        self.shutdown()

    def shutdown(self) -> None:
        if self._dispatcher is not None:
            self._dispatcher.stop()
            self.session.keep_durations(self._dispatcher.durations)
        with self._lock:
            self.session.idle = not self._jobs
            for info in self._jobs.values():
                self.session.cut_short(info.job)
        if self._own_session:
            self.session.close()


def _reason(outcome: Outcome) -> str:
    """Why a job failed, in one sentence."""
    result, update = outcome.result, outcome.update
    if result is not None and result.error:
        return result.error
    if update is not None and (result is None or update.cause != "command_failed"):
        return update.message
    assert result is not None  # one of the two tells how the job ended
    if result.command_exit is not None:
        return f"the command exited with code {result.command_exit}"
    if result.exit_code == 1:
        return "Snakemake could not run the rule in its pod"
    return update.message if update else f"its worker ended with code {result.exit_code}"


def job_name(job: Any) -> JobName:
    """A job's or a group's readable name."""
    if job.is_group():
        return JobName("+".join(sorted(set(job.rules))))
    return JobName(job.rule.name, {k: str(v) for k, v in job.wildcards_dict.items()})


def job_id(job: Any) -> str:
    """An id that is the same for the same job in every run: it names the pod."""
    if job.is_group():
        return f"group-{str(job.jobid).replace('-', '')[:12]}"
    kept: dict[str, str] = job.__dict__
    if "byok8s_id" not in kept:
        kept["byok8s_id"] = f"{job.rule.name[:40]}-{job.uuid().replace('-', '')[:12]}"
    return kept["byok8s_id"]


def _whole(value: Any) -> int | None:
    """A resource as a whole number; None when it is unset or not yet known."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value)
