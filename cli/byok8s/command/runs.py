"""`byok8s runs`, `status`, `logs`, `cancel` and `clean`: runs that are there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from byok8s.command.group import debug_option
from byok8s.command.options import (
    bucket_option,
    cluster_options,
    endpoint_option,
    kube_settings,
)
from byok8s.exceptions import SettingsError
from byok8s.settings import S3Location

if TYPE_CHECKING:
    from byok8s.batch.runs import Run

F = TypeVar("F", bound=Callable[..., Any])


def _where(command: F) -> F:
    """The options that say which cluster and namespace, and --debug."""
    return cluster_options("")(debug_option(command))


@click.command()
@click.option("--all-namespaces", "-A", is_flag=True, help="Of every namespace, where permitted.")
@_where
def runs(all_namespaces: bool, **where: Any) -> None:
    """List the runs that have something in the cluster.

    A run whose leader is dead has pods that go on without anybody: the same command takes them
    over, and byok8s clean removes them.
    """
    from byok8s.run import runs as core
    from byok8s.run.tables import print_runs

    client = core.open_cluster(kube_settings(**where))
    found = core.list_runs(client, everywhere=all_namespaces)
    if found:
        print_runs(found, everywhere=all_namespaces)
    else:
        place = "any namespace" if all_namespaces else f"namespace '{client.namespace}'"
        click.echo(f"There is no run in {place} of context '{client.context}'.")


@click.command()
@click.argument("run", required=False)
@_where
def status(run: str | None, **where: Any) -> None:
    """Show a run and its pods.

    Without RUN, the only one that there is.
    """
    from byok8s.run import runs as core
    from byok8s.run.tables import print_status

    print_status(core.pick(core.open_cluster(kube_settings(**where)), run))


@click.command()
@click.argument("run")
@click.argument("what", metavar="[RULE|JOB]", required=False)
@click.option("--follow", "-f", is_flag=True, help="Go on with what pods write, until the end.")
@bucket_option("Where the logs of a run that has ended are kept.")
@endpoint_option("With --s3-bucket, an S3 server other than AWS.")
@_where
def logs(
    run: str,
    what: str | None,
    follow: bool,
    s3_bucket: str | None,
    s3_endpoint_url: str | None,
    **where: Any,
) -> None:
    """Print what a run's pods wrote.

    The logs of its pods come first, then those that the bucket keeps. RULE is a rule's name; JOB
    is the name or the id of a job, or of its pod, as byok8s status shows them.
    """
    from byok8s.run.logs import Logs
    from byok8s.run.runs import open_cluster

    location = S3Location.parse(s3_bucket) if s3_bucket else None
    found = Logs(open_cluster(kube_settings(**where)), run, what, location, s3_endpoint_url or None)
    if follow:
        found.follow()
    else:
        found.show()


@click.command()
@click.argument("run")
@_where
def cancel(run: str, **where: Any) -> None:
    """Stop a run, wherever its leader is, and remove its pods.

    The leader is asked to stop, as by Ctrl-C. A run whose leader is dead is removed from here.
    What jobs have put into the bucket stays.
    """
    from byok8s.run import runs as core

    click.echo(core.cancel(core.open_cluster(kube_settings(**where)), run))


@click.command()
@click.argument("run", required=False)
@click.option(
    "--older-than",
    metavar="TIME",
    help="All runs whose leader has been dead for 7d, 12h, 30m or 90s.",
)
@click.option("--all", "every", is_flag=True, help="All runs whose leader is dead.")
@click.option("--force", is_flag=True, help="RUN, though its leader lives; that one then stops.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@_where
def clean(
    run: str | None,
    older_than: str | None,
    every: bool,
    force: bool,
    yes: bool,
    **where: Any,
) -> None:
    """Remove what dead leaders have left.

    That is the pods, the Secret and the ConfigMap of runs whose leader is dead. RUN names one of
    them; --all and --older-than mean those of the namespace, and ask first. The bucket stays as
    it is, what byok8s keeps there too.
    """
    from byok8s.run import runs as core

    if (run is not None) == (every or older_than is not None):
        raise SettingsError("Name one RUN, or give --all or --older-than; byok8s runs lists them.")
    if force and run is None:
        raise SettingsError("--force is for one RUN, by its name.")
    age = core.parse_age(older_than) if older_than is not None else None
    client = core.open_cluster(kube_settings(**where))
    found = core.cleanable(client, run, age, force=force)
    if not found:
        click.echo(f"There is nothing to remove in namespace '{client.namespace}'.")
    elif run is None and not yes:
        _ask(found, client.namespace)
    for one in found:
        click.echo(core.remove(client, one))


def _ask(found: list[Run], namespace: str) -> None:
    """Have a person confirm; raises SettingsError where there is none, Abort for no."""
    import sys

    names = ", ".join(run.name for run in found)
    if not sys.stdin.isatty():
        raise SettingsError(f"Nobody can be asked here; to remove {names}, add --yes.")
    click.confirm(f"Remove {names} from namespace '{namespace}'?", abort=True)
