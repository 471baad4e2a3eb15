"""Finds out which cluster, context and namespace are meant, as kubectl would."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from byok8s.batch.official import official
from byok8s.exceptions import ClusterError
from byok8s.settings import KubeSettings

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
POOL_SIZE = 32


@dataclass(frozen=True)
class Access:
    """A context of one or more kubeconfig files, or the pod's own service account (no files)."""

    context: str
    namespace: str
    files: tuple[Path, ...] = ()

    def configuration(self) -> Any:
        """The official client's Configuration with credentials as they are now.

        Runs credential plugins. Raises ClusterError when the context cannot be used.
        """
        client = official()
        configuration = client.Configuration()
        configuration.connection_pool_maxsize = POOL_SIZE
        configuration.socket_options = _keepalive()
        try:
            with _complaints() as complaints:
                if self.files:
                    client.load_kube_config(
                        config_file=os.pathsep.join(map(str, self.files)),
                        context=self.context,
                        client_configuration=configuration,
                        persist_config=False,
                    )
                else:
                    client.load_incluster_config(client_configuration=configuration)
        except Exception as error:  # files, certificates, logins: each has its own kinds
            raise ClusterError(
                f"The context '{self.context}' in {self.where} cannot be used: {error}."
            ) from error
        if complaints:
            raise ClusterError(
                f"The credentials of context '{self.context}' in {self.where} cannot be had: "
                f"{complaints[0].rstrip('.')}. Log in again, or try "
                f"'kubectl --context={self.context} get pods'."
            )
        return configuration

    @property
    def where(self) -> str:
        return ", ".join(map(str, self.files)) or str(SERVICE_ACCOUNT)


def find_access(kube: KubeSettings, environ: Mapping[str, str] = os.environ) -> Access:
    """The context that `kube` names, else the current one, else the pod's service account.

    Raises ClusterError: no kubeconfig (names where it was looked for), a broken one, or an
    unknown context (names the known ones).
    """
    candidates = _candidates(kube.kubeconfig, environ)
    files = tuple(path for path in candidates if path.is_file())
    if not files:
        return _without_files(kube, candidates, environ)
    contexts: dict[str, Any] = {}
    current = ""
    for path in files:
        content = _read(path)
        current = current or content.get("current-context") or ""
        for entry in content.get("contexts") or ():
            contexts.setdefault(entry.get("name", ""), entry.get("context") or {})
    where = ", ".join(map(str, files))
    known = f"it has {', '.join(sorted(contexts))}" if contexts else "it has none"
    name = kube.context or current
    if not name:
        raise ClusterError(f"No context is current in {where} ({known}); name one with --context.")
    if name not in contexts:
        raise ClusterError(f"There is no context '{name}' in {where} ({known}).")
    return Access(name, kube.namespace or contexts[name].get("namespace") or "default", files)


def _candidates(given: Path | None, environ: Mapping[str, str]) -> list[Path]:
    if given is not None:
        return [given.expanduser()]
    listed = [Path(p).expanduser() for p in environ.get("KUBECONFIG", "").split(os.pathsep) if p]
    return listed or [Path.home() / ".kube/config"]


def _without_files(
    kube: KubeSettings, candidates: list[Path], environ: Mapping[str, str]
) -> Access:
    tried = ", ".join(map(str, candidates))
    if kube.kubeconfig is None and kube.context is None and environ.get("KUBERNETES_SERVICE_HOST"):
        namespace = SERVICE_ACCOUNT / "namespace"
        if namespace.is_file():
            return Access("in-cluster", kube.namespace or namespace.read_text().strip())
    raise ClusterError(
        f"No kubeconfig was found (looked for {tried}); name one with --kubeconfig or "
        "$KUBECONFIG, or make a local cluster with 'byok8s cluster create'."
    )


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ClusterError(f"The kubeconfig {path}{at} is not YAML: {error.problem}.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ClusterError(f"The kubeconfig {path} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise ClusterError(f"The kubeconfig {path} is empty or not a mapping.")
    return content


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """What the official client only logs: a credential plugin that failed."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    collector = Collector(logging.ERROR)
    root = logging.getLogger()
    root.addHandler(collector)
    try:
        yield lines
    finally:
        root.removeHandler(collector)


def _keepalive() -> list[tuple[int, int, int]]:
    """Socket options that notice a silently dropped connection within half a minute."""
    import socket

    import urllib3.connection

    options = list(urllib3.connection.HTTPConnection.default_socket_options)
    options.append((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1))
    for name, seconds in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), seconds))
    return options
