"""`byok8s cluster`: a Kubernetes cluster and an S3 server on this machine.

byok8s.cluster is imported inside the commands: it would add a third to the time of --help.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from byok8s.command.group import OrderedGroup, debug_option
from byok8s.exceptions import ClusterError, SettingsError

if TYPE_CHECKING:
    from byok8s.cluster import ClusterInfo

F = TypeVar("F", bound=Callable[..., Any])
DRIVERS = ("kind", "minikube", "k3d", "native")  # those of byok8s.cluster, as a test holds


def _check_provider(_ctx: click.Context, _param: click.Parameter, provider: str) -> str:
    if provider == "aws":
        raise SettingsError(
            "--provider aws is not available in this version: make the cluster with eksctl as "
            "docs/kubernetes-eks.md shows, and run byok8s on its context."
        )
    return provider


def _check_name(_ctx: click.Context, _param: click.Parameter, name: str) -> str:
    from byok8s.cluster import store

    return store.check_name(name)


def _options(command: F) -> F:
    """NAME and the options that every cluster command takes."""
    for decorate in (
        debug_option,
        click.option(
            "--driver",
            type=click.Choice(DRIVERS),
            help="How the cluster is, or was, made.  [default: the first that can be used here]",
        ),
        click.option(
            "--provider",
            type=click.Choice(["local", "aws"]),
            default="local",
            show_default=True,
            expose_value=False,
            callback=_check_provider,
            help="Where the cluster is; 'aws' is not available in this version.",
        ),
    ):
        command = decorate(command)
    return command


def _name(command: F) -> F:
    return click.argument("name", default="dev", callback=_check_name)(command)


@click.group(cls=OrderedGroup)
def cluster() -> None:
    """Make, look at and delete a local cluster with an S3 server.

    NAME is 'dev' where it is left out; the cluster's kubeconfig context is byok8s-NAME.

    \b
    Examples:
      byok8s cluster create
      byok8s cluster status
      eval "$(byok8s cluster env)"
      byok8s cluster delete
    """


@cluster.command()
@_name
@_options
def create(name: str, driver: str | None) -> None:
    """Make the cluster NAME, bring it back, or find it running.

    After a reboot the same command brings the cluster back. Its context byok8s-NAME is merged
    into the kubeconfig and made current.

    \b
    Without --driver the first of these that can be used here is taken:
      kind      the command kind, and a running Docker or Podman
      minikube  the command minikube, and one of its drivers: a running Docker
                or Podman, KVM, QEMU, VirtualBox, Hyper-V or vfkit
      k3d       the command k3d, and a running Docker
      native    root on Linux; Kubernetes is built once from its Go modules
                (five to ten minutes) and started without any container engine,
                with an S3 server
    """
    from byok8s import cluster as clusters
    from byok8s.cluster import store
    from byok8s.progress import reporter

    known = store.load(name)
    was_running = known is not None and clusters.is_running(known)
    info = clusters.create(name, driver, reporter())
    click.echo(f"Cluster '{name}' is {'already running' if was_running else 'ready'}.")
    for line in _description(info):
        click.echo(line)


def _description(info: ClusterInfo) -> list[str]:
    from byok8s.cluster import kubeconfig

    lines = [
        f"  driver        {info.driver}",
        f"  context       {info.context} (now the current one of {kubeconfig.paths()[0]})",
        f"  worker image  {info.worker_image or 'the published one'}",
    ]
    if info.s3:
        return [
            *lines,
            f"  S3 server     {info.s3.endpoint_url}, bucket '{info.s3.bucket}'",
            "Next, in a folder with a Snakefile, a workflow file and a parameter file:",
            f"  byok8s workflow-alpha params-blue --s3-bucket={info.s3.bucket}",
        ]
    return [
        *lines,
        "  S3 server     none: give your own bucket, with AWS_ACCESS_KEY_ID and",
        "                AWS_SECRET_ACCESS_KEY set, and --s3-endpoint-url when it is not on AWS;",
        "                pods must reach that address too",
        "Next, in a folder with a Snakefile, a workflow file and a parameter file:",
        "  byok8s workflow-alpha params-blue --s3-bucket=YOUR-BUCKET",
    ]


@cluster.command("list")
@_options
def list_(driver: str | None) -> None:
    """List the clusters that byok8s made on this machine."""
    from byok8s import cluster as clusters

    found = [info for info in clusters.list_clusters() if driver in (None, info.driver)]
    if not found:
        click.echo("There is no cluster; make one with: byok8s cluster create")
        return
    rows = [
        (
            info.name,
            info.driver,
            "running" if clusters.is_running(info) else "stopped",
            info.context,
        )
        for info in found
    ]
    _print_table([("NAME", "DRIVER", "STATE", "CONTEXT"), *rows])


@cluster.command()
@_name
@_options
def status(name: str, driver: str | None) -> None:
    """Show the state of the cluster NAME.

    One row per component; the exit code is 3 when the cluster is not running.
    """
    from byok8s import cluster as clusters

    info = _find(name, driver)
    rows = clusters.load_driver(info.driver).status(name)
    _print_table([("COMPONENT", "STATE"), *rows])
    if not clusters.is_running(info):
        raise ClusterError(
            f"Cluster '{name}' is not running; bring it back with: byok8s cluster create {name}"
        )


@cluster.command()
@_name
@_options
def env(name: str, driver: str | None) -> None:
    """Print shell exports for the S3 server of the cluster NAME.

    \b
    Example:
      eval "$(byok8s cluster env)" && aws s3 ls
    """
    import shlex

    server = _find(name, driver).s3
    if server is None:
        raise ClusterError(
            f"Cluster '{name}' has no S3 server; use a bucket of your own with --s3-bucket "
            "and --s3-endpoint-url."
        )
    exports = {
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "AWS_ENDPOINT_URL_S3": server.endpoint_url,
        "AWS_REGION": server.region,
        "AWS_DEFAULT_REGION": server.region,
        "BYOK8S_S3_BUCKET": server.bucket,
    }
    for variable, value in exports.items():
        click.echo(f"export {variable}={shlex.quote(value)}")
    # left set, these would go before the keys above or be sent along with them
    click.echo("unset AWS_PROFILE AWS_SESSION_TOKEN")


@cluster.command()
@_name
@_options
def delete(name: str, driver: str | None) -> None:
    """Delete the cluster NAME and its data.

    Everything that belongs to it goes, what is in the buckets of its S3 server too.
    """
    from byok8s import cluster as clusters
    from byok8s.progress import reporter

    if clusters.delete(name, driver, reporter()):
        click.echo(f"Cluster '{name}' is deleted.")
    else:
        click.echo(f"There is no cluster '{name}'; nothing to delete.")


def _find(name: str, driver: str | None) -> ClusterInfo:
    from byok8s.cluster import store

    info = store.load(name)
    if info is None or driver not in (None, info.driver):
        made_by = f" made by driver '{driver}'" if driver else ""
        raise ClusterError(
            f"There is no cluster '{name}'{made_by}; byok8s cluster list shows the clusters, "
            f"and this makes it: byok8s cluster create {name}"
        )
    return info


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("   ".join(cells).rstrip())
