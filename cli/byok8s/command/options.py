"""Options that several commands have: which cluster, which bucket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from byok8s.settings import KubeSettings

F = TypeVar("F", bound=Callable[..., Any])


def cluster_options(namespace: str) -> Callable[[F], F]:
    """A decorator with the cluster's options; `namespace` begins the help of --k8s-namespace."""
    default = "Default: the context's namespace, else 'default'."
    options = (
        click.option(
            "--k8s-namespace", "-k", metavar="NAME", help=f"{namespace} {default}".strip()
        ),
        click.option(
            "--context", metavar="NAME", help="Default: the kubeconfig's current context."
        ),
        click.option(
            "--kubeconfig",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="Default: as kubectl, KUBECONFIG or ~/.kube/config.",
        ),
    )

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def kube_settings(
    k8s_namespace: str | None, context: str | None, kubeconfig: Path | None
) -> KubeSettings:
    """What these options say. An empty value, as from an unset variable, counts as not given."""
    file = kubeconfig if kubeconfig != Path("") else None
    return KubeSettings(file, context or None, k8s_namespace or None)


def bucket_option(text: str) -> Callable[[F], F]:
    """--s3-bucket, with this help."""
    return click.option(
        "--s3-bucket",
        "-b",
        metavar="BUCKET[/PREFIX]",
        envvar="BYOK8S_S3_BUCKET",
        show_envvar=True,
        help=text,
    )


def endpoint_option(text: str) -> Callable[[F], F]:
    """--s3-endpoint-url, with this help."""
    return click.option(
        "--s3-endpoint-url",
        metavar="URL",
        envvar=["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"],
        show_envvar=True,
        help=text,
    )
