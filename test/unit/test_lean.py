"""Which jobs run without Snakemake in their pod, and with which command."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from byok8s.exceptions import SettingsError
from byok8s.worker.names import WORKDIR
from byok8s.worker.spec import Command
from byok8s.workflow import api, outputs
from byok8s.workflow.containers import check_containers
from byok8s.workflow.lead import Lead, current, lead
from byok8s.workflow.lean import check, command_of
from byok8s.workflow.persistence import BucketPersistence
from byok8s.workflow.scripts import NeedsSnakemake
from byok8s.workflow.session import Session
from snakemake.shell import shell
from support.memory import MemoryBucket
from support.quiet import Quiet

DIFFERENTIAL = Path(__file__).parents[1] / "e2e" / "differential"

Jobs = Callable[..., dict[str, Any]]


@pytest.fixture
def jobs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    """Plans the workflow of a text, of which nothing runs; returns its jobs, by rule."""
    found: dict[str, Any] = {}

    def plan(text: str, *targets: str, params: str = "{}", **objects: bytes) -> dict[str, Any]:
        bucket = MemoryBucket(**{f"p/{name}": data for name, data in objects.items()})
        lead(Lead("memory", "p", lambda name: bucket.objects))
        (folder / "Snakefile").write_text(text)
        (folder / "params.json").write_text(params)
        plan = api.Plan(
            folder / "Snakefile",
            folder / "params.json",
            targets=targets,
            dry_run=True,
            jobs=4,
            storage_prefix="s3://memory/p",
        )
        api.execute(plan, api.Parts(listener=Quiet()))
        return found

    def keep(jobs: Any, leader: Lead) -> None:
        found.update({job.rule.name: job for job in jobs})

    monkeypatch.setattr(outputs, "check_outputs", keep)
    yield plan
    lead(None)
    shell._process_prefix, shell._process_suffix = None, ""
    shell.executable("bash")


def command(job: Any) -> Command:
    leader = current_lead()
    return command_of(job, leader, check(job, leader))


def current_lead() -> Lead:
    leader = current()
    assert leader is not None
    return leader


GIVEN = {"given/plain.txt": b"plain", "given/table.txt": b"table", "given/with space.txt": b""}
CONFIG = '{"colour": "blue", "nested": {"list": [1, "two", null], "key": true}}'


def test_the_differential_test_compares_what_runs_without_snakemake(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFERENTIAL_SECRET", "x")
    text = (DIFFERENTIAL / "Snakefile").read_text()
    found = jobs(text, "all", "failures", params=CONFIG, **GIVEN)
    needs = {name for name, job in found.items() if not is_lean(job)}
    # rules that only collect, what no plan knows before the checkpoint has run, a checkpoint, and
    # a shell for one rule
    assert needs == {"all", "failures", "gather", "parts", "prefixed"}
    assert len(found) > 45


def test_the_differential_test_compares_what_runs_in_snakemake_anyway(jobs: Jobs) -> None:
    text = (DIFFERENTIAL / "others").read_text()
    for name in ("upper.sh", "write.py", "fail.py"):
        Path("scripts").mkdir(exist_ok=True)
        Path("scripts", name).touch()
    found = jobs(text, "all", "failures", params=CONFIG, **GIVEN)
    without = {name for name, job in found.items() if is_lean(job)}
    marked = set(re.findall(r"^rule (\w+):\n(?:    .*\n)*?    resources: lean", text, re.MULTILINE))
    # of the last four a job alone does not tell: where it runs, with whom, and how often
    assert without == {*marked, "used", "here", "client", "pipe_reader", "repeated"}


def is_lean(job: Any) -> bool:
    try:
        check(job, current_lead())
    except NeedsSnakemake:
        return False
    return True


RULE = """
rule one:
    output: OUTPUT
    PART
    shell: "COMMAND"
"""


def one(jobs: Jobs, command: str, part: str = "", output: str = "'out'", head: str = "") -> Any:
    text = RULE.replace("OUTPUT", output).replace("PART", part).replace("COMMAND", command)
    return jobs(head + text, **{"in": b"1"})["one"]


@pytest.mark.parametrize(
    ("output", "part", "lean"),
    [
        ("report('out', category='a')", "", True),
        ("multiext('out', '.a', '.b')", "", True),
        ("multiext('out', a='.a', b='.b')", "", True),
        ("'out'", "input: access.random('in')", True),
        ("'out'", "input: ancient('in')", True),
        ("update('out')", "", False),
        ("'out'", "input: before_update('in')", False),
        ("'out'", "input: local('Snakefile')", False),
        ("'out'", "input: storage.byok8s('s3://memory/p/in', retrieve=False)", False),
        ("'out'", "resources: shell_exec='sh'", False),
        ("'out'", "resources: lean=0", False),
        ("'out'", "group: 'g'", False),
        ("'out'", "shadow: 'minimal'", False),
        ("'out'", "conda: 'x.yaml'", True),  # where nothing deploys it
        ("'out'", "envmodules: 'x'", True),
        ("'out'", "cache: True", True),
        ("'out'", "benchmark: repeat('b', 2)", False),
        ("'out'", "benchmark: 'b'", True),
    ],
)
def test_marks_and_directives(jobs: Jobs, output: str, part: str, lean: bool) -> None:
    job = one(jobs, "true", part, output)
    if lean:
        assert command(job).text == "true"
    else:
        with pytest.raises(NeedsSnakemake):
            command(job)


def test_a_value_of_the_snakefile_may_be_null(jobs: Jobs) -> None:
    job = one(jobs, "echo {VALUES} > {output}", head="VALUES = {'a': [None, 1]}\n")
    assert command(job).text == "echo {'a': [None, 1]} > .snakemake/storage/byok8s/memory/p/out"


@pytest.mark.parametrize(
    ("head", "text", "program", "strict"),
    [
        ("", "true {}", "bash", True),
        ("shell.prefix('set -x; ')", "set -x;  true {}", "bash", False),
        ("WORD = 'w'\nshell.prefix('echo {WORD}; ')", "echo w;  true {}", "bash", False),
        ("shell.prefix('')", "true {}", "bash", False),
        ("shell.suffix('; echo end')", "set -euo pipefail;  true {} ; echo end", "bash", False),
        ("shell.executable('sh')", "true {}", "sh", False),
        ("shell.executable('/opt/bash')", "true {}", "/opt/bash", True),
    ],
)
def test_the_shell_of_the_snakefile(
    jobs: Jobs, head: str, text: str, program: str, strict: bool
) -> None:
    found = command(one(jobs, "true {output}", head=f"{head}\n"))
    assert found.text == text.format(".snakemake/storage/byok8s/memory/p/out")
    assert (found.shell, found.strict) == (program, strict)


def test_a_long_command_is_a_file_with_all_that_stands_around_it(jobs: Jobs) -> None:
    head = "shell.prefix('nice ')\nWORDS = 'word ' * 20000\n"
    found = command(one(jobs, "echo {WORDS} > {output}", head=head))
    ((path, text),) = found.texts
    assert found.text == f". ./{path}" and not found.strict
    assert text.startswith("nice  echo word word")


def test_a_snakefile_that_changes_the_folder_is_refused(jobs: Jobs, folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"/sub' \(workdir:\).* with -s \.\./Snakefile"):
        one(jobs, "true", head="workdir: 'sub'\n")


def test_a_folder_for_temporary_files_of_the_rules_own(jobs: Jobs) -> None:
    assert command(one(jobs, "true")).tmpdir == ""
    assert command(one(jobs, "true", "resources: tmpdir='big/tmp'")).tmpdir == "big/tmp"


HERE = "import os\nHERE = workflow.basedir\nOTHER = HERE + '2'\n"


@pytest.mark.parametrize(
    ("head", "says", "becomes"),
    [
        (HERE, "sh {HERE}/scripts/a.sh", f"sh {WORKDIR}/scripts/a.sh"),
        ("", "sh {workflow.basedir}/scripts/a.sh", f"sh {WORKDIR}/scripts/a.sh"),
        (HERE, "ls {HERE} {OTHER}", f"ls {WORKDIR} {{folder}}2"),
        ("CWD = os.getcwd()\n", "ls {CWD}/x", f"ls {WORKDIR}/x"),
    ],
)
def test_the_folder_here_is_the_folder_there(
    jobs: Jobs, folder: Path, head: str, says: str, becomes: str
) -> None:
    found = command(one(jobs, says, head=f"import os\n{head}"))
    assert found.text == becomes.format(folder=folder) and found.texts == ()


def test_a_prefix_may_name_a_folder_here(jobs: Jobs) -> None:
    head = "shell.prefix(f'source {workflow.basedir}/functions.sh; ')\n"
    assert command(one(jobs, "f", head=head)).text == f"source {WORKDIR}/functions.sh;  f"


def test_a_source_path_comes_along(jobs: Jobs, folder: Path) -> None:
    (folder / "scripts").mkdir()
    (folder / "scripts/a.sh").write_text("echo ü\n")
    job = one(jobs, "sh {params.s}", "params: s=workflow.source_path('scripts/a.sh')")
    found = command(job)
    ((place, content),) = found.texts
    assert found.text == f"sh {WORKDIR}/{place}" and place.endswith("/a.sh")
    assert content == "echo ü\n"
    (folder / "scripts/a.sh").write_bytes(b"\xff")
    job = one(jobs, "sh {params.s}", "params: s=workflow.source_path('scripts/a.sh')")
    with pytest.raises(NeedsSnakemake, match="no text"):
        command(job)


@pytest.mark.parametrize(
    "path", ["../scripts/a.sh", "./../scripts/a.sh", "more/../../scripts/a.sh"]
)
def test_a_source_path_may_lead_out_of_the_folder_of_the_rules(
    jobs: Jobs, folder: Path, path: str
) -> None:
    for name in ("scripts", "rules", "rules/more"):
        (folder / name).mkdir()
    (folder / "scripts/a.sh").write_text("one\n")
    (folder / "scripts/b.sh").write_text("two\n")
    (folder / "rules/made.smk").write_text(
        f"rule made:\n    output: 'out'\n    params: s=workflow.source_path('{path}'),"
        " t=workflow.source_path('../scripts/b.sh')\n    shell: 'sh {params.s} {params.t}'\n"
    )
    job = jobs("include: 'rules/made.smk'\n", "out")["made"]
    found = command(job)
    assert sorted(content for _, content in found.texts) == ["one\n", "two\n"]
    assert all(f"{WORKDIR}/{place}" in found.text for place, _ in found.texts)
    recorded = BucketPersistence._params(job.rule.workflow.persistence, job)
    assert ".cache" not in str(recorded) and "a.sh" in str(recorded)


def test_rules_that_cannot_run_in_the_image_for_all_are_told_together(jobs: Jobs) -> None:
    names = "abcdefg"
    text = "container: 'docker://x/y'\nrule all:\n    input: [*'abcdefg']\n" + "".join(
        f"rule r{n}:\n    output: '{n}'\n    conda: 'e.yaml'\n    shell: 'true'\n" for n in names
    )
    with pytest.raises(SettingsError) as caught:
        check_containers(jobs(text, "all").values(), current_lead())
    (line,) = str(caught.value).splitlines()
    assert line.count("'r") == 5 and "and 2 more cannot run in their container" in line
    assert "take `container:` from the top of the Snakefile" in line


def test_of_outputs_of_a_job_that_was_tried_nothing_is_known(jobs: Jobs) -> None:
    job = one(jobs, "true", "input: 'in'", "'out', directory('d')")
    session: Any = SimpleNamespace(leader=current_lead())
    assert Session.facts(session, job)["asked"] == ["p/in", "p/out", "p/d"]
    assert Session.facts(session, job, tried=True)["asked"] == ["p/in"]


def test_records_name_sources_by_their_content_and_folders_as_in_the_pod(
    jobs: Jobs, folder: Path
) -> None:
    (folder / "scripts").mkdir()
    (folder / "scripts/a.sh").write_text("one\n")
    part = "params: s=workflow.source_path('scripts/a.sh'), here=workflow.basedir, n=1"

    def params() -> list[str]:
        job = one(jobs, "sh {params.s}", part)
        found: list[str] = BucketPersistence._params(job.rule.workflow.persistence, job)
        return found

    first = params()
    assert str(folder) not in str(first) and ".cache" not in str(first)
    assert first == params() and f"'{WORKDIR}'" in first and "1" in first
    (folder / "scripts/a.sh").write_text("two\n")
    assert first != params()
