"""The programs that are built from pinned Go modules, once, into the cache folder.

A build's folder is named after the version and a hash of the module's files, so that a change
of either builds anew and nothing is ever replaced under a running cluster.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from byok8s import settings
from byok8s.cluster.native.shell import attempt
from byok8s.exceptions import ClusterError
from byok8s.progress import Reporter, Step

HERE = Path(__file__).parent
GO_NEEDED = (1, 25)  # what the modules' go.mod ask for
_DOWNLOADS_TOOLCHAINS = (1, 21)  # from here on, go fetches a newer go when a module asks for it
_VERSION = "k8s.io/component-base/version"
# A sixth less of the compilers' work: no debugging tables, which -s and -w drop later anyway, and
# rarer garbage collection in processes that live for a second
_COMPILER_FLAGS = "-gcflags=all=-dwarf=false"
_COMPILER_GOGC = "400"


@dataclass(frozen=True)
class Program:
    """A program and the Go module, a folder beside this file, that pins it."""

    title: str
    module: str
    version: str
    binary: str
    package: str = "."
    ld_flags: str = "-s -w"
    links: Sequence[str] = ()
    hint: str = "about a minute"

    @property
    def folder(self) -> Path:
        """Where the build goes."""
        hashed = hashlib.sha256(repr((self.package, self.ld_flags)).encode())
        for path in sorted((HERE / self.module).glob("*.*")):
            if path.suffix in (".go", ".mod", ".sum"):
                hashed.update(path.read_bytes())
        key = f"{self.binary}-{self.version}-{hashed.hexdigest()[:12]}"
        return settings.cache_folder() / "bin" / key

    @property
    def path(self) -> Path:
        """The built program."""
        return self.folder / self.binary


KUBERNETES = Program(
    title="Kubernetes v1.35.4 with etcd 3.6.5",
    module="node",
    version="1.35.4",
    binary="byok8s-node",
    ld_flags=f"-s -w -X {_VERSION}.gitVersion=v1.35.4 -X {_VERSION}.gitTreeState=clean"
    f" -X {_VERSION}.gitMajor=1 -X {_VERSION}.gitMinor=35",
    links=("kubectl",),
    hint="5 to 10 minutes on 2 cores",
)
S3_SERVER = Program(
    title="the S3 server versitygw v1.8.0",
    module="versitygw",
    version="1.8.0",
    binary="versitygw",
    package="github.com/versity/versitygw/cmd/versitygw",
)
# The version that kubeadm deploys with this Kubernetes. Its go.mod asks for the same versions of
# what both are made of, so that two thirds of its packages have been compiled already.
COREDNS = Program(title="CoreDNS v1.13.1", module="coredns", version="1.13.1", binary="coredns")
PROGRAMS = (KUBERNETES, S3_SERVER, COREDNS)


def missing() -> str | None:
    """None when everything is built or can be built; else what to install."""
    if all(program.path.exists() for program in PROGRAMS):
        return None
    wanted = ".".join(map(str, GO_NEEDED))
    if not shutil.which("go"):
        return (
            f"The native driver builds Kubernetes with Go, and there is no 'go' command here; "
            f"install Go {wanted} or newer from https://go.dev/dl/."
        )
    version = go_version(attempt(["go", "version"]).stdout)
    toolchain = attempt(["go", "env", "GOTOOLCHAIN"]).stdout.strip()
    if version < (_DOWNLOADS_TOOLCHAINS if toolchain != "local" else GO_NEEDED):
        return (
            f"The native driver needs Go {wanted} or newer, and Go "
            f"{'.'.join(map(str, version))} is installed; get a newer one from https://go.dev/dl/."
        )
    return None


def go_version(text: str) -> tuple[int, int]:
    """(1, 26) of "go version go1.26.8 linux/amd64"; (0, 0) of anything else."""
    found = re.search(r"\bgo(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def build_all(report: Reporter) -> None:
    """Build what is not there yet; raises ClusterError, which names the log, when one fails."""
    for program in PROGRAMS:
        if not program.path.exists():
            with report.step(f"Building {program.title} (once, {program.hint})") as step:
                _build(program, step)


def _build(program: Program, step: Step) -> None:
    program.folder.mkdir(parents=True, exist_ok=True)
    log = program.folder / "build.log"
    partial = program.folder / f"{program.binary}.{os.getpid()}"
    command = ["go", "build", "-v", "-trimpath", "-buildvcs=false", _COMPILER_FLAGS]
    command += ["-ldflags", program.ld_flags]
    try:
        log.unlink(missing_ok=True)
        packages = _list_packages(program, log, step)
        done = 0
        for line in _lines(program, [*command, "-o", str(partial), program.package], log):
            done += not line.startswith("go: ")
            step.update(_progress(done, packages))
        partial.replace(program.path)
    finally:
        partial.unlink(missing_ok=True)
    for link in program.links:
        path = program.folder / link
        path.unlink(missing_ok=True)
        path.symlink_to(program.binary)


def _progress(done: int, packages: int) -> str:
    # Those that the user's build cache holds already are not named, so the count may end early
    return f"compiled {done} of {packages} packages" if done < packages else "linking"


def _list_packages(program: Program, log: Path, step: Step) -> int:
    """How many packages the program is made of; downloads their modules."""
    packages = modules = 0
    for line in _lines(program, ["go", "list", "-deps", program.package], log):
        if line.startswith("go: downloading"):
            modules += 1
            step.update(f"downloading Go modules, {modules} so far")
        else:
            packages += 1
    return packages


def _lines(program: Program, command: Sequence[str], log: Path) -> Iterator[str]:
    """The output of a command, line by line, also written to the log."""
    with log.open("a") as stream, _running(program, command) as process:
        assert process.stdout is not None
        for line in process.stdout:
            stream.write(line)
            yield line
        if process.wait() != 0:
            stream.flush()
            raise ClusterError(
                f"Building {program.title} failed; correct what the log {log} says "
                "at its end, and run the command again."
            )


@contextmanager
def _running(program: Program, command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        cwd=HERE / program.module,
        env={**os.environ, "CGO_ENABLED": "0", "GOWORK": "off", "GOGC": _COMPILER_GOGC},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        except BaseException:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)  # with its compilers
            raise
