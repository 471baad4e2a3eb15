"""Rules with `container:`: their image is the pod's, with nothing of ours in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from byok8s.exceptions import SettingsError
from byok8s.progress import some_of
from byok8s.worker import staging
from byok8s.workflow.lean import check, command_of
from byok8s.workflow.scripts import NeedsSnakemake, script_texts

if TYPE_CHECKING:
    from byok8s.batch import PodRequest
    from byok8s.worker.spec import Command
    from byok8s.workflow.lead import Lead

_DOCKER = "docker://"
_NAMED = 5  # rules in a sentence


def image_of(job: Any) -> str | None:
    """The image that a job's command runs in, as Kubernetes names it; None: the worker image.

    A container means nothing to a rule that only collects files, to one that runs on this
    machine, and to Python code of the Snakefile that calls no program.
    """
    if job.is_group() or job.rule.container_img is None:
        return None
    if job.is_norun or _is_for_this_machine(job):
        return None
    url = job.container_img_url
    if not url or (job.rule.is_run and "shell(" not in (job.rule.run_func_src or "")):
        return None
    return str(url).removeprefix(_DOCKER)


def check_containers(jobs: Iterable[Any], lead: Lead) -> None:
    """Raises SettingsError, with a line for each reason why rules cannot run in their image."""
    problems: dict[tuple[str, str], dict[str, Any]] = {}
    for job in jobs:
        if (reason := _problem(job, lead)) is not None:
            alike = problems.setdefault((str(job.container_img_url), reason), {})
            alike.setdefault(job.rule.name, job)
    if problems:
        lines = (_sentence([*alike.values()], why) for (_, why), alike in problems.items())
        raise SettingsError("\n".join(lines))


def container_command(job: Any, lead: Lead, workdir: str) -> Command:
    """The command of a job that has an image; raises SettingsError when it cannot run in it.

    `workdir` is the working directory in the pod.
    """
    try:
        files = check(job, lead, own_image=True)
        texts = script_texts(job, workdir) if job.rule.script else ()
        return command_of(job, lead, files, texts)
    except NeedsSnakemake as reason:
        raise SettingsError(_sentence([job], str(reason))) from None


def in_image(request: PodRequest, image: str, env: Mapping[str, str]) -> PodRequest:
    """The pod of a worker made the pod of an image, with the worker's part beside it.

    The image sees no keys: the user's command gets those that the Snakefile's `envvars:` names.
    """
    from byok8s.batch import Staging

    return replace(
        request,
        image=image,
        command=staging.job_command(),
        env=env,
        staging=Staging(
            image=request.image,
            command=("python3", "-P", "-m", staging.__name__),
            handshake=staging.FOLDER,
            env=request.env,
        ),
    )


def _problem(job: Any, lead: Lead) -> str | None:
    rule = job.rule
    if image_of(job) is None:
        return None
    if not str(job.container_img_url).startswith(_DOCKER):
        return f"names no image of a registry ({_DOCKER}IMAGE)"
    if rule.conda_env and (rule.is_containerized or _is_global(rule)):
        return "needs a conda environment in it, which byok8s does not activate"
    try:
        check(job, lead, own_image=True)
    except NeedsSnakemake as reason:
        return str(reason)
    return None


def _sentence(jobs: list[Any], reason: str) -> str:
    """What is wrong with the rules of these jobs, which all have the same image."""
    first, url = jobs[0], jobs[0].container_img_url
    if len(jobs) == 1:
        return (
            f"Rule '{first.rule.name}' cannot run in its container '{url}': it {reason}; change "
            "that, or write `container: None` in the rule to run it in the worker image."
        )
    names = some_of([f"'{job.rule.name}'" for job in jobs], _NAMED)
    way = "write `container: None` in the rules"
    if all(_is_global(job.rule) for job in jobs):
        way = "take `container:` from the top of the Snakefile"
    return (
        f"Rules {names} cannot run in their container '{url}': each {reason}; change that, "
        f"or {way} to run them in the worker image."
    )


def _is_for_this_machine(job: Any) -> bool:
    """Not `job.is_local`, which in a dry run is said of every job."""
    named = job.rule.group is None and job.rule.name in job.rule.workflow._localrules
    return named or any("local" in file.flags for file in (*job.input, *job.output))


def _is_global(rule: Any) -> bool:
    """Whether the image is one for all rules, to which `conda:` adds the rule's programs.

    Where a rule names both itself, either will do, as in Snakemake.
    """
    return bool(rule.container_img == rule.workflow.modifier.global_container_img)
