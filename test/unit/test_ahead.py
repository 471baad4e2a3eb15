"""The start and the end of the process: libraries in the background, no slow farewell."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest
from byok8s.run import ahead


def test_libraries_are_loaded_and_garbage_is_collected_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ahead, "_MODULES", ("no_such_module", "colorsys"))
    sys.modules.pop("colorsys", None)
    ahead.load_ahead()()
    assert "colorsys" in sys.modules
    assert gc.isenabled()
    gc.unfreeze()


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )


def test_all_that_is_loaded_ahead_exists() -> None:
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    done = python(code, *ahead._MODULES)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("arguments", "status"), [(["--version"], 0), (["run"], 2)])
def test_the_command_ends_with_what_others_have_to_do_at_the_end(
    arguments: list[str], status: int
) -> None:
    code = (
        "import atexit, threading, time\n"
        "atexit.register(print, 'files with keys are gone')\n"
        "threading.Thread(target=time.sleep, args=(20,)).start()\n"
        "from byok8s.command import main\n"
        "main()"
    )
    done = python(code, *arguments)
    assert done.returncode == status, done.stderr
    assert done.stdout.endswith("files with keys are gone\n")


def test_a_reader_that_has_left_is_no_traceback() -> None:
    code = (
        "import os, sys\n"
        "reading, writing = os.pipe()\n"
        "os.dup2(writing, 1)\n"
        "os.close(writing)\n"
        "os.close(reading)\n"
        "print('unread')\n"
        "from byok8s.command import _exit\n"
        "_exit(0)"
    )
    done = python(code)
    assert (done.returncode, done.stderr) == (1, "")
