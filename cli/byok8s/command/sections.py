"""Help with the options in titled sections, for a command with more than a handful of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Function = Callable[..., Any]
_TITLE = "byok8s_section"


def section(title: str) -> Callable[[Function], Function]:
    """A decorator that puts the options below it, down to the next section, under a title."""

    def decorate(function: Function) -> Function:
        # Decorators run from the last line up, so what has no title yet is this section's.
        for parameter in getattr(function, "__click_params__", []):
            if not hasattr(parameter, _TITLE):
                setattr(parameter, _TITLE, title)
        return function

    return decorate


def option_sections(command: click.Command, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
    """The options by title, as pairs of names and meaning, in the order of the source."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record and isinstance(parameter, click.Option):
            sections.setdefault(getattr(parameter, _TITLE, "Other"), []).append(record)
    return sections


class SectionedCommand(click.Command):
    """A click command that prints its options section by section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections, and click's own --help at the end."""
        for title, records in option_sections(self, ctx).items():
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the epilog, here the examples, as it is."""
        if self.epilog:
            formatter.write_paragraph()
            formatter.write(self.epilog)
