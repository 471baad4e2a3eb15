"""Builds the worker image's layers on Debian as root, with neither Docker nor a registry.

Three layers, each kept under a key of what went into it: Debian with Python, then Snakemake,
then byok8s's own code. The last one is small, and the only one to change while byok8s is worked on.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from byok8s.cluster.images import oci
from byok8s.cluster.images.commands import run
from byok8s.cluster.images.recipe import (
    FILES,
    PACKAGES_FOLDER,
    Recipe,
    code_fingerprint,
    fingerprint,
)
from byok8s.exceptions import ClusterError
from byok8s.progress import Reporter, Step

TEMPORARY = "build-"  # how the names of folders in the making begin
_FORMAT = "1"  # raise it when this module makes other layers from the same recipe
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
_HOOKS = Path("/usr/share/mmdebstrap/hooks/maybe-merged-usr")
# usrmerge would pull in the whole of Perl (50 MB); usr-is-merged, in packages.txt, is enough
_NO_USRMERGE = (
    'printf "Package: usrmerge\\nPin: version *\\nPin-Priority: -1\\n"'
    ' >"$1"/etc/apt/preferences.d/byok8s'
)
_UNWANTED = ("etc/apt/preferences.d/byok8s", "etc/hostname", "etc/resolv.conf")
_SCRIPT = "tmp/image.sh"
_OLDEST_PYTHON = (3, 11)  # Snakemake's
_EMPTY = ("dev", "proc", "sys", "tmp")


def missing() -> str | None:
    """None when this machine can build so; else what it lacks, as the end of a sentence."""
    if not sys.platform.startswith("linux") or shutil.which("apt-get") is None:
        return "it is not a Debian system"
    if os.geteuid() != 0:
        return "you are not root"
    if (python := _offered_python()) and python < _OLDEST_PYTHON:
        return "its Python is older than {}.{}".format(*_OLDEST_PYTHON)
    return None


@dataclass
class LocalBuild:
    """One build: the folder of kept layers, the log, and whom to tell."""

    layers: Path
    log: Path
    recipe: Recipe
    report: Reporter

    def all_layers(self) -> list[oci.Layer]:
        """The image's layers, from the lowest; raises ClusterError when a build fails."""
        suite = _suite()
        base_key = fingerprint(
            _FORMAT, oci.architecture(), suite, self.recipe.packages, _script().read_bytes()
        )
        packages_key = fingerprint(base_key, self.recipe.requirements, self.recipe.constraints)
        base = self.layers / f"debian-{base_key}.tar"
        packages = self.layers / f"snakemake-{packages_key}.tar"
        code = self.layers / f"code-{fingerprint(base_key, code_fingerprint())}.tar"
        return [
            oci.cached_layer(base, lambda tar: self._base(suite, tar)),
            oci.cached_layer(packages, lambda tar: self._packages(base, tar)),
            oci.cached_layer(code, lambda tar: self._code(base, tar)),
        ]

    def _base(self, suite: str, tar: Path) -> None:
        with (
            self.report.step(f"Worker image: Debian {suite} with Python") as step,
            tempfile.TemporaryDirectory(dir=self.layers, prefix=TEMPORARY) as temporary,
        ):
            root = Path(temporary) / "root"
            self._install_mmdebstrap(step)
            self._debootstrap(suite, root, step)
            (root / "dev/shm").mkdir(parents=True, exist_ok=True)
            self._inside(root, "base", step)
            for name in _UNWANTED:
                (root / name).unlink(missing_ok=True)
            for path in (root / "run").iterdir():
                if path.name != "byok8s":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            oci.pack(root, tar, owners=True, empty=_EMPTY)

    def _packages(self, base: Path, tar: Path) -> None:
        with self.report.step("Worker image: Snakemake") as step, self._unpacked(base) as root:
            (root / "tmp/recipe").mkdir()
            self.recipe.write(root / "tmp/recipe")
            command = _installer(_python_version(root))
            for option, name in (("-r", "requirements.txt"), ("-c", "constraints.txt")):
                command += [option, str(root / "tmp/recipe" / name)]
            run([*command, "--target", str(root / PACKAGES_FOLDER)], self.log, step)
            self._inside(root, "packages", step)
            _pack_packages(root, tar)

    def _code(self, base: Path, tar: Path) -> None:
        with self.report.step("Worker image: byok8s") as step, self._unpacked(base) as root:
            self.recipe.write(root / "tmp/recipe")
            shutil.copytree(root / "tmp/recipe/code", root / PACKAGES_FOLDER, dirs_exist_ok=True)
            self._inside(root, "code", step)
            _pack_packages(root, tar)

    def _install_mmdebstrap(self, step: Step) -> None:
        if shutil.which("mmdebstrap") is None:
            apt = ["apt-get", "--quiet", "--yes", "-o", "DPkg::Lock::Timeout=300"]
            quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            run([*apt, "update"], self.log, step, quiet)
            run([*apt, "install", "--no-install-recommends", "mmdebstrap"], self.log, step, quiet)

    def _debootstrap(self, suite: str, root: Path, step: Step) -> None:
        # in its own mount namespace: whatever ends it, nothing stays mounted below `root`
        command = ["unshare", "--mount", "mmdebstrap", "--mode=root", "--variant=minbase"]
        command += [f"--include={','.join(self.recipe.packages)}"]
        command += [f"--setup-hook={_NO_USRMERGE}", f"--hook-dir={_HOOKS}"]
        command += [f"--dpkgopt=path-exclude=/usr/share/{x}/*" for x in ("doc", "man", "locale")]
        command += ['--aptopt=Acquire::Languages "none"', suite, str(root), *_mirrors()]
        # the date of the last change of a password, in /etc/shadow, for one
        run(command, self.log, step, {**os.environ, "SOURCE_DATE_EPOCH": str(oci.TIME)})

    def _inside(self, root: Path, part: str, step: Step) -> None:
        """Take a step of image.sh inside the image."""
        shutil.copyfile(_script(), root / _SCRIPT)
        command = ["chroot", str(root), "/bin/sh", f"/{_SCRIPT}", part]
        run(command, self.log, step, _ENVIRONMENT)

    @contextmanager
    def _unpacked(self, base: Path) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self.layers, prefix=TEMPORARY) as temporary:
            root = Path(temporary)
            subprocess.run(["tar", "-xpf", str(base), "-C", temporary], check=True)
            root.chmod(0o755)
            (root / "dev/shm").mkdir()  # Python's process pools need it
            os.mknod(root / "dev/null", 0o020666, os.makedev(1, 3))
            yield root


def _script() -> Path:
    return FILES / "image.sh"


def _pack_packages(root: Path, tar: Path) -> None:
    """Take the packages' folder, and nothing else of `root`, as a layer."""
    with tempfile.TemporaryDirectory(dir=root) as temporary:
        layer = Path(temporary) / PACKAGES_FOLDER
        layer.parent.mkdir(parents=True)
        (root / PACKAGES_FOLDER).rename(layer)
        oci.pack(Path(temporary), tar)


def _suite() -> str:
    """The code name of this machine's Debian or Ubuntu, for example "bookworm"."""
    lines = Path("/etc/os-release").read_text().splitlines()
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    suite = values.get("VERSION_CODENAME", "").strip('"')
    if not suite:
        raise ClusterError(
            "/etc/os-release does not name a release of Debian (VERSION_CODENAME), "
            "so the worker image cannot be built here; build it with Docker on another machine."
        )
    return suite


def _offered_python() -> tuple[int, int] | None:
    """The version of the distribution's Python; None when apt knows no list."""
    command = ["apt-cache", "policy", "python3"]
    policy = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = re.search(r"Candidate: (\d+)\.(\d+)", policy)
    return (int(found[1]), int(found[2])) if found else None


def _mirrors() -> list[str]:
    """This machine's own sources of its distribution, as lines; none when apt knows no list."""
    fields = "$(REPO_URI) $(CODENAME) $(ORIGIN) $(COMPONENT)"
    command = ["apt-get", "indextargets", "--format", fields, "Created-By: Packages"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    lines = []
    for line in found.splitlines():
        uri, suite, origin, component = line.split(" ", 3)
        if origin in ("Debian", "Ubuntu"):
            lines.append(f"deb {uri} {suite} {component}")
    return lines


def _python_version(root: Path) -> str:
    """The image's Python, for example "3.11"."""
    folders = (root / "usr/lib").glob("python3.*/os.py")
    return next(folders).parent.name.removeprefix("python")


def _installer(version: str) -> list[str]:
    """The command that installs for a Python `version`: uv where there is one, else pip."""
    uv = [sys.executable, "-m", "uv"] if importlib.util.find_spec("uv") else ["uv"]
    if len(uv) > 1 or shutil.which("uv"):
        return [*uv, "pip", "install", "--python", sys.executable, "--python-version", version]
    if version != f"{sys.version_info[0]}.{sys.version_info[1]}":
        raise ClusterError(
            f"The worker image has Python {version} and byok8s runs on another one, for which "
            "pip cannot install; run: python3 -m pip install uv."
        )
    return [sys.executable, "-m", "pip", "install", "--no-compile"]
