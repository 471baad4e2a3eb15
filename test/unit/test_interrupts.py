"""The first signal interrupts, the second ends the process; a test in its own process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from byok8s.run.interrupts import Interrupts

PROGRAM = """
import os, signal, sys, time
from byok8s.run.interrupts import Interrupts
with Interrupts("removing all", lambda: "Two pods remain.") as interrupts:
    try:
        os.kill(os.getpid(), int(sys.argv[1]))
        time.sleep(10)
    except KeyboardInterrupt:
        assert interrupts.received
        if len(sys.argv) > 2:
            os.kill(os.getpid(), int(sys.argv[2]))
            time.sleep(10)
        print("clean")
"""


def run(*signals: int) -> subprocess.CompletedProcess[str]:
    # the tests may run under nohup, of which the program must know nothing
    program = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n{PROGRAM}"
    arguments = [sys.executable, "-c", program, *map(str, map(int, signals))]
    return subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_lets_the_run_end_cleanly(number: int) -> None:
    done = run(number)
    assert (done.returncode, done.stdout) == (0, "clean\n")
    assert done.stderr == "\nStopping: removing all; press Ctrl-C again to stop at once.\n"


def test_the_second_ends_at_once_and_says_what_remains() -> None:
    done = run(signal.SIGINT, signal.SIGTERM)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.endswith("\nStopped at once. Two pods remain.\n")


def test_another_thread_can_interrupt_once(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts("removing all", str) as interrupts:
        threading.Timer(0.1, interrupts.stop, args=("eve cancels",)).start()
        with pytest.raises(KeyboardInterrupt):
            time.sleep(5)
        interrupts.stop("again")
        assert interrupts.received
    assert "Stopping: eve cancels; press" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
    interrupts.stop("too late")  # must not end the process


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts("removing all", str) as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupts.received
    finally:
        signal.signal(signal.SIGHUP, before)
