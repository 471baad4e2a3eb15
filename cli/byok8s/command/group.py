"""The root group: `run` is the default command, and every error becomes one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import click
from click_default_group import DefaultGroup

from byok8s.exceptions import Byok8sError, Interrupted

F = TypeVar("F", bound=Callable[..., Any])
DEBUG = "--debug"


def debug_option(command: F) -> F:
    """The option --debug, for every command; RootGroup.main is what reads it."""
    return click.option(
        DEBUG, is_flag=True, expose_value=False, help="Show the traceback of an error."
    )(command)


class OrderedGroup(click.Group):
    """A click group that lists its commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


class RootGroup(OrderedGroup, DefaultGroup):
    """A click group with a default command, which ends in the contract's exit codes."""

    def main(  # type: ignore[override] # there is one way to call it here, and it never returns
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run a command line and exit: never returns, never lets an exception pass."""
        arguments = _debug_last(list(sys.argv[1:] if args is None else args))
        extra["standalone_mode"] = False
        try:
            status = super().main(arguments, prog_name, **extra)
        except Exception as error:
            sys.exit(_report(error, debug=DEBUG in arguments))
        sys.exit(status if isinstance(status, int) else 0)


def _debug_last(arguments: list[str]) -> list[str]:
    """Let --debug also stand before the command, where only the command knows it."""
    if arguments[:1] == [DEBUG] and "--" not in arguments:
        return [*arguments[1:], DEBUG]
    return arguments


def _report(error: Exception, debug: bool) -> int:
    """Tell of the error on stderr and return the exit code."""
    if debug and not isinstance(error, click.exceptions.Exit):
        import traceback

        traceback.print_exception(error)
    match error:
        case click.exceptions.Abort():  # what click makes of Ctrl-C
            _say("Interrupted.")
            return 130
        case click.exceptions.NoArgsIsHelpError():
            click.echo(error.format_message(), err=True)
            return error.exit_code
        case click.UsageError():
            _say(_usage_sentence(error))
            return error.exit_code
        case click.ClickException():
            _say(error.format_message())
            return error.exit_code
        case Byok8sError():
            asked_for = isinstance(error, Interrupted)
            click.echo(str(error) if asked_for else f"Error: {error}", err=True)
            return error.exit_code
        case _:
            first_line = str(error).split("\n")[0][:200]
            what = type(error).__name__ + (f" ({first_line})" if first_line else "")
            _say(
                f"Unexpected {what}; run the same command with --debug to see where, and report it."
            )
            return 1


def _usage_sentence(error: click.UsageError) -> str:
    message = error.format_message().rstrip(".")
    command = error.ctx.command_path if error.ctx else "byok8s"
    return f"{message}; see: {command} --help"


def _say(sentence: str) -> None:
    click.echo(f"Error: {sentence}" if sentence != "Interrupted." else sentence, err=True)
