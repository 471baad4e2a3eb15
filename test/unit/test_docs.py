"""The documentation: its links lead somewhere, its commands are commands, its tests exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from byok8s.command.root import root

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
PLACEHOLDERS = {"NAME": "dev", "[NAME]": "dev", "DRIVER": "native"}
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return _BLOCK.sub("", page.read_text())


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Path and anchor of every relative link."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            yield path, anchor


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower().replace("`", "")
        found.add(re.sub(r"[^\w\- ]", "", text).replace(" ", "-"))
    return found


@each_page
def test_relative_links_and_anchors_lead_somewhere(page: Path) -> None:
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        if anchor:
            assert anchor in anchors(target), f"{path}#{anchor}"


def test_every_page_can_be_reached_from_the_map() -> None:
    reached: set[Path] = set()
    waiting = [ROOT / "docs/README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        waiting += [(page.parent / path).resolve() for path, _ in links(page) if path]
    assert set(PAGES) <= reached


def commands(text: str) -> Iterator[list[str]]:
    """The words of each byok8s command line in a page: in blocks, and between backticks."""
    blocks = [body for _, body in _BLOCK.findall(text)]
    spans = re.findall(r"`(byok8s [^`]+)`", _BLOCK.sub("", text))
    for line in "\n".join([*blocks, *spans]).replace("\\\n", " ").splitlines():
        for found in re.findall(r"(?:^|\$\(|&& |\$ |\+ |bin/)(byok8s [^)&|]*)", line.strip()):
            # two spaces: what a command does, beside it
            words = shlex.split(re.sub(r"  +[a-z].*$", "", found), comments=True)
            if "[OPTIONS]" not in words:
                yield words[1:]


def parse(command: click.Command, words: list[str], parent: click.Context | None = None) -> None:
    """Read a command line as click does when it is run, without running it."""
    context = command.make_context(command.name, list(words), parent)
    if isinstance(command, click.Group):
        _, child, rest = command.resolve_command(context, context._protected_args + context.args)
        assert child is not None
        parse(child, rest, context)


@each_page
def test_commands_are_understood(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # no file of a command has to be there
    for words in commands(page.read_text()):
        if re.search(r"\.{3}|…|WORKFLOW|^[A-Z]", " ".join(words)):  # a form, not an example
            continue
        if words in (["run"], ["cluster"]):  # only named
            continue
        try:
            parse(root, [PLACEHOLDERS.get(word, word) for word in words])
        except click.exceptions.Exit:  # --version and --help
            pass
        except (click.UsageError, AssertionError) as error:
            pytest.fail(f"byok8s {' '.join(words)}: {error}")


def test_commands_are_found_and_wrong_ones_noticed() -> None:
    assert sum(len(list(commands(page.read_text()))) for page in PAGES) > 30
    with pytest.raises(click.NoSuchOption):
        parse(root, ["w", "p", "--nonsense"])
    with pytest.raises(click.UsageError):
        parse(root, ["cluster", "explode"])


@each_page
def test_shell_blocks_are_shell(page: Path) -> None:
    for language, body in _BLOCK.findall(page.read_text()):
        if language in ("bash", "sh"):
            done = subprocess.run(
                ["bash", "-n"], check=False, input=body, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{done.stderr}\n{body}"


@each_page
def test_scripts_and_tests_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(r"\bscripts/[a-z]+\b", text):
        assert (ROOT / name).exists(), name
    tests = "".join(path.read_text() for path in (ROOT / "test").rglob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", text):
        assert f"def {name}(" in tests, name
    for name in re.findall(r"`((?:test/)?(?:unit|e2e)/[\w/]+\.py)`", text):
        assert (ROOT / "test" / name.removeprefix("test/")).exists(), name
    for name in re.findall(r"`((?:workflow|batch|run|storage|cluster|worker)/\w+\.py)`", text):
        assert (ROOT / "cli/byok8s" / name).exists(), name


def test_each_defect_of_2019_has_a_test_where_it_is_said_to_be() -> None:
    rows = re.findall(r"^\| (\d+) \|.*\| ([^|]*) \|$", (ROOT / "docs/2019.md").read_text(), re.M)
    assert [int(number) for number, _ in rows] == list(range(1, 19))
    for number, shown in rows:
        pending: list[str] = []
        for name in re.findall(r"`([^`]+)`", shown):
            if not name.endswith(".py"):
                pending.append(name)
                continue
            text = (ROOT / "test" / name).read_text()
            assert pending, number
            for test in pending:
                assert f"def {test}(" in text, f"{test} is not in {name}"
            pending = []
        assert not pending, number


@pytest.mark.parametrize("name", ["minikube", "gke", "eks", "digitalocean"])
def test_a_page_that_makes_a_cluster_deletes_it(name: str) -> None:
    text = (ROOT / f"docs/kubernetes-{name}.md").read_text()
    _, _, ending = text.partition("\n## Delete it")
    made = re.search(r"minikube start|clusters? create|create cluster", text)
    assert made and re.search(r"delete", "".join(body for _, body in _BLOCK.findall(ending)))
    assert "minikube stop" not in "".join(body for _, body in _BLOCK.findall(text)).split("#")[0]


def test_gke_is_asked_in_the_location_of_the_cluster() -> None:
    text = (ROOT / "docs/kubernetes-gke.md").read_text().replace("\\\n", " ")
    lines = re.findall(r"^gcloud container clusters (?:create|get-c\w+|delete) .*$", text, re.M)
    assert len(lines) >= 3
    locations = {re.findall(r"--location=(\S+)", line)[0] for line in lines}
    assert len(locations) == 1


def test_no_obsolete_tool_is_recommended() -> None:
    obsolete = r"setup\.py (install|build)|travis-ci\.org|brew cask|--vm-driver|kubernetes apply"
    files = [*PAGES, ROOT / ".travis.yml", *(ROOT / "scripts").iterdir()]
    for path in files:
        if path.name != "2019.md" and path.is_file():
            assert not re.search(obsolete, path.read_text()), path


def test_every_name_of_the_library_is_told_of() -> None:
    from byok8s import batch

    told = (ROOT / "docs/batch.md").read_text()
    own = [name for name in vars(batch.BatchSystem) if not name.startswith("_")]
    for name in (*batch.__all__, *own):
        assert re.search(rf"`{name}\b|[`.]{name}\(", told), name
