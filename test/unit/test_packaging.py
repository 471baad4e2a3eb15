"""What is built from the sources can be installed, and does not collide with others."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def build(kind: str, folder: Path) -> Path:
    """Build a source distribution or a wheel from the sources in `folder`, without network."""
    target = folder / "built"
    code = f"import setuptools.build_meta as b; b.build_{kind}({str(target)!r})"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        check=False,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def source_distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what git tracks, as on a clean checkout."""
    folder = tmp_path_factory.mktemp("checkout")
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, names.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, folder / name)
    return build("sdist", folder)


@pytest.fixture(scope="module")
def wheel(source_distribution: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution alone."""
    folder = tmp_path_factory.mktemp("unpacked")
    safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4
    with tarfile.open(source_distribution) as archive:
        archive.extractall(folder, **safe)
    (unpacked,) = folder.iterdir()
    return build("wheel", unpacked)


def test_the_source_distribution_can_be_built_and_installed(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    (metadata,) = tmp_path.glob("*.dist-info/METADATA")
    assert "Requires-Dist: snakemake<10,>=9.27" in metadata.read_text()
    code = "import byok8s; print(byok8s.__file__); from byok8s.command import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--version"],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(tmp_path))


def test_the_wheel_has_what_is_no_python(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tracked = subprocess.run(
        ["git", "ls-files", "cli"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert not {name.removeprefix("cli/") for name in tracked} - set(names)


def test_the_installed_packages_have_names_of_their_own(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {
        "byok8s",
        "snakemake_executor_plugin_byok8s",
        "snakemake_scheduler_plugin_byok8s",
        "snakemake_storage_plugin_byok8s",
        "toil_batch_system_byok8s",
    }
