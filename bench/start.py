"""Where the time of one run goes, from the start of the process to its end: start.py [ARGUMENTS].

ARGUMENTS are those of `byok8s run`; without them, a workflow of one rule runs in a bucket of its
own on the cluster that byok8s made (--cluster NAME, default dev). Prints a line for each step,
with the seconds since the process was started, and the calls of the Kubernetes API.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import json
import os
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

TRACE = "BYOK8S_BENCH_TRACE"  # the file to which the child writes
# module -> functions; their beginning and end are told
STEPS = {
    "byok8s.run.preflight": ["preflight", "find_context", "_check_cluster", "_check_storage"],
    "byok8s.run.story": ["run_workflow", "_execute", "_close"],
    "byok8s.batch.official": ["official"],
    "byok8s.workflow.imports": ["import_snakemake"],
    "byok8s.batch.client": ["KubeClient._send_once", "KubeClient.__init__"],
    "byok8s.workflow.bucket": ["WorkflowBucket.of", "WorkflowBucket.close"],
    "byok8s.workflow.api": ["execute", "_parsed_workflow", "_execute"],
    "byok8s.workflow.session": [
        "Session.open",
        "Session._upload_sources",
        "Session.take_over",
        "Session.close",
    ],
    "byok8s.workflow.executor": ["Executor.run_jobs", "Executor.shutdown", "Executor._ended"],
    "byok8s.workflow.persistence": ["RecordLog.load"],
    "byok8s.storage.inventory": ["Inventory._list"],
    "byok8s.storage.bucket": ["_checked_as_used", "_client", "BotoBucket.ask"],
    "snakemake.workflow": ["Workflow._build_dag", "Workflow.execute", "Workflow.include"],
}
IMPORTS = ("botocore.session", "snakemake.api", "byok8s.workflow.bucket")


def main() -> None:
    arguments = sys.argv[1:]
    if os.environ.get(TRACE):
        child(arguments)
        return
    name = arguments[arguments.index("--cluster") + 1] if "--cluster" in arguments else "dev"
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        if not arguments or "--cluster" in arguments:
            arguments = stack.enter_context(one_rule(Path(folder), name))
        trace = Path(folder) / "trace"
        began = time.time()
        done = subprocess.run(
            [sys.executable, __file__, *arguments],
            check=False,
            cwd=folder if (Path(folder) / "flow.json").exists() else None,
            env={**os.environ, TRACE: str(trace)},
            stdout=subprocess.DEVNULL,
        )
        ended = time.time() - began
        rows = [json.loads(line) for line in trace.read_text().splitlines()]
    show(rows, began)
    print(f"{ended:7.3f}         the process has ended, with exit code {done.returncode}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{used.ru_utime + used.ru_stime:.2f} s of CPU")
    summary(rows, began, ended)


@contextmanager
def one_rule(folder: Path, cluster: str) -> Iterator[list[str]]:
    """A project of one rule, and a bucket; gives the arguments that run it."""
    from byok8s.cluster import find_by_context

    sys.path.insert(0, str(Path(__file__).parents[1] / "test"))
    from support.project import client_of, own_bucket

    info = find_by_context(f"byok8s-{cluster}")
    if info is None or info.s3 is None:
        sys.exit(f"There is no cluster '{cluster}' with an S3 server; run: byok8s cluster create")
    rule = 'rule one:\n    output: "one.txt"\n    shell: "echo 1 > {output}"\n'
    (folder / "Snakefile").write_text(rule)
    (folder / "flow.json").write_text("{}")
    (folder / "params.json").write_text('{"name": "blue"}')
    with own_bucket(client_of(info.s3), f"bench-{secrets.token_hex(4)}") as bucket:
        yield ["run", "flow", "params", "-b", bucket, f"--context=byok8s-{cluster}"]


def show(rows: Sequence[list[Any]], began: float) -> None:
    print("seconds  for  what")
    for at, seconds, what in sorted(rows, key=lambda row: row[0]):
        print(f"{at - began:7.3f} {seconds:6.3f}  {what}")


def summary(rows: Sequence[list[Any]], began: float, ended: float) -> None:
    """The two figures that count: until the first pod, and from the last job's end."""
    pods = [at + seconds - began for at, seconds, what in rows if what.endswith(" POST pods")]
    jobs = [at - began for at, _, what in rows if what == "a job has ended"]
    if pods and jobs:
        print(
            f"first pod created after {pods[0]:.2f} s; {ended - jobs[-1]:.2f} s after the last job"
        )


class Wrapping(importlib.abc.MetaPathFinder):
    """Finds the modules of STEPS and IMPORTS as ever, and tells how long their import takes."""

    def __init__(self, tell: Callable[[float, str], None]) -> None:
        self.tell = tell

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name not in STEPS and name not in IMPORTS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            began = time.time()
            load(module)
            self.tell(began, f"import {name}")
            for function in STEPS.get(name, ()):
                self.wrap(module, function)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def wrap(self, module: ModuleType, path: str) -> None:
        *outer, name = path.split(".")
        holder: Any = getattr(module, outer[0]) if outer else module
        plain = holder.__dict__.get(name)
        if plain is None:
            self.tell(time.time(), f"(there is no {path} any more)")
            return
        function = getattr(holder, name)

        @functools.wraps(function)
        def wrapped(*arguments: Any, **options: Any) -> Any:
            began = time.time()
            try:
                return function(*arguments, **options)
            finally:
                self.tell(began, self.words(path, arguments))

        setattr(holder, name, staticmethod(wrapped) if isinstance(plain, classmethod) else wrapped)

    def words(self, path: str, arguments: Sequence[Any]) -> str:
        if path == "KubeClient._send_once":
            from byok8s.batch.client import _resource

            return f"Kubernetes: {arguments[2]} {_resource(arguments[3])}"
        if path == "BotoBucket.ask":
            return f"S3: {arguments[1]}"
        return "a job has ended" if path == "Executor._ended" else path


def child(arguments: list[str]) -> None:
    """`byok8s ARGUMENTS`, with what it does written to the file of TRACE."""
    file = open(os.environ.pop(TRACE), "a", buffering=1)  # noqa: SIM115 (until the end)

    def tell(began: float, what: str) -> None:
        file.write(json.dumps([began, time.time() - began, what]) + "\n")

    tell(time.time(), "Python has started")
    sys.path.pop(0)  # this folder
    sys.meta_path.insert(0, Wrapping(tell))
    sys.argv = ["byok8s", *arguments]
    from byok8s.command import main as command

    command()


if __name__ == "__main__":
    main()
