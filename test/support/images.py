"""Container images made of distribution packages, where there is neither Docker nor a registry."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from byok8s import settings
from byok8s.cluster.images import BuiltImage, oci
from byok8s.cluster.images.recipe import fingerprint
from byok8s.cluster.native import loading
from byok8s.cluster.native.layout import Layout

_FORMAT = "1"  # raise it when this module makes other images of the same packages
_UNWANTED = ("doc", "info", "locale", "man")


def load_image(cluster: str, name: str, *packages: str, **environment: str) -> str:
    """An image of these packages and what they depend on, in the native cluster; its reference.

    Nothing else is in it, and no maintainer script has run. It is built once.
    """
    image = package_image(name, packages, environment)
    loading.load(Layout.of(cluster), [image])
    return image.ref


def package_image(
    name: str, packages: tuple[str, ...], environment: Mapping[str, str]
) -> BuiltImage:
    folder = settings.cache_folder() / "test-images"
    folder.mkdir(parents=True, exist_ok=True)
    variables = [f"{key}={value}" for key, value in environment.items()]
    key = fingerprint(_FORMAT, oci.architecture(), packages, variables)
    ref = f"localhost/byok8s-test-{name}:{key}"
    archive = folder / f"{name}-{key}.tar"
    if not archive.exists():
        layer = oci.cached_layer(
            folder / f"{name}-{key}-layer.tar", lambda tar: _build(packages, tar)
        )
        # root, as in most images: what runs is nevertheless the pod's user
        start = oci.Config(("/bin/sh",), environment, user="0:0")
        oci.write_archive(archive, ref, [layer], oci.describe([layer], start))
    return BuiltImage(ref, archive)


def _build(packages: tuple[str, ...], tar: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary, "root")
        root.mkdir()
        for package in _download(packages, Path(temporary, "packages")):
            subprocess.run(["dpkg-deb", "--extract", package, root], check=True)
        for part in _UNWANTED:
            shutil.rmtree(root / "usr/share" / part, ignore_errors=True)
        _link_shell(root / "bin")
        oci.pack(root, tar)


def _download(packages: tuple[str, ...], folder: Path) -> list[Path]:
    """The packages with all that they depend on, as for a system that has nothing yet."""
    (folder / "partial").mkdir(parents=True)
    options = {
        "Dir::State::status": "/dev/null",
        "Dir::Cache::archives": folder,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
    }
    command = ["apt-get", "--quiet=2", "--yes", "--download-only", "install", *packages]
    for option, value in options.items():
        command += ["-o", f"{option}={value}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=300)
    return sorted(folder.glob("*.deb"))


def _link_shell(folder: Path) -> None:
    """What maintainer scripts do: /bin/sh, and busybox under the names of its programs."""
    busybox = folder / "busybox"
    if busybox.exists():
        listed = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True)
        for name in {*listed.stdout.split()} - {"busybox"}:
            (folder / name).symlink_to("busybox")
    elif not (folder / "sh").exists():
        (folder / "sh").symlink_to("dash")
