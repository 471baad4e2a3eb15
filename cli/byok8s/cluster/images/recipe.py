"""What the worker image is made of: one recipe, for Docker and for byok8s's own build.

The files of the folder recipe/ are shared by both. The Python packages get the versions that are
installed beside byok8s, so that the leader and its pods run the same Snakemake.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import byok8s
from byok8s.cluster.images import oci

FILES = Path(__file__).parent / "recipe"
PACKAGES_FOLDER = "opt/byok8s"

_STORAGE_PLUGIN = "snakemake-storage-plugin-"

# What pods import. The rest of byok8s needs libraries that are not in the image, and leaving it
# out keeps the image the same when only the command line changes.
_CODE = (
    "byok8s/__init__.py",
    "byok8s/exceptions.py",
    "byok8s/progress.py",
    "byok8s/settings.py",
    "byok8s/storage",
    "byok8s/worker",
    "byok8s/workflow",
    "snakemake_scheduler_plugin_byok8s",  # named on the command line that pods get
    "snakemake_storage_plugin_byok8s",
)


@dataclass(frozen=True)
class Recipe:
    """Debian packages, pinned Python packages, and the versions of what these need."""

    packages: tuple[str, ...]
    requirements: tuple[str, ...]
    constraints: tuple[str, ...]

    @classmethod
    def load(cls, extra: Iterable[str] = ()) -> Recipe:
        """The recipe as it is beside this byok8s; `extra` are further pip requirements."""
        names = (*_lines(FILES / "requirements.txt"), *_storage_plugins())
        return cls(
            packages=_lines(FILES / "packages.txt"),
            requirements=(*(f"{name}=={metadata.version(name)}" for name in names), *extra),
            constraints=tuple(_pins(names)),
        )

    def write(self, folder: Path) -> None:
        """Write the folder that `docker build` takes."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("Dockerfile", "image.sh"):
            shutil.copyfile(FILES / name, folder / name)
        for name, lines in (
            ("packages.txt", self.packages),
            ("requirements.txt", self.requirements),
            ("constraints.txt", self.constraints),
        ):
            (folder / name).write_text("".join(f"{line}\n" for line in lines))
        shutil.rmtree(folder / "code", ignore_errors=True)
        for source, path in code():
            (folder / "code" / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / "code" / path)


def code() -> Iterator[tuple[Path, str]]:
    """byok8s's own files for the image: where they are here, and their path in the image."""
    root = Path(byok8s.__file__).parent.parent
    for part in _CODE:
        found = [root / part] if part.endswith(".py") else sorted((root / part).rglob("*"))
        for path in found:
            if path.is_file() and "__pycache__" not in path.parts:
                yield path, path.relative_to(root).as_posix()


def config() -> oci.Config:
    """How a worker starts: the Dockerfile's ENV, USER, WORKDIR and CMD."""
    text = (FILES / "Dockerfile").read_text().replace("\\\n", " ")
    found = dict(re.findall(r"^(ENV|USER|WORKDIR|CMD) +(.*)$", text, re.MULTILINE))
    variables = dict(word.split("=", 1) for word in shlex.split(found["ENV"]))
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # as Debian's image
    return oci.Config(
        command=tuple(json.loads(found["CMD"])),
        environment={"PATH": path, **variables},
        user=found["USER"],
        folder=found["WORKDIR"],
        labels={"org.opencontainers.image.version": byok8s.__version__},
    )


def fingerprint(*parts: str | bytes | Iterable[str]) -> str:
    """Twelve hexadecimal digits that change with any of the parts."""
    total = hashlib.sha256()
    for part in parts:
        text = part if isinstance(part, str | bytes) else "\n".join(part)
        data = text.encode() if isinstance(text, str) else text
        total.update(f"{len(data)}:".encode() + data)
    return total.hexdigest()[:12]


def code_fingerprint() -> str:
    """Twelve hexadecimal digits that change with byok8s's own files in the image."""
    return fingerprint(*(part for path, name in code() for part in (name, path.read_bytes())))


def _storage_plugins() -> list[str]:
    """Snakemake's storage plugins beside byok8s: a Snakefile that uses one is read in pods, too."""
    from packaging.utils import canonicalize_name

    found = (canonicalize_name(each.metadata["Name"]) for each in metadata.distributions())
    return sorted({name for name in found if name.startswith(_STORAGE_PLUGIN)})


def _pins(names: Iterable[str]) -> Iterator[str]:
    """Constraints: the versions installed here of all that `names` need.

    They hold only in an image with the same Python as here: another Python may need others.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    here = f'python_version == "{sys.version_info[0]}.{sys.version_info[1]}"'
    seen: dict[str, str] = {}
    todo = list(names)
    while todo:
        name = canonicalize_name(todo.pop())
        if name in seen:
            continue
        try:
            installed = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # not needed here: for another platform
        seen[name] = installed.version
        for requirement in map(Requirement, installed.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(requirement.name)
    yield from (f"{name}=={seen[name]} ; {here}" for name in sorted(seen))


def _lines(path: Path) -> tuple[str, ...]:
    return tuple(line for line in path.read_text().split("\n") if line)
