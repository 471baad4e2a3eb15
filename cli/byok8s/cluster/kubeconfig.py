"""Our entries in the user's kubeconfig: merged and removed as kind does it."""

from __future__ import annotations

import base64
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from byok8s.cluster.kubefile import KubeFile, locked
from byok8s.exceptions import ClusterError

_SECTIONS = ("clusters", "users", "contexts")
# An extension (a field that kubectl keeps) which marks a file that we made
_CREATED = "byok8s-created"


@dataclass(frozen=True)
class Access:
    """How to reach an API server as its administrator; certificates and key are PEM."""

    server: str
    ca_data: bytes
    client_cert_data: bytes
    client_key_data: bytes = field(repr=False)


def paths() -> list[Path]:
    """The files that kubectl reads: those of $KUBECONFIG, else ~/.kube/config."""
    listed = [Path(p) for p in os.environ.get("KUBECONFIG", "").split(os.pathsep) if p]
    return listed or [Path.home() / ".kube" / "config"]


def merge(
    context: str, server: str, ca_data: bytes, client_cert_data: bytes, client_key_data: bytes
) -> Path:
    """Add or replace our cluster, user and context, all named `context`, and make it current.

    Certificates and key are PEM. Returns the file that was written, which is the first one that
    kubectl reads. Raises ClusterError, with the file untouched, when it is not a kubeconfig.
    """
    path = paths()[0]
    folder_is_new = not path.parent.exists()
    entries = {
        "clusters": {"cluster": {"server": server, "certificate-authority-data": _b64(ca_data)}},
        "users": {
            "user": {
                "client-certificate-data": _b64(client_cert_data),
                "client-key-data": _b64(client_key_data),
            }
        },
        "contexts": {"context": {"cluster": context, "user": context}},
    }
    with locked(path):
        new = not path.exists()
        tree = KubeFile.read(path)
        if new:
            made = {"created": "folder" if folder_is_new else "file"}
            tree.put("extensions", _CREATED, {"extension": made})
        for section, entry in entries.items():
            tree.put(section, context, entry)
        tree.set("current-context", context)
        tree.write(path)
    return path


def remove(context: str) -> None:
    """Remove our cluster, user and context; fine when there are none.

    A current-context that was ours becomes empty. A file that merge() made is deleted when
    nothing remains in it. Raises ClusterError, with the file untouched, when it is not a
    kubeconfig.
    """
    for path in paths():
        if not path.exists() or not _mentions(KubeFile.read(path), context):
            continue
        with locked(path):
            removed_ours = _remove_from(path, context)
        if removed_ours == "folder":
            with suppress(OSError):  # something else lives there by now
                path.parent.rmdir()


def _mentions(tree: KubeFile, context: str) -> bool:
    return tree.get("current-context") == context or any(
        context in tree.names(section) for section in _SECTIONS
    )


def _remove_from(path: Path, context: str) -> str | None:
    """What merge() had made and is now gone or to go: "file", "folder", or None."""
    tree = KubeFile.read(path)
    for section in _SECTIONS:
        tree.drop(section, context)
    if tree.get("current-context") == context:
        tree.set("current-context", "")
    made = tree.find("extensions", _CREATED)
    if made is None or any(tree.names(section) for section in _SECTIONS):
        tree.write(path)
        return None
    os.unlink(path)
    return str(made["extension"]["created"])


def current_context() -> str | None:
    """The current context as kubectl sees it, or None."""
    for path in paths():
        if path.exists() and (name := KubeFile.read(path).get("current-context")):
            return str(name)
    return None


def parse(text: str) -> Access:
    """The only cluster and user of a kubeconfig that another tool wrote.

    Raises ClusterError when it does not carry its certificates in itself.
    """
    import yaml

    try:
        config = yaml.safe_load(text)
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        return Access(
            cluster["server"],
            base64.b64decode(cluster["certificate-authority-data"]),
            base64.b64decode(user["client-certificate-data"]),
            base64.b64decode(user["client-key-data"]),
        )
    except (yaml.YAMLError, LookupError, TypeError, ValueError) as error:
        raise ClusterError(
            "The tool that made the cluster gave a kubeconfig without the cluster's address, "
            "certificates and key; upgrade the tool, or use another --driver."
        ) from error


def _b64(pem: bytes) -> str:
    return base64.b64encode(pem).decode()
