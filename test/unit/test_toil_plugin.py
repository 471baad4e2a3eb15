"""The plugin for Toil, which is no requirement: it is harmless, and Toil can find it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

PLUGIN = Path(__file__).parents[2] / "cli/toil_batch_system_byok8s"
# What toil.batchSystems.abstractBatchSystem.AbstractBatchSystem of Toil 9.6.0 wants implemented
# and its cleanup_support does not, with the names that Toil gives arguments by
INTERFACE = {
    "supportsAutoDeployment": ["cls"],
    "setUserScript": ["self", "userScript"],
    "issueBatchJob": ["self", "command", "job_desc", "job_environment"],
    "killBatchJobs": ["self", "jobIDs"],
    "getIssuedBatchJobIDs": ["self"],
    "getRunningBatchJobIDs": ["self"],
    "getUpdatedBatchJob": ["self", "maxWait"],
    "getSchedulingStatusMessage": ["self"],
    "shutdown": ["self"],
    "add_options": ["cls", "parser"],
    "setOptions": ["cls", "setOption"],
}


def test_it_implements_toils_interface() -> None:
    tree = ast.parse((PLUGIN / "system.py").read_text())
    (made,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    methods = {
        node.name: [argument.arg for argument in node.args.args]
        for node in made.body
        if isinstance(node, ast.FunctionDef)
    }
    assert {name: methods.get(name) for name in INTERFACE} == INTERFACE


def test_nothing_of_byok8s_imports_it() -> None:
    code = (
        "import sys, byok8s.command.root, byok8s.batch, byok8s.run.story\n"
        "print([name for name in sys.modules if name.startswith('toil')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
