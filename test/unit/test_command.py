"""The command line itself: exit codes, one sentence per error, fast help, the reference page."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from byok8s import __version__
from byok8s.command.group import RootGroup, debug_option
from byok8s.command.root import root
from byok8s.exceptions import ClusterError, Interrupted, SettingsError, StorageError, WorkflowFailed

PROJECT = Path(__file__).parent.parent.parent
HEAVY = ["snakemake", "kubernetes", "boto3", "botocore", "obstore", "rich", "yaml", "tenacity"]


def byok8s(*arguments, **variables):
    """Run the real command in its own process."""
    return subprocess.run(
        [sys.executable, "-m", "byok8s", *arguments], capture_output=True, text=True, check=False
    )


@click.group(cls=RootGroup, default="run")
def program():
    pass


@program.command()
@click.argument("words", nargs=-1)
@click.option("--force", "-f", is_flag=True)
@debug_option
def run(words, force):
    click.echo(f"{words} {force}")


@program.command()
@click.argument("error")
@debug_option
def fail(error):
    raise {
        "settings": SettingsError("File 'x' is bad; correct it."),
        "cluster": ClusterError("No cluster; make one."),
        "storage": StorageError("No bucket; make one."),
        "workflow": WorkflowFailed("Rule 'a' failed."),
        "interrupted": Interrupted("Stopped."),
        "ctrl-c": KeyboardInterrupt(),
        "bug": KeyError("colour"),
        "silent-bug": ValueError(),
    }[error]


def call(capsys, *arguments):
    """The exit code, stdout and stderr of the little program above."""
    with pytest.raises(SystemExit) as exit_:
        program.main(list(arguments), prog_name="byok8s")
    out = capsys.readouterr()
    return exit_.value.code, out.out, out.err


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["run", "wf", "params"], "('wf', 'params') False"),
        (["wf", "params"], "('wf', 'params') False"),
        (["-f", "wf", "params"], "('wf', 'params') True"),
        (["wf", "-f"], "('wf',) True"),
        (["run", "fail"], "('fail',) False"),
        (["--debug", "wf"], "('wf',) False"),
    ],
)
def test_run_is_the_default_command(capsys, arguments, printed):
    assert call(capsys, *arguments) == (0, f"{printed}\n", "")


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        ("settings", 2, "Error: File 'x' is bad; correct it."),
        ("cluster", 3, "Error: No cluster; make one."),
        ("storage", 3, "Error: No bucket; make one."),
        ("workflow", 1, "Error: Rule 'a' failed."),
        ("interrupted", 130, "Stopped."),
    ],
)
def test_our_errors_are_one_sentence_with_their_exit_code(capsys, error, code, sentence):
    assert call(capsys, "fail", error) == (code, "", f"{sentence}\n")


def test_ctrl_c_is_130(capsys):
    code, out, err = call(capsys, "fail", "ctrl-c")
    assert (code, out, err.strip()) == (130, "", "Interrupted.")


@pytest.mark.parametrize(
    ("error", "what"), [("bug", "KeyError ('colour')"), ("silent-bug", "ValueError")]
)
def test_an_unexpected_error_is_one_sentence_that_names_debug(capsys, error, what):
    code, out, err = call(capsys, "fail", error)
    assert (code, out) == (1, "")
    assert err.startswith(f"Error: Unexpected {what}; run the same command with --debug")
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["fail", "bug", "--debug"], ["--debug", "fail", "bug"]])
def test_debug_shows_the_traceback(capsys, arguments):
    code, _, err = call(capsys, *arguments)
    assert code == 1
    assert "Traceback" in err and "KeyError: 'colour'" in err


@pytest.mark.parametrize(
    ("arguments", "beginning", "end"),
    [
        (["fail"], "Error: Missing argument 'ERROR'", "see: byok8s fail --help\n"),
        (["fail", "x", "--colour"], "Error: No such option", "see: byok8s fail --help\n"),
        (["wf", "--colour"], "Error: No such option", "see: byok8s run --help\n"),
    ],
)
def test_bad_usage_is_one_sentence_and_2(capsys, arguments, beginning, end):
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(beginning) and err.endswith(end)
    assert err.count("\n") == 1


def test_version_and_help():
    shown = byok8s("--version")
    assert (shown.returncode, shown.stdout) == (0, f"byok8s {__version__}\n")
    for arguments in (["-h"], ["--help"], ["cluster", "-h"], ["run", "-h"]):
        shown = byok8s(*arguments)
        assert (shown.returncode, shown.stderr) == (0, "")
        assert "Examples:" in shown.stdout


def test_nothing_at_all_shows_the_help_and_is_bad_usage():
    shown = byok8s()
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr.startswith("Usage: byok8s ")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["cluster", "--help"], ["cluster", "create", "--help"], ["run", "--help"]],
)
def test_help_imports_nothing_heavy(arguments):
    """This is what keeps it under 0.2 s; a time would fail on a busy machine."""
    probe = f"""
import atexit, json, sys
from byok8s.command import main
sys.argv = ["byok8s", *{arguments!r}]
@atexit.register
def tell():
    print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
main()
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def commands(command=root, path=("byok8s",)):
    yield " ".join(path), command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from commands(child, (*path, name))


@pytest.mark.parametrize(
    ("path", "command"), list(commands()), ids=lambda x: x if isinstance(x, str) else ""
)
def test_every_command_and_option_has_help(path, command):
    assert command.help
    short = command.get_short_help_str(60)
    assert command is root or not short.endswith("..."), "too long for the list of commands"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path} {parameter.opts[0]} has no help"


def test_every_last_command_takes_debug():
    for path, command in commands():
        if not isinstance(command, click.Group):
            options = {name for parameter in command.params for name in parameter.opts}
            assert "--debug" in options, path


def test_the_reference_page_is_up_to_date():
    spec = importlib.util.spec_from_file_location("reference", PROJECT / "scripts" / "reference.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.TARGET.read_text() == script.reference(), "run scripts/reference"
