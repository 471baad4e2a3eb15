"""Container images written by byok8s itself: archives, the recipe and its two builders."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import pytest
from byok8s import __version__
from byok8s.cluster import images
from byok8s.cluster.images import commands, docker, local, oci, recipe
from byok8s.exceptions import ClusterError


class Steps:
    """A Reporter, and its Step, that remember what they are told."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.details: list[str] = []

    @contextmanager
    def step(self, title: str) -> Iterator[Steps]:
        self.titles.append(title)
        yield self

    def note(self, line: str) -> None:
        self.titles.append(line)

    def update(self, detail: str) -> None:
        self.details.append(detail)


@pytest.fixture
def steps() -> Steps:
    return Steps()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with every kind of file that an image has."""
    root = tmp_path / "tree"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/tool").write_text("#!/bin/sh\n")
    (root / "usr/bin/tool").chmod(0o750)
    os.link(root / "usr/bin/tool", root / "usr/bin/tool-1")
    (root / "bin").symlink_to("usr/bin")
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    (root / "tmp/rest").write_text("x")
    (root / ("long-" * 30)).write_text("a name that is too long for the old tar format")
    return root


def layer(tmp_path: Path, root: Path, name: str = "layer.tar", **options: object) -> oci.Layer:
    return oci.cached_layer(tmp_path / name, lambda tar: oci.pack(root, tar, **options))


def members(tar: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(tar) as archive:
        return {info.name: info for info in archive}


# ---- layers -------------------------------------------------------------------------------------


def test_a_layer_has_every_kind_of_file_and_no_trace_of_this_machine(tmp_path, tree):
    found = members(layer(tmp_path, tree).path)

    assert list(found) == sorted(found, key=lambda name: (name.count("/"), name))
    assert found["bin"].issym() and found["bin"].linkname == "usr/bin"
    assert found["usr/bin/tool-1"].islnk() and found["usr/bin/tool-1"].linkname == "usr/bin/tool"
    assert {(i.uid, i.gid, i.uname, i.gname) for i in found.values()} == {(0, 0, "", "")}
    assert {i.mtime for i in found.values()} == {1577836800}
    assert found["usr/bin/tool"].mode == 0o755
    assert "long-" * 30 in found


def test_a_base_layer_keeps_modes_and_owners_and_leaves_named_folders_empty(tmp_path, tree):
    found = members(layer(tmp_path, tree, owners=True, empty=("tmp",)).path)

    assert found["tmp"].mode == 0o1777
    assert "tmp/rest" not in found
    assert found["usr/bin/tool"].mode == 0o750
    assert found["usr/bin/tool"].uid == os.getuid()


def test_a_socket_is_left_out(tmp_path, tree):
    import socket

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tree / "s"))
        assert "s" not in members(layer(tmp_path, tree).path)


def test_the_same_files_give_the_same_digest_at_any_time_and_place(tmp_path, tree):
    first = layer(tmp_path, tree, "first.tar")
    copy = tmp_path / "elsewhere"
    subprocess.run(["cp", "--recursive", "--preserve=links,mode", tree, copy], check=True)
    os.utime(copy / "usr/bin/tool", (0, 0))
    second = layer(tmp_path, copy, "second.tar")

    assert first.digest == second.digest
    assert first.digest == "sha256:" + hashlib.sha256(first.path.read_bytes()).hexdigest()
    assert first.size == first.path.stat().st_size


def test_a_kept_layer_is_neither_built_nor_read_again(tmp_path, tree):
    first = layer(tmp_path, tree)

    def build(_: Path) -> None:
        raise AssertionError("built again")

    assert oci.cached_layer(first.path, build) == first


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def build(tar: Path) -> None:
        tar.write_text("half")
        raise RuntimeError("no space")

    with pytest.raises(RuntimeError):
        oci.cached_layer(tmp_path / "layer.tar", build)
    assert list(tmp_path.iterdir()) == []


# ---- archives -----------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path: Path, tree: Path) -> dict[str, bytes]:
    """The files of an archive of two layers."""
    second = tmp_path / "second"
    second.mkdir()
    (second / "added").write_text("y")
    layers = [layer(tmp_path, tree, "1.tar"), layer(tmp_path, second, "2.tar")]
    start = oci.Config(("/tool",), {"HOME": "/tmp"}, folder="/work", labels={"a": "b"})
    oci.write_archive(
        tmp_path / "image.tar", "localhost/x:1-abc", layers, oci.describe(layers, start)
    )
    with tarfile.open(tmp_path / "image.tar") as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]


def test_an_archive_is_an_oci_layout_whose_digests_and_sizes_are_right(archive):
    assert json.loads(archive["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    for name, data in archive.items():
        if name.startswith("blobs/"):
            assert name == f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"

    (entry,) = json.loads(archive["index.json"])["manifests"]
    assert entry["annotations"] == {
        "io.containerd.image.name": "localhost/x:1-abc",
        "org.opencontainers.image.ref.name": "1-abc",
    }
    manifest = json.loads(content(archive, entry))
    config = json.loads(content(archive, manifest["config"]))
    layers = [content(archive, described) for described in manifest["layers"]]
    assert config["rootfs"]["diff_ids"] == [
        f"sha256:{hashlib.sha256(data).hexdigest()}" for data in layers
    ]
    with tarfile.open(fileobj=io.BytesIO(layers[1])) as second:
        assert second.getnames() == ["added"]
    assert config["architecture"] == entry["platform"]["architecture"] == oci.architecture()
    assert config["config"] == {
        "Cmd": ["/tool"],
        "Env": ["HOME=/tmp"],
        "User": "65532:65532",
        "WorkingDir": "/work",
        "Labels": {"a": "b"},
    }


def content(archive: dict[str, bytes], described: dict[str, object]) -> bytes:
    """The blob that a descriptor describes, its size checked."""
    data = archive[f"blobs/{str(described['digest']).replace(':', '/')}"]
    assert len(data) == described["size"]
    return data


def test_an_archive_is_also_what_docker_load_and_minikube_read(archive):
    (image,) = json.loads(archive["manifest.json"])
    (entry,) = json.loads(archive["index.json"])["manifests"]
    manifest = json.loads(content(archive, entry))

    assert image["RepoTags"] == ["localhost/x:1-abc"]
    assert image["Config"] == "blobs/" + manifest["config"]["digest"].replace(":", "/")
    assert image["Layers"] == [
        "blobs/" + layer["digest"].replace(":", "/") for layer in manifest["layers"]
    ]


def test_one_layer_used_twice_is_stored_once(tmp_path, tree):
    twice = [layer(tmp_path, tree)] * 2
    oci.write_archive(
        tmp_path / "image.tar", "localhost/x:1", twice, oci.describe(twice, oci.Config(("/x",)))
    )
    with tarfile.open(tmp_path / "image.tar") as tar:
        names = tar.getnames()
    assert len(names) == len(set(names))


# ---- the recipe ---------------------------------------------------------------------------------


def dockerfile() -> str:
    return (recipe.FILES / "Dockerfile").read_text().replace("\\\n", " ")


def test_both_recipes_take_the_same_files_and_the_same_steps():
    """The same lists are installed, and the same parts of image.sh run."""
    text, python = dockerfile(), Path(local.__file__).read_text()
    copied = set(re.findall(r"^COPY ([^-].*) \S+$", text, re.MULTILINE))
    parts = re.findall(r"image\.sh (\w+)", text)

    assert {name for line in copied for name in line.split()} == {
        *("packages.txt", "requirements.txt", "constraints.txt", "image.sh", "code"),
    }
    assert parts == re.findall(r'_inside\(root, "(\w+)"', python) == ["base", "packages", "code"]
    assert set(parts) == set(
        re.findall(r"^(\w+)\)$", (recipe.FILES / "image.sh").read_text(), re.M)
    )
    assert f"--target /{recipe.PACKAGES_FOLDER} " in text
    assert f"COPY code /{recipe.PACKAGES_FOLDER}" in text
    assert "--no-install-recommends </build/packages.txt" in text
    # what is installed only to build is not in the last stage
    last = text.rpartition("\nFROM ")[2]
    assert last.startswith("base\n") and "RUN" not in last


def test_both_recipes_start_a_worker_in_the_same_way():
    """The local build reads ENV, USER, WORKDIR and CMD from the Dockerfile."""
    start = recipe.config()

    assert start.command == ("python3", "-m", "byok8s.worker")
    assert start.user == "65532:65532"
    assert start.folder == "/work"
    assert start.environment["HOME"] == "/tmp"
    assert start.environment["PATH"].startswith("/usr/local/sbin:")
    assert "PYTHONPATH" not in start.environment  # a rule's own Python must not see our packages
    assert start.labels == {"org.opencontainers.image.version": __version__}


def test_snakemake_and_obstore_are_those_of_the_leader():
    made = recipe.Recipe.load()
    for name in ("snakemake", "snakemake-interface-storage-plugins", "obstore"):
        assert f"{name}=={metadata.version(name)}" in made.requirements
    pinned = {line.partition("==")[0]: line for line in made.constraints}
    here = f'python_version == "{sys.version_info[0]}.{sys.version_info[1]}"'
    assert pinned["jinja2"] == f"jinja2=={metadata.version('jinja2')} ; {here}"
    assert not {"kubernetes", "boto3", "click", "rich"} & set(pinned)


def test_extra_requirements_change_the_image(steps):
    plain, more = recipe.Recipe.load(), recipe.Recipe.load(("snakemake-storage-plugin-s3==0.3.6",))
    assert more.requirements == (*plain.requirements, "snakemake-storage-plugin-s3==0.3.6")
    assert docker.content(plain) != docker.content(more)


def test_only_what_pods_import_is_in_the_image():
    names = {path for _, path in recipe.code()}
    assert {"byok8s/worker/__main__.py", "byok8s/settings.py", "byok8s/exceptions.py"} <= names
    for absent in ("command", "run", "cluster", "batch"):
        assert not any(name.startswith(f"byok8s/{absent}/") for name in names)
    assert not any("__pycache__" in name for name in names)


def test_what_pods_import_needs_nothing_that_is_not_in_the_image(tmp_path):
    """Import the in-pod modules from the image's files alone, with the other libraries refused."""
    made = recipe.Recipe.load()
    made.write(tmp_path)
    absent = ("kubernetes", "boto3", "botocore", "click", "rich", "byok8s.batch", "byok8s.cluster")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'code')!r})\n"
        f"for name in {absent!r}: sys.modules[name] = None\n"
        "import byok8s.worker.__main__, byok8s.workflow.in_pod, snakemake_storage_plugin_byok8s\n"
        f"assert byok8s.__file__.startswith({str(tmp_path)!r}), byok8s.__file__\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)


def test_the_context_for_docker_has_all_that_the_dockerfile_copies(tmp_path):
    recipe.Recipe.load().write(tmp_path)
    copied = re.findall(r"^COPY ([^-].*) \S+$", dockerfile(), re.MULTILINE)
    for name in " ".join(copied).split():
        assert (tmp_path / name).exists()
    assert (tmp_path / "code/byok8s/worker/__main__.py").is_file()
    recipe.Recipe.load().write(tmp_path)  # again, over itself


def test_a_folder_for_docker_can_be_written_from_the_command_line(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "byok8s.cluster.images", "context", tmp_path / "made"], check=True
    )
    assert (tmp_path / "made/Dockerfile").is_file()


def test_fingerprints_keep_their_parts_apart():
    assert recipe.fingerprint("ab", "c") != recipe.fingerprint("a", "bc")
    assert re.fullmatch(r"[0-9a-f]{12}", recipe.fingerprint(b"x", ("y", "z")))


# ---- building -----------------------------------------------------------------------------------


def test_a_command_that_fails_names_its_log_and_shows_its_lines(tmp_path, steps):
    with pytest.raises(ClusterError, match=r"'sh' ended with exit code 3; .*build\.log\.$"):
        commands.run(["sh", "-c", "echo one; exit 3"], tmp_path / "build.log", steps)
    assert steps.details == ["one"]
    assert (tmp_path / "build.log").read_text() == "+ sh -c echo one; exit 3\none\n"


def test_a_command_that_is_not_there_is_named(tmp_path, steps):
    with pytest.raises(ClusterError, match="the command 'no-such-tool' does not start"):
        commands.run(["no-such-tool"], tmp_path / "build.log", steps)


def fake_docker(folder: Path, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "docker").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "docker").chmod(0o755)


@pytest.fixture
def only_docker(tmp_path, monkeypatch):
    """A machine on which the local build is not possible; docker writes its arguments down."""
    monkeypatch.setattr(local, "missing", lambda: "you are not root")
    fake_docker(
        tmp_path / "bin",
        f'echo "$@" >>{tmp_path}/calls; [ "$1" != save ] || echo tar >"$3"; '
        f'[ "$1" != build ] || ls "$4" >{tmp_path}/context',
    )
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return tmp_path


def test_docker_builds_where_the_local_build_cannot(only_docker, steps):
    built = images.worker_image(only_docker / "cache", steps)

    assert re.fullmatch(rf"localhost/byok8s-worker:{__version__}-[0-9a-f]{{12}}", built.ref)
    assert built.archive.read_text() == "tar\n"
    build, save = (only_docker / "calls").read_text().splitlines()
    assert build.startswith(f"build --tag {built.ref} /")
    assert save.startswith("save --output /") and save.endswith(built.ref)
    assert "Dockerfile" in (only_docker / "context").read_text()

    assert images.worker_image(only_docker / "cache", steps) == built  # kept: no further call
    assert len((only_docker / "calls").read_text().splitlines()) == 2


def test_a_machine_that_cannot_build_says_what_is_missing(tmp_path, monkeypatch, steps):
    monkeypatch.setattr(local, "missing", lambda: "it is not a Debian system")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="it is not a Debian system, and there is no docker"):
        images.worker_image(tmp_path, steps)


def test_a_binary_becomes_an_image_once(tmp_path, steps):
    binary = tmp_path / "coredns"
    binary.write_bytes(b"\x7fELF")
    built = images.coredns_image(binary, tmp_path / "cache", steps)

    assert built.ref == images.COREDNS_REF
    with tarfile.open(built.archive) as tar:
        (image,) = json.loads(tar.extractfile("manifest.json").read())  # type: ignore[union-attr]
        with tarfile.open(fileobj=tar.extractfile(image["Layers"][0])) as inner:
            assert [(i.name, stat.filemode(i.mode)) for i in inner] == [("coredns", "?rwxr-xr-x")]
    assert images.coredns_image(binary, tmp_path / "cache", steps) == built
    assert steps.titles == ["CoreDNS image"]


def test_two_builders_at_once_build_once(tmp_path, steps):
    binary = tmp_path / "coredns"
    binary.write_bytes(b"\x7fELF")
    threads = [
        threading.Thread(target=images.coredns_image, args=(binary, tmp_path / "cache", steps))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    waiting = "Another byok8s is building images; waiting for it to end."
    assert [title for title in steps.titles if title != waiting] == ["CoreDNS image"]


def test_what_a_killed_build_left_goes_with_the_next(tmp_path, steps):
    folder = tmp_path / "images"
    (folder / "layers/build-x/root/usr").mkdir(parents=True)
    (folder / "layers/.debian-1.tar-abc").touch()
    (folder / ".byok8s-worker.tar-abc").touch()
    (tmp_path / "coredns").write_bytes(b"\x7fELF")

    images.coredns_image(tmp_path / "coredns", tmp_path, steps)
    names = {path.name for path in (*folder.iterdir(), *(folder / "layers").iterdir())}
    assert not any("build-" in name or name.endswith("-abc") for name in names)


def test_old_archives_and_layers_go(tmp_path, tree, steps):
    for number in range(5):
        (tree / "changed").write_text(str(number))
        layers = [layer(tmp_path, tree, f"code-{number}.tar")]
        last = images._image(tmp_path, "localhost/w", layers, oci.Config(("/x",)), steps)
    kept = sorted(tmp_path.glob(f"w-{__version__}-*.tar"))
    assert len(kept) == 3 and last.archive in kept
    assert len(list(tmp_path.glob("code-*.tar"))) == len(list(tmp_path.glob("code-*.sha256"))) == 3
    content = hashlib.sha256(oci.describe(layers, oci.Config(("/x",)))).hexdigest()[:12]
    assert last.ref == f"localhost/w:{__version__}-{content}"


# ---- the local build's small parts --------------------------------------------------------------


def test_the_machines_own_mirrors_are_used_and_others_are_not(tmp_path, monkeypatch):
    (tmp_path / "apt-get").write_text(
        "#!/bin/sh\n"
        "echo 'http://mirror.example/debian/ bookworm Debian main'\n"
        "echo 'http://mirror.example/debian/ bookworm-updates Debian main'\n"
        "echo 'https://packages.example/apt cloud-sdk-bookworm cloud-sdk main'\n"
        "echo 'http://no.lists.example/ $(CODENAME) $(ORIGIN) main'\n"
    )
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert local._mirrors() == [
        "deb http://mirror.example/debian/ bookworm main",
        "deb http://mirror.example/debian/ bookworm-updates main",
    ]


@pytest.mark.parametrize(
    ("policy", "missing"),
    [
        ("  Candidate: 3.10.6-1~22.04.1", "its Python is older than 3.11"),
        ("  Candidate: 3.11.2-1+b1", None),
        ("N: Unable to locate package python3", None),
    ],
)
def test_a_distribution_with_an_old_python_is_left_to_docker(
    tmp_path, monkeypatch, policy, missing
):
    for name, output in (("apt-cache", policy), ("apt-get", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{output}'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert local.missing() == missing


def test_without_uv_pip_installs_only_for_its_own_python(monkeypatch):
    monkeypatch.setattr(local.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "")
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert local._installer(here)[:4] == [sys.executable, "-m", "pip", "install"]
    with pytest.raises(ClusterError, match=r"has Python 3\.1 .*pip install uv"):
        local._installer("3.1")


def test_uv_installs_for_the_images_python(monkeypatch):
    monkeypatch.setattr(local.importlib.util, "find_spec", lambda _: object())
    assert local._installer("3.11")[:5] == [sys.executable, "-m", "uv", "pip", "install"]
    assert local._installer("3.11")[-2:] == ["--python-version", "3.11"]


def test_storage_plugins_beside_byok8s_go_into_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "snakemake_storage_plugin_x-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: Snakemake_storage_plugin.X\nVersion: 1.2\n"
    )
    before = recipe.Recipe.load()
    monkeypatch.syspath_prepend(tmp_path)
    after = recipe.Recipe.load()
    assert set(after.requirements) - set(before.requirements) == {"snakemake-storage-plugin-x==1.2"}
    assert any(line.startswith("snakemake-storage-plugin-x==1.2") for line in after.constraints)
