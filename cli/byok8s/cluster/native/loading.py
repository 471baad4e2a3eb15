"""Images into containerd, where the kubelet finds them."""

from __future__ import annotations

import time
from collections.abc import Iterable

from byok8s.cluster.images import BuiltImage
from byok8s.cluster.native.layout import Layout
from byok8s.cluster.native.shell import attempt, run
from byok8s.exceptions import ClusterError

_KEPT = 8  # of an image's tags, which share most of their layers: a run may still use an older one


def wait_for_containerd(layout: Layout, seconds: float = 20) -> None:
    """Wait until containerd answers; raises ClusterError after `seconds`."""
    deadline = time.monotonic() + seconds
    while attempt([*_ctr(layout), "version"]).returncode != 0:
        if time.monotonic() > deadline:
            raise ClusterError(
                f"containerd does not answer after {seconds:.0f} s; see {layout.log('containerd')}."
            )
        time.sleep(0.1)


def load(layout: Layout, images: Iterable[BuiltImage]) -> None:
    """Import those of the images that are not there yet."""
    present = refs(layout)
    for image in images:
        if image.ref not in present:
            run([*_ctr(layout), "images", "import", str(image.archive)], timeout=600)


def load_worker(layout: Layout, image: BuiltImage) -> None:
    """Import the worker image, and remove all but the newest of the earlier ones."""
    load(layout, [image])
    order = layout.config / "worker-images"
    known = order.read_text().split() if order.exists() else []
    known = [*(ref for ref in known if ref != image.ref), image.ref]
    old = known[:-_KEPT]
    if old:
        run([*_ctr(layout), "images", "remove", *all_names(_listing(layout), old)])
    order.write_text("\n".join(known[-_KEPT:]))


def refs(layout: Layout) -> set[str]:
    """The names of the images that containerd has."""
    return {name for name, _ in _listing(layout)}


def all_names(listing: Iterable[tuple[str, str]], names: Iterable[str]) -> list[str]:
    """The names, and those that Kubernetes' side of containerd gave to the same images.

    It adds one by the image's content, which would keep a removed image on the disk.
    """
    listing = list(listing)
    digests = {digest for name, digest in listing if name in set(names)}
    return [name for name, digest in listing if digest in digests]


def _listing(layout: Layout) -> list[tuple[str, str]]:
    """Names and digests."""
    lines = run([*_ctr(layout), "images", "list"]).splitlines()[1:]
    return [(words[0], words[2]) for line in lines if len(words := line.split()) > 2]


def _ctr(layout: Layout) -> list[str]:
    return ["ctr", "--address", str(layout.socket), "--namespace", "k8s.io"]
