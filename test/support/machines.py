"""What a module of these does in a private machine (see the script of that name)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PRIVATE_MACHINE = Path(__file__).parent / "private-machine"


def told_by(module: str) -> dict[str, Any]:
    """Run a module of support there; returns the JSON that it prints."""
    # pytest's own folders can have names that are too long for a cluster's sockets
    with tempfile.TemporaryDirectory(prefix="b8-", dir="/tmp") as folder:
        done = subprocess.run(
            [PRIVATE_MACHINE, folder, sys.executable, "-m", f"support.{module}"],
            cwd=PRIVATE_MACHINE.parent.parent,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
