"""`byok8s run`: the default command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from byok8s.command.options import (
    bucket_option,
    cluster_options,
    endpoint_option,
    kube_settings,
)
from byok8s.command.placement import PLACING, placement_options, placement_settings
from byok8s.command.sections import SectionedCommand, section
from byok8s.settings import RunSettings, S3Location, S3Options

_EXAMPLES = """\
Examples:
  byok8s workflow-alpha params-blue -b mybucket
  byok8s workflow-alpha params-blue -b mybucket/project --dry-run
  byok8s workflow-alpha params-blue alpha.txt -b mybucket -j 50 --param name=green
  byok8s workflow-alpha params-blue -b mybucket --spot prefer --node-selector disk=ssd
  byok8s workflow-alpha params-blue --local
"""


@click.command(cls=SectionedCommand, epilog=_EXAMPLES, short_help="Run a workflow (the default).")
@click.argument("workflow")
@click.argument("params")
@click.argument("targets", metavar="[TARGET]...", nargs=-1)
@section("What to run")
@click.option(
    "--snakefile",
    "-s",
    metavar="FILE",
    type=click.Path(path_type=Path),
    default="Snakefile",
    show_default=True,
    help="The workflow's rules.",
)
@click.option(
    "--param",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Set one parameter, a.b=VALUE a nested one; may be repeated. VALUE is JSON if JSON "
    "would print it back unchanged, else text: 5 is a number, 1.10 is text.",
)
@click.option("--dry-run", "-n", is_flag=True, help="Check everything, show the jobs, run none.")
@click.option("--force", "-f", is_flag=True, help="Run every rule again.")
@section("Where the files are")
@bucket_option("The bucket that holds all files; it must exist. s3://BUCKET/PREFIX is fine too.")
@endpoint_option(
    "An S3 server other than AWS. Default: the AWS config file's, or the server of the "
    "byok8s cluster.",
)
@click.option(
    "--s3-region",
    metavar="NAME",
    envvar=["AWS_REGION", "AWS_DEFAULT_REGION"],
    show_envvar=True,
    help="The bucket's region. Default: the AWS config file's, or what the bucket says.",
)
@click.option(
    "--s3-addressing",
    type=click.Choice(["path", "virtual"]),
    envvar="BYOK8S_S3_ADDRESSING",
    show_envvar=True,
    help="SERVER/BUCKET/KEY or BUCKET.SERVER/KEY. Default: the AWS config file's, else path.",
)
@click.option(
    "--s3-sse",
    type=click.Choice(["AES256", "aws:kms", "aws:kms:dsse"]),
    envvar="BYOK8S_S3_SSE",
    show_envvar=True,
    help="Server-side encryption of what is stored. Default: the bucket's.",
)
@click.option(
    "--s3-sse-kms-key-id",
    metavar="KEY",
    envvar="BYOK8S_S3_SSE_KMS_KEY_ID",
    show_envvar=True,
    help="The key for aws:kms. Default: AWS's own for S3.",
)
@click.option(
    "--s3-storage-class",
    metavar="CLASS",
    envvar="BYOK8S_S3_STORAGE_CLASS",
    show_envvar=True,
    help="The storage class of what jobs store. Default: STANDARD.",
)
@click.option(
    "--s3-requester-pays",
    is_flag=True,
    envvar="BYOK8S_S3_REQUESTER_PAYS",
    show_envvar=True,
    help="Agree to pay for requests to a bucket of somebody else.",
)
@click.option("--download", is_flag=True, help="At the end, copy the targets from the bucket here.")
@section("Which cluster")
@cluster_options("Where the pods run.")
@click.option(
    "--image",
    metavar="REF",
    envvar="BYOK8S_IMAGE",
    show_envvar=True,
    help="The worker image. Default: the byok8s cluster's own, else this version's.",
)
@click.option(
    "--local",
    is_flag=True,
    help="No cluster: jobs run on this machine, on the same bucket or, without one, on the "
    "files here.",
)
@section("Where the pods run")
@placement_options
@section("How")
@click.option("--jobs", "-j", metavar="N", type=click.IntRange(min=1), help="Pods at once.")
@click.option(
    "--max-threads",
    metavar="N",
    type=click.IntRange(min=1),
    help="Threads of a job, where its rule asks for more: the CPUs of the largest node, for one.",
)
@click.option(
    "--bundle/--no-bundle",
    "bundle",
    default=True,
    help="Whether short jobs may share a pod, or each gets one of its own.  [default: bundle]",
)
@click.option(
    "--pods-per-second",
    metavar="N",
    type=click.FloatRange(min=0),
    default=20.0,
    show_default="20",
    help="How many pods are created in a second at most; 0 for as many as the API server takes.",
)
@click.option(
    "--retries",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="How often a job that failed by itself is run again.",
)
@click.option(
    "--max-disruptions",
    metavar="N",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="How often a job is run again that was evicted, preempted or deleted, or lost its node; "
    "costs none of its retries.",
)
@click.option(
    "--memory-retries",
    metavar="N",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="How often a job that ran out of its mem_mb is run again with twice as much; costs none "
    "of its retries.",
)
@click.option(
    "--wait-limit",
    "wait_limits",
    metavar="NAME=TIME",
    multiple=True,
    envvar="BYOK8S_WAIT_LIMIT",
    show_envvar=True,
    help="How long a job may wait for what, as image=10m or unschedulable=2h, before it fails; "
    "may be repeated.",
)
@click.option("--keep-going", is_flag=True, help="After a failure, go on with independent jobs.")
@click.option(
    "--on-exit",
    type=click.Choice(["delete", "keep"]),
    default="delete",
    show_default=True,
    help="What becomes of the pods of an interrupted run; with keep they run on, and the same "
    "command goes on with them.",
)
@click.option("--debug", is_flag=True, help="Show tracebacks and Snakemake's own log.")
def run(workflow: str, params: str, targets: tuple[str, ...], **options: Any) -> None:
    """Run a Snakemake workflow in pods of a Kubernetes cluster, with its files in S3.

    WORKFLOW is a file that names the targets, as {"workflow_target": "alpha.txt"}, and PARAMS a
    file with the config for the rules. Both are JSON or YAML, named with or without the suffix,
    and are looked for here and beside the Snakefile. TARGETs given here replace the file's.
    """
    from byok8s.progress import reporter
    from byok8s.run.story import run_workflow

    run_workflow(_settings(workflow, params, targets, options), reporter())


def _settings(
    workflow: str, params: str, targets: tuple[str, ...], options: dict[str, Any]
) -> RunSettings:
    """What the options say. An empty value, as from an unset variable, counts as not given."""
    from byok8s.run.lookup import parse_param
    from byok8s.run.wait_limits import parse_wait_limit

    if options["local"]:  # variables are set for runs on a cluster
        cluster_only = ("image", "owner", *PLACING)
        options |= {name: _unless_variable(name, options[name]) for name in cluster_only}
    take = options.pop
    placing = {name: take(name) for name in PLACING}
    bucket = take("s3_bucket")
    return RunSettings(
        workflow=workflow,
        params=params,
        targets=targets,
        location=S3Location.parse(bucket) if bucket else None,
        endpoint_url=take("s3_endpoint_url") or None,
        region=take("s3_region") or None,
        s3=S3Options(
            take("s3_addressing") or None,
            take("s3_sse") or None,
            take("s3_sse_kms_key_id") or None,
            take("s3_storage_class") or None,
            take("s3_requester_pays"),
        ),
        kube=kube_settings(take("k8s_namespace"), take("context"), take("kubeconfig")),
        image=take("image") or None,
        owner=take("owner") or None,
        wait_limits=dict(parse_wait_limit(text) for text in take("wait_limits")),
        overrides=dict(parse_param(text) for text in take("overrides")),
        placement=placement_settings(placing),
        **options,  # the rest are fields of the same names
    )


def _unless_variable(name: str, value: Any) -> Any:
    """A parameter's value; None when it comes from an environment variable."""
    source = click.get_current_context().get_parameter_source(name)
    return None if source is ParameterSource.ENVIRONMENT else value
