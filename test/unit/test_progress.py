"""What long work tells: plain lines when piped, a spinner and lasting lines on a terminal."""

import io
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from byok8s import progress


def lines(stream):
    return re.sub(r"\d+\.\d s", "N s", stream.getvalue()).splitlines()


def test_a_pipe_gets_plain_lines():
    stream = io.StringIO()
    report = progress.reporter(stream)
    with report.step("Building"):
        report.note("from the cache")
    assert lines(stream) == ["Building ...", "from the cache", "Building: done in N s"]


def test_a_long_step_gives_a_heartbeat_with_its_detail():
    stream = io.StringIO()
    with progress.PlainReporter(stream, heartbeat=0.02).step("Building") as step:
        time.sleep(0.1)
        step.update("compiling")
        time.sleep(0.1)
    told = lines(stream)
    assert "Building: still at it (N s)" in told
    assert "Building: compiling (N s)" in told
    assert told[-1] == "Building: done in N s"


@pytest.mark.parametrize(
    ("error", "verdict"), [(OSError("disk"), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_a_step_that_fails_says_so_and_passes_the_error_on(error, verdict):
    stream = io.StringIO()
    with pytest.raises(type(error)), progress.PlainReporter(stream).step("Building"):
        raise error
    assert lines(stream)[-1] == f"Building: {verdict} after N s"


def terminal(encoding="utf-8"):
    from rich.console import Console

    raw = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    return progress.TerminalReporter(Console(file=raw, force_terminal=True, width=200)), raw


def shown(raw):
    raw.flush()
    return raw.buffer.getvalue().decode(raw.encoding)


def test_a_terminal_keeps_one_line_per_ended_step():
    report, raw = terminal()
    with report.step("Building [etcd]") as step:
        step.update("compiling")
    with pytest.raises(OSError, match="disk"), report.step("Starting"):
        raise OSError("disk")
    text = shown(raw)
    assert re.search(r"✓ Building \[etcd\]  \d+\.\d s", text)
    assert re.search(r"✗ Starting  failed after \d+\.\d s", text)


def test_a_terminal_without_unicode_is_given_none():
    report, raw = terminal("ascii")
    with report.step("Building"):
        pass
    assert "ok Building" in shown(raw)


def test_steps_of_several_threads_may_overlap():
    report, raw = terminal()

    def work(number):
        with report.step(f"Part {number}"):
            time.sleep(0.02)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
    assert sorted(re.findall(r"✓ (Part \d)", shown(raw))) == [f"Part {n}" for n in range(8)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 m 00 s"),
        (130, "2 m 10 s"),
        (3725, "1 h 02 m"),
    ],
)
def test_durations_are_written_as_people_write_them(seconds, text):
    assert progress.elapsed(seconds) == text
