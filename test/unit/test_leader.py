"""What is put in the place of parts of Snakemake's core does the same with less."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import snakemake.api
from byok8s.workflow import api, rounds, shortcuts, tuning
from byok8s.workflow.persistence import BucketPersistence, RecordLog
from byok8s.workflow.rounds import Bell, Rounds
from snakemake.io import AnnotatedString, IOFile, flag
from snakemake.jobs import Job
from snakemake.logging import logger
from snakemake.persistence import MetadataRecord, PersistenceBase
from snakemake.rules import Rule
from support.quiet import Quiet


class Nowhere:
    def read(self) -> Iterator[str]:
        yield from ()

    def write(self, number: int, text: str) -> None: ...
    def compact(self, text: str) -> None: ...


def run(snakefile: str, retries: int = 0, targets: tuple[str, ...] = (), **parts: Any) -> None:
    """A workflow on this machine, with files of this folder."""
    Path("Snakefile").write_text(snakefile)
    Path("params.json").write_text("{}")
    plan = api.Plan(
        Path("Snakefile"), Path.cwd() / "params.json", jobs=2, retries=retries, targets=targets
    )
    api.execute(plan, api.Parts(listener=Quiet(), **parts))


def test_many_rings_are_heard_once() -> None:
    bell = Bell(lambda: 0.0)
    for _ in range(5):
        bell.release()
    bell.acquire()
    threading.Timer(0.05, bell.release).start()
    began = time.monotonic()
    bell.acquire()
    assert time.monotonic() - began > 0.03, "the first five were one"


def test_a_ring_during_the_pause_needs_no_other_round() -> None:
    heard = threading.Event()
    bell = Bell(lambda: bell.release() or 0.01)  # type: ignore[func-returns-value]
    bell.release()
    bell.acquire()
    waiting = threading.Thread(target=lambda: (bell.acquire(), heard.set()), daemon=True)
    waiting.start()
    assert not heard.wait(0.05)
    bell.release()
    assert heard.wait(5)


def test_the_size_of_an_input_is_asked_for_once() -> None:
    class File(str):
        asked = 0

        async def exists(self) -> bool:
            return True

        async def size(self) -> int:
            File.asked += 1
            return 7

    class Ready:
        input = (File("a"), File("b"))

    rounds = Rounds.__new__(Rounds)
    rounds._input_sizes = {}
    for _ in range(3):
        asyncio.run(rounds.update_input_sizes([Ready(), Ready()]))
    assert rounds._input_sizes == {"a": 7, "b": 7}
    assert File.asked == 2


def test_there_is_no_pause_before_a_round_while_nothing_runs() -> None:
    made = Rounds.__new__(Rounds)
    made.workflow = SimpleNamespace(dag=SimpleNamespace(ready_jobs=range(50_000)))
    made.running = set()
    assert made._pause() == 0
    made.running = {"a job"}
    assert made._pause() == pytest.approx(0.5)


def test_of_jobs_that_share_their_needs_one_is_validated(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(rounds.JobScheduler, "validate_job", lambda self, job: seen.append(job))
    made = Rounds.__new__(Rounds)
    made._valid = {}

    def job(rule: str, needs: dict[str, int], group: bool = False) -> Any:
        return SimpleNamespace(rule=rule, scheduler_resources=needs, is_group=lambda: group)

    shared, equal = {"_cores": 1}, {"_cores": 1}
    jobs = [job("a", shared), job("a", shared), job("b", shared), job("a", equal)]
    jobs += [job("", shared, group=True), job("", shared, group=True)]
    for one in jobs:
        made.validate_job(one)
    assert seen == [jobs[0], jobs[2], *jobs[3:]]


def test_a_run_uses_these_parts(folder: Path) -> None:
    run('rule one:\n    output: "one.txt"\n    shell: "echo 1 > {output}"\n')
    assert snakemake.workflow.JobScheduler is Rounds
    assert Job.shellcmd.fget is tuning._shellcmd
    assert Path("one.txt").read_text() == "1\n"


@pytest.mark.parametrize(("flag", "asked"), [("{}", False), ("pipe({})", True)])
def test_inputs_are_looked_for_among_streams_where_there_are_some(
    folder: Path, flag: str, asked: bool
) -> None:
    output = flag.format('"one.txt"')
    run(
        'rule two:\n    input: "one.txt"\n    output: "two.txt"\n'
        '    shell: "cat {input} > {output}"\n'
        f'rule one:\n    output: {output}\n    shell: "echo 1 > {{output}}"\n'
    )
    assert (Job.is_pipe_or_service_input is tuning._is_pipe_or_service_input) == asked
    assert Path("two.txt").read_text() == "1\n"


def test_a_command_is_formatted_again_when_the_job_is_tried_again(folder: Path) -> None:
    run(
        "rule one:\n"
        '    output: "one.txt"\n'
        "    resources: mem_mb=lambda wildcards, attempt: 100 * attempt\n"
        '    shell: "test {resources.mem_mb} = 200 && touch {output}"\n',
        retries=1,
    )
    text = "\n".join(path.read_text() for path in Path(".snakemake/log").iterdir())
    assert "Shell command: test 100 = 200" in text
    assert "Shell command: test 200 = 200" in text


def test_the_log_file_is_complete(folder: Path) -> None:
    run(
        'rule all:\n    input: expand("{i}.txt", i=range(3))\n'
        'rule one:\n    output: "{i}.txt"\n    shell: "echo {wildcards.i} > {output}"\n'
        'onsuccess:\n    shell("cp {log} seen.log")\n'
    )
    (log,) = Path(".snakemake/log").iterdir()
    for text in (log.read_text(), Path("seen.log").read_text()):
        assert text.count("rule one:") == 3
        assert "4 of 4 steps (100%) done" in text


@pytest.mark.parametrize(
    "command",
    [
        "cp {input:q} {output} {threads} {rule} {jobid} {{kept}}",
        "echo {input[0]} {params.words} {params[0]:>9} {params.quoted:q} > {output}",
        "echo {wildcards} {wildcards.name} {resources.mem_mb} {log} > {output}",
        "echo {outside} {rule} > {output}",
    ],
)
def test_a_command_is_formatted_as_snakemake_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    Path("in put.txt").write_text("x")
    texts: list[tuple[str, str]] = []
    monkeypatch.setattr(
        tuning,
        "_log_info",
        lambda job, *_: texts.append((tuning._formatted(job), tuning._format_shellcmd(job))),
    )
    run(
        "outside = 'it'\n"
        "rule one:\n"
        '    input: "in put.txt"\n'
        '    output: touch("{name}.txt")\n'
        '    log: "{name}.log"\n'
        "    params: words=['a', 'b c'], quoted='d e'\n"
        "    resources: mem_mb=7\n"
        f'    shell: "true || {command}"\n',
        targets=("a.txt",),
    )
    ((ours, theirs),) = texts
    assert ours == theirs


def test_the_log_file_says_of_a_job_what_snakemake_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("in.txt").write_text("x")
    told: list[list[str]] = []

    def both(job: Any, *_: Any) -> None:
        handlers = job.dag.workflow.logger_manager.logfile_handlers
        kept = {handler: handler.setStream(io.StringIO()) for handler in handlers}
        log_info(job)
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(Job, "is_local", False)
            for handler in handlers:
                told.append(handler.stream.getvalue().splitlines())
                handler.setStream(io.StringIO())
            tuning._log_info_briefly(job)
            for handler, stream in kept.items():
                told.append(handler.stream.getvalue().splitlines())
                handler.setStream(stream)

    log_info = tuning._log_info
    monkeypatch.setattr(tuning, "_log_info", both)
    run(
        'rule all:\n    input: "a.txt"\n'
        "rule one:\n"
        '    input: "in.txt"\n'
        '    output: "{name}.txt"\n'
        '    log: "{name}.log"\n'
        "    threads: 2\n"
        "    priority: 3\n"
        "    resources: mem_mb=7\n"
        '    shell: "cp {input} {output} 2> {log}"\n'
    )
    theirs, ours, *_ = told
    assert [line for line in ours if line] == [line.removeprefix("local") for line in theirs]
    assert "    threads: 2" in ours
    assert "Shell command: cp in.txt a.txt 2> a.log" in ours


@pytest.mark.parametrize(
    ("resources", "kept"),
    [
        ("", True),
        ("    resources: mem_mb=700, disk='1GB', kind='x'\n    threads: 3\n", True),
        ("    resources: mem_mb=lambda wildcards, attempt: 100 * attempt\n", False),
        ("    threads: lambda wildcards: len(wildcards.name)\n", False),
        ("    resources: mem_mb=lambda wildcards, threads: 100 * threads\n", False),
    ],
)
def test_resources_are_what_snakemake_computes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, resources: str, kept: bool
) -> None:
    pairs: list[tuple[Any, Any]] = []
    attempts: list[int] = []

    def both(
        rule: Any, wildcards: Any, input: Any, attempt: int, skip: Any = None, **_: Any
    ) -> Any:
        attempts.append(attempt)
        skip = {"tmpdir"}  # as for jobs of the cluster
        theirs = expand(rule, wildcards, input, attempt, skip_evaluation=skip)
        for _ in range(2):
            ours = shortcuts._expand_resources_once(rule, wildcards, input, attempt, skip)
            pairs.append((list(ours.items()), list(theirs.items())))
        if rule.name == "one":
            assert ("byok8s_resources" in vars(rule)) == kept
        return theirs

    expand = shortcuts._expand_resources
    monkeypatch.setattr(tuning, "take_shortcuts", lambda: None)
    monkeypatch.setattr(Rule, "expand_resources", both)
    run(
        'rule all:\n    input: "a.txt", "bb.txt"\n'
        f'rule one:\n    output: "{{name}}.txt"\n{resources}    shell: "touch {{output}}"\n'
    )
    assert len(pairs) >= 6
    assert all(ours == theirs for ours, theirs in pairs)


def test_a_long_run_tells_some_of_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(
        rounds.JobScheduler, "progress", lambda self: told.append(self.finished_jobs)
    )

    def lines(total: int) -> list[int]:
        told.clear()
        made = Rounds.__new__(Rounds)
        made.workflow = SimpleNamespace(dag=range(total))
        for made.finished_jobs in range(1, total + 1):
            made.progress()
        return list(told)

    assert lines(3) == [1, 2, 3]
    assert 500 < len(lines(20_000)) <= 1001
    assert lines(20_000)[-1] == 20_000


class Redefined(AnnotatedString):
    def is_flagged(self, flag: str) -> bool:
        return flag == "mine"


def flagged() -> list[Any]:
    """Values of every kind that Snakemake asks for flags."""
    plain, named = AnnotatedString("a"), IOFile(flag("b", "temp"))
    off = flag("c", "temp", False)
    bare, path = IOFile("d"), Path("e")
    return ["x", None, 3, plain, named, off, bare, path, flag("f", "multiext", 7), Redefined("g")]


@pytest.mark.parametrize("value", flagged(), ids=lambda value: f"{type(value).__name__}-{value}")
@pytest.mark.parametrize("name", ["temp", "multiext", "mine"])
def test_flags_are_what_snakemake_says(value: Any, name: str) -> None:
    # these names are bound to Snakemake's own, whatever a run has put in their place
    assert shortcuts._is_flagged(value, name) is shortcuts.is_flagged(value, name)
    assert shortcuts._get_flag_value(value, name) == shortcuts.get_flag_value(value, name)
    assert shortcuts.is_flagged.__module__ == "snakemake.io"


def test_shortcuts_are_taken_wherever_the_names_are(folder: Path) -> None:
    run('rule one:\n    output: temp("one.txt")\n    shell: "echo 1 > {output}"\n')
    import snakemake.dag

    assert snakemake.dag.is_flagged is snakemake.io.is_flagged is shortcuts._is_flagged
    assert snakemake.rules.get_function_params is shortcuts._get_function_params
    assert snakemake.dag.wait_for_files is shortcuts._wait_for_files


class Stored:
    """A file of a bucket that the leader answers for."""

    is_storage = True

    def __init__(self, there: bool) -> None:
        self.asked = 0
        provider = SimpleNamespace(leader="one")
        self.storage_object = SimpleNamespace(provider=provider, exists=lambda: there)


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_files_are_waited_for_unless_they_are_known_to_be_there(
    monkeypatch: pytest.MonkeyPatch, there: bool, local: bool
) -> None:
    waited: list[Any] = []

    async def wait(files: Any, *_: Any, **options: Any) -> None:
        waited.append((len(files), options))

    monkeypatch.setattr(shortcuts, "wait_for_files", wait)
    files = iter([Stored(True), Stored(there)])
    asyncio.run(shortcuts._wait_for_files(files, wait_for_local=local))
    assert waited == ([] if there and not local else [(2, {"wait_for_local": local})])


def test_a_job_is_local_as_snakemake_says(folder: Path) -> None:
    asked: dict[str, bool] = {}
    theirs = shortcuts._is_local

    def both(job: Any) -> bool:
        asked[job.rule.name] = ours = shortcuts._is_local_once(job)
        assert ours is theirs(job)
        workflow, rule = job.dag.workflow, job.rule
        assert workflow.is_local(rule) is shortcuts._is_local_rule(workflow, rule)
        return ours

    shortcuts.take_shortcuts()
    Job.is_local = property(both)
    text = 'rule {0}:\n    output: "{0}.txt"\n    shell: "touch {{output}}"\n'
    names = ("far", "near")
    rules = "".join(map(text.format, names))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "take_shortcuts", lambda: None)
        run(f"localrules: near\n{rules}", targets=("far.txt", "near.txt"))
    assert set(asked) == set(names)


def test_the_leaders_benchmark_runs(folder: Path) -> None:
    """It takes the place of the batch system, and must follow it."""
    script = Path(__file__).parents[2] / "bench/leader.py"
    done = subprocess.run(
        [sys.executable, str(script), "--jobs=3", "--schedulers=byok8s"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert "| 3 | byok8s |" in done.stdout, done.stderr


def test_a_record_is_the_one_that_snakemake_makes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("in.txt").write_text("x")
    made: dict[str, dict[str, Any]] = {}
    theirs: dict[str, dict[str, Any]] = {}
    finished = BucketPersistence.finished

    async def both(self: BucketPersistence, job: Any) -> None:
        def keep(_: Any, key: str, record: MetadataRecord) -> None:
            theirs[key] = {k: v for k, v in record.model_dump().items() if v is not None}

        monkeypatch.setattr(BucketPersistence, "_write_record", keep)
        began = dict(self._started)
        await PersistenceBase.finished(self, job)
        self._started = began
        await finished(self, job)

    monkeypatch.setattr(BucketPersistence, "finished", both)
    log = RecordLog(Nowhere())
    run(
        "rule one:\n"
        '    input: "in.txt"\n'
        '    output: "one.txt", "two.txt"\n'
        "    params: a=[1, 2]\n"
        '    log: "one.log"\n'
        '    shell: "cp {input} {output[0]}; cp {input} {output[1]} 2> {log}"\n',
        records=log,
    )
    for key in ("one.txt", "two.txt"):
        record = log.get(key)
        assert record is not None
        made[key] = json.loads(json.dumps(record))
    assert made == theirs
    assert made["one.txt"]["params"] == ["[1, 2]"]


def test_the_log_file_says_of_a_finished_job_what_snakemake_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    heard: list[int] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if getattr(record, "event", None) == "job_finished":
                heard.append(record.__dict__["job_id"])

    def both(self: Any, message: str, extra: Any = None, **_: Any) -> None:
        if not extra or extra["event"] != "job_finished":
            return
        (handler,) = self._manager.logfile_handlers
        stream = handler.setStream(io.StringIO())
        logger.addHandler(ear := Ear())
        for wanted in ({extra["job_id"]}, set()):
            self.wanted = wanted
            info(self, message, extra=extra)
            told.append(handler.stream.getvalue())
            handler.setStream(io.StringIO())
        logger.removeHandler(ear)
        handler.setStream(stream)

    info = tuning._SchedulerLog.info
    monkeypatch.setattr(tuning._SchedulerLog, "info", both)
    monkeypatch.setattr(tuning, "timestamp", lambda: "[now]")
    monkeypatch.setattr("snakemake.logging.timestamp", lambda: "[now]")
    run('rule one:\n    output: "one.txt"\n    shell: "echo 1 > {output}"\n')
    theirs, ours = told
    assert ours == theirs == "[now]\nFinished jobid: 0 (Rule: one)\n"
    assert heard == [0], "only where somebody wants it"
