"""Local clusters: which drivers there are, and making, finding and deleting a cluster."""

from __future__ import annotations

from importlib import import_module

from byok8s.cluster import kubeconfig, store
from byok8s.cluster.driver import Driver, NothingMade
from byok8s.cluster.store import ClusterInfo, S3Server
from byok8s.exceptions import ClusterError, SettingsError
from byok8s.progress import Reporter

__all__ = [
    "DRIVERS",
    "ClusterInfo",
    "Driver",
    "S3Server",
    "choose",
    "create",
    "delete",
    "find_by_context",
    "is_running",
    "list_clusters",
    "load_driver",
]

# In the order of choice; imported when used, so that `byok8s --help` stays fast
DRIVERS = {
    "kind": "byok8s.cluster.kind:KindDriver",
    "minikube": "byok8s.cluster.minikube:MinikubeDriver",
    "k3d": "byok8s.cluster.k3d:K3dDriver",
    "native": "byok8s.cluster.native.driver:NativeDriver",
}


def load_driver(name: str) -> Driver:
    """The driver of that name, whether or not it can be used here."""
    module, _, attribute = DRIVERS[name].partition(":")
    driver: Driver = getattr(import_module(module), attribute)()
    return driver


def choose(driver: str | None = None) -> Driver:
    """The named driver, or the first one that can be used here, in the order of DRIVERS.

    Raises ClusterError, which says what to install.
    """
    if driver:
        chosen = load_driver(driver)
        if missing := chosen.missing():
            raise ClusterError(missing)
        return chosen
    for name in DRIVERS:
        chosen = load_driver(name)
        if not chosen.missing():
            return chosen
    raise ClusterError(
        "No local cluster can be made here: install kind (https://kind.sigs.k8s.io) and Docker or "
        "Podman, or be root on Linux, where byok8s builds Kubernetes itself."
    )


def create(name: str, driver: str | None, report: Reporter) -> ClusterInfo:
    """Make the cluster NAME, or bring it back, or find it running.

    Raises SettingsError for a bad name or a cluster of another driver, ClusterError when it
    cannot be made here.
    """
    store.check_name(name)
    with store.exclusive(report.note):
        known = store.load(name)
        if known:
            _check_same(known, driver)
        chosen = choose(known.driver if known else driver)
        if not known:  # what a failed create leaves behind must be found by delete
            store.save(ClusterInfo(name, chosen.name, store.context_name(name)))
        try:
            info = chosen.create(name, report)
        except NothingMade:
            if not known:
                store.remove(name)
            raise
        store.save(info)
        return info


def delete(name: str, driver: str | None, report: Reporter) -> bool:
    """Remove the cluster NAME and all that belongs to it; False when there was none.

    A driver is only to be named for a cluster whose record is lost or damaged.
    """
    with store.exclusive(report.note):
        chosen = driver or (known.driver if (known := store.load(name)) else None)
        if chosen is None:
            return False
        load_driver(chosen).delete(name, report)
        kubeconfig.remove(store.context_name(name))
        store.remove(name)
        return True


def is_running(info: ClusterInfo) -> bool:
    """Whether the cluster is up."""
    return load_driver(info.driver).running(info.name)


def list_clusters() -> list[ClusterInfo]:
    """The clusters that byok8s made, by name; reads files only."""
    return [info for name in store.names() if (info := store.load(name))]


def find_by_context(context: str) -> ClusterInfo | None:
    """The cluster that byok8s made behind a kubeconfig context; reads one file only."""
    name = context.removeprefix(store.CONTEXT_PREFIX)
    if name == context or name not in store.names():
        return None
    return store.load(name)


def _check_same(known: ClusterInfo, driver: str | None) -> None:
    if driver and driver != known.driver:
        raise SettingsError(
            f"Cluster '{known.name}' was made by driver '{known.driver}', not by '{driver}'; "
            f"leave out --driver, or first: byok8s cluster delete {known.name}."
        )
