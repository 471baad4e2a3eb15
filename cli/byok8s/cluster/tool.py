"""What the drivers kind, minikube and k3d share: they drive another program's command line."""

from __future__ import annotations

import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shutil import which
from typing import ClassVar, Protocol

from byok8s import settings
from byok8s.cluster import kubeconfig, store
from byok8s.cluster.store import ClusterInfo
from byok8s.exceptions import ClusterError
from byok8s.progress import Reporter

QUERY_SECONDS = 30.0  # an engine that does not answer in this time counts as absent


@dataclass(frozen=True)
class Answer:
    """What a short command printed on stdout, and its exit code (127: there is no such command)."""

    code: int
    out: str


class Runner(Protocol):
    """Runs commands; tests replay recorded outputs in its place."""

    def query(self, argv: Sequence[str], env: Mapping[str, str]) -> Answer:
        """Run a short command; `env` is added to the environment."""

    def run(
        self, argv: Sequence[str], env: Mapping[str, str], log: Path, line: Callable[[str], None]
    ) -> None:
        """Run a long command; its output goes to the log, and each line to `line`.

        Raises ClusterError, which names the log, when it fails.
        """


class SystemRunner:
    """Runs commands on this machine, as lists and never through a shell."""

    def query(self, argv: Sequence[str], env: Mapping[str, str]) -> Answer:
        try:
            done = subprocess.run(
                argv,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=QUERY_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return Answer(127, "")
        return Answer(done.returncode, done.stdout)

    def run(
        self, argv: Sequence[str], env: Mapping[str, str], log: Path, line: Callable[[str], None]
    ) -> None:
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (
            log.open("a") as stream,
            subprocess.Popen(
                argv,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            ) as process,
        ):
            stream.write(f"$ {' '.join(argv)}\n")
            last = ""
            try:
                for text in process.stdout or ():
                    stream.write(text)
                    stream.flush()
                    if text.strip():
                        last = text.strip()
                        line(last)
            except BaseException:  # do not leave it at work when we are interrupted
                process.terminate()
                raise
        if process.returncode:
            raise ClusterError(
                f"'{' '.join(argv[:3])}' failed with exit code {process.returncode} "
                f"({last or 'it printed nothing'}); its whole output is in {log}."
            )


class ToolDriver(ABC):
    """A driver that runs `kind`, `minikube` or `k3d`; each calls its cluster byok8s-NAME."""

    name: ClassVar[str]
    homepage: ClassVar[str]

    def __init__(self, runner: Runner | None = None) -> None:
        self._runner: Runner = runner or SystemRunner()

    # What differs

    @abstractmethod
    def _needs(self) -> str | None:
        """None, or what is missing besides the command itself, as a sentence."""

    @abstractmethod
    def _state(self, cluster: str) -> str | None:
        """The node's state, "running" when it is up, or None when there is no such cluster."""

    @abstractmethod
    def _make(self, cluster: str) -> list[str]:
        """The command that makes the cluster and waits until it is ready."""

    @abstractmethod
    def _start(self, cluster: str) -> list[str]:
        """The command that starts a stopped cluster."""

    @abstractmethod
    def _load_image(self, cluster: str, archive: Path) -> list[str]:
        """The command that puts an image archive into the cluster."""

    @abstractmethod
    def _remove(self, cluster: str) -> list[str]:
        """The command that deletes the cluster."""

    @abstractmethod
    def _kubeconfig(self, cluster: str) -> str:
        """The tool's own kubeconfig of the cluster."""

    @abstractmethod
    def status(self, name: str) -> list[tuple[str, str]]:
        """Rows of component and state."""

    def _readable(self, line: str) -> str:
        """A line of the tool's output as a progress detail."""
        return line

    def _environment(self) -> dict[str, str]:
        """Variables for the tool, besides KUBECONFIG."""
        return {}

    # What is the same

    def missing(self) -> str | None:
        """None when the tool and what it needs are here."""
        if not self._is_installed(self.name):
            return f"The command {self.name} is not installed; see {self.homepage}."
        return self._needs()

    def create(self, name: str, report: Reporter) -> ClusterInfo:
        """Make the cluster, start it, or find it running; load the worker image into it."""
        context = cluster = store.context_name(name)
        known = store.load(name)
        state = self._state(cluster)
        if state != "running":
            argv = self._start(cluster) if state else self._make(cluster)
            self._run_step(f"Starting {self.name} cluster {cluster}", argv, cluster, report)
        access = kubeconfig.parse(self._kubeconfig(cluster))
        kubeconfig.merge(
            context,
            access.server,
            access.ca_data,
            access.client_cert_data,
            access.client_key_data,
        )
        loaded = known.worker_image if known and state else None
        return ClusterInfo(name, self.name, context, self._worker_image(cluster, loaded, report))

    def running(self, name: str) -> bool:
        """Whether the cluster's node is up."""
        return self._state(store.context_name(name)) == "running"

    def delete(self, name: str, report: Reporter) -> None:
        """Delete the cluster with the tool, if it still has it."""
        cluster = store.context_name(name)
        if missing := self.missing():  # else what is not seen would count as deleted
            raise ClusterError(f"Cluster '{name}' cannot be deleted now: {missing}")
        if self._state(cluster):
            title = f"Deleting {self.name} cluster {cluster}"
            self._run_step(title, self._remove(cluster), cluster, report)

    def _worker_image(self, cluster: str, loaded: str | None, report: Reporter) -> str | None:
        """Load the locally built worker image; None, with a note, where it cannot be built."""
        from byok8s.cluster import images

        try:
            image = images.worker_image(settings.cache_folder(), report)
        except ClusterError as error:
            report.note(
                f"The worker image is not built here ({error}); pods will pull the published one."
            )
            return None
        if image.ref != loaded:
            argv = self._load_image(cluster, image.archive)
            self._run_step("Loading the worker image", argv, cluster, report)
        return image.ref

    def _run_step(self, title: str, argv: list[str], cluster: str, report: Reporter) -> None:
        log = _folder(cluster) / f"{self.name}.log"
        with report.step(title) as step:
            self._runner.run(
                argv,
                self._full_environment(cluster),
                log,
                lambda line: step.update(self._readable(line)),
            )

    def _query(self, cluster: str, *argv: str) -> Answer:
        return self._runner.query(argv, self._full_environment(cluster))

    def _full_environment(self, cluster: str) -> dict[str, str]:
        # a file of its own: the user's kubeconfig gets one context, ours, and not the tool's too
        return {"KUBECONFIG": str(_folder(cluster) / "kubeconfig"), **self._environment()}

    def _is_installed(self, command: str) -> bool:
        return which(command) is not None

    @cached_property
    def _engine(self) -> str | None:
        """The container engine that answers: "docker", "podman" or None."""
        questions = {
            "docker": ("docker", "version", "--format", "{{.Server.Version}}"),
            "podman": ("podman", "info", "--format", "{{.Host.OS}}"),
        }
        for engine, question in questions.items():
            if self._is_installed(engine) and self._runner.query(question, {}).code == 0:
                return engine
        return None


def _folder(cluster: str) -> Path:
    return store.folder(cluster.removeprefix(store.CONTEXT_PREFIX))
