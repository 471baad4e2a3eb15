"""All that can be known to be wrong before anything is submitted, found at once and quickly.

The cluster and the bucket are asked at the same time, so that the whole takes as long as the
slower one; and every problem is told, not only the first.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

from byok8s.batch.placement import ANYWHERE, Placement
from byok8s.cluster import ClusterInfo, find_by_context
from byok8s.exceptions import (
    ClusterError,
    SettingsError,
    StorageError,
)
from byok8s.run.lookup import WorkflowFiles, look_up
from byok8s.run.placement import read_placement
from byok8s.run.problems import Problems
from byok8s.settings import (
    WORKER_IMAGE,
    KubeSettings,
    RunSettings,
    S3Location,
    S3Options,
    S3Settings,
    is_loopback,
)
from byok8s.storage.account import Account, Credentials, find_account, find_server
from byok8s.storage.bucket import check_bucket

if TYPE_CHECKING:
    from byok8s.batch.access import Access
    from byok8s.batch.client import KubeClient

T = TypeVar("T")

# What a run does in its namespace: (verbs, resource, subresource)
NEEDED = (
    ("create get list watch delete deletecollection", "pods", ""),
    ("get", "pods", "log"),
    ("create get list patch delete", "configmaps", ""),
    ("create patch delete", "secrets", ""),
)


@dataclass(frozen=True)
class Ready:
    """What a run starts with, each part checked."""

    files: WorkflowFiles
    client: KubeClient | None = None  # None with --local
    cluster: ClusterInfo | None = None  # when byok8s made the cluster
    image: str = ""  # of the workers; empty with --local
    s3: S3Settings | None = None  # None with --local and without a bucket
    account: Account | None = None  # the same
    placement: Placement = ANYWHERE  # of the pods, unless a rule says otherwise


def preflight(settings: RunSettings) -> Ready:
    """Check the files, the cluster and the bucket; nothing remains of it but the result.

    Raises SettingsError (exit code 2) when a file or the usage is bad, otherwise ClusterError or
    StorageError (3); one sentence per line when there are several problems.
    """
    problems = Problems()
    access = None if settings.local else problems.of(lambda: find_context(settings.kube))
    cluster = problems.of(lambda: find_by_context(access.context)) if access else None
    # Without its context a cluster that brings its own S3 server cannot be told from another one.
    known = access or settings.local or settings.endpoint_url
    storage = _start(lambda: _check_storage(settings, cluster) if known else None)
    placement = problems.of(lambda: read_placement(settings.placement))
    image = settings.image or (cluster and cluster.worker_image) or WORKER_IMAGE

    def checked_client(access: Access) -> KubeClient:
        from byok8s.batch.rehearsal import rehearse

        client = _check_cluster(access, cluster)
        rehearse(client, placement or ANYWHERE, image, "this run")
        return client

    client = _start(lambda: checked_client(access)) if access else None
    files = problems.of(lambda: look_up(settings))
    ready_client = problems.of(client.result) if client else None
    s3, account = problems.of(storage.result) or (None, None)
    problems.tell()
    assert files  # or it was told
    image = "" if settings.local else image
    return Ready(files, ready_client, cluster, image, s3, account, placement or ANYWHERE)


def _start(function: Callable[[], T]) -> Future[T]:
    """Run in a thread that, unlike a pool's, does not hold up an interrupted program."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=work, daemon=True, name="preflight").start()
    return future


def find_context(kube: KubeSettings) -> Access:
    """The context that the settings name; raises SettingsError and ClusterError."""
    from byok8s.batch.access import find_access

    if kube.kubeconfig and not kube.kubeconfig.expanduser().is_file():
        raise SettingsError(f"The kubeconfig '{kube.kubeconfig}' is not there; check --kubeconfig.")
    return find_access(kube)


def connect(access: Access, cluster: ClusterInfo | None) -> KubeClient:
    """The client of a context whose API server answers; raises ClusterError."""
    from byok8s.batch.client import ApiError, KubeClient

    client = KubeClient(access)
    try:
        client.version()  # first, so that a server out of reach is told once and soon
    except ClusterError as error:
        cause = error.__cause__
        if cluster and isinstance(cause, ApiError) and cause.reason == "Unreachable":
            raise ClusterError(
                f"Cluster '{cluster.name}' does not answer at {client.server}; "
                f"bring it back with: byok8s cluster create {cluster.name}."
            ) from cause
        raise
    return client


def _check_cluster(access: Access, cluster: ClusterInfo | None) -> KubeClient:
    from byok8s.batch.permissions import Action, forbidden

    client = connect(access, cluster)
    exists = _start(client.namespace_exists)
    wanted = [Action(verb, kind, part) for verbs, kind, part in NEEDED for verb in verbs.split()]
    refused = _start(lambda: forbidden(client, wanted))
    namespace, context = client.namespace, client.context
    if not exists.result():
        raise ClusterError(
            f"Namespace '{namespace}' not found in context '{context}'; "
            f"create it with: kubectl create namespace {namespace} --context {context}."
        )
    if missing := refused.result():
        raise ClusterError(
            f"The account of context '{context}' may not {_listed([*map(str, missing)])} in "
            f"namespace '{namespace}'; ask for a Role that allows it (docs/errors.md has one to "
            "apply)."
        )
    return client


def _listed(words: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _check_storage(
    settings: RunSettings, cluster: ClusterInfo | None
) -> tuple[S3Settings, Account] | None:
    if settings.location is None:
        return None
    s3, account = find_storage(
        settings.location,
        settings.endpoint_url,
        settings.region,
        cluster,
        for_pods=not settings.local,
        options=settings.s3,
    )
    return check_bucket(s3, account), account


def find_storage(
    location: S3Location,
    endpoint: str | None,
    region: str | None,
    cluster: ClusterInfo | None,
    *,
    for_pods: bool,
    options: S3Options | None = None,
) -> tuple[S3Settings, Account]:
    """Where the bucket is, and whose keys open it; the bucket is not asked. Raises StorageError."""
    if cluster and cluster.s3 and endpoint is None:
        # Keys and region from the environment are for another server and cannot work on this one.
        server = cluster.s3
        keys = Credentials(server.access_key, server.secret_key)
        account = Account.fixed(f"cluster '{cluster.name}'", keys)
        s3 = S3Settings(location, server.endpoint_url, server.region, options or S3Options())
        return s3, account
    s3 = find_server(location, endpoint, region, options)
    if for_pods and s3.endpoint_url and is_loopback(s3.endpoint_url):
        raise StorageError(
            f"The S3 endpoint {s3.endpoint_url} is this machine only, and pods cannot reach "
            "it; name it by an address that the cluster's nodes can reach."
        )
    return s3, find_account()
