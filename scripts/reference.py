"""Writes docs/reference.md from the tree of click commands; run it as scripts/reference."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click
from byok8s.command.root import root
from byok8s.command.sections import option_sections

TARGET = Path(__file__).parent.parent / "docs" / "reference.md"

HEAD = """\
# Command reference

This page is written by `scripts/reference` from what `--help` prints; change the help, not this.
"""


def reference() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_command(root, None)]).rstrip() + "\n"


def _command(command: click.Command, parent: click.Context | None) -> Iterator[str]:
    context = command.make_context(
        "byok8s" if parent is None else command.name, [], parent, resilient_parsing=True
    )
    path = context.command_path
    yield f"## {path}\n"
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```\n{path} {usage}\n```\n"
    yield from _text(command.help or "")
    if command.epilog:
        yield f"```\n{command.epilog.rstrip()}\n```\n"
    sections = option_sections(command, context)
    for title, records in sections.items():
        yield f"### {title}\n" if len(sections) > 1 else "### Options\n"
        yield "| Option | Meaning |\n| --- | --- |"
        for names, meaning in records:
            yield f"| `{_cell(names)}` | {_cell(meaning)} |"
        yield ""
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            if child := command.get_command(context, name):
                yield from _command(child, context)


def _text(text: str) -> Iterator[str]:
    """Paragraphs as they are; those that click must not wrap as code."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        kept_as_is = paragraph.startswith("\b\n")
        yield f"```\n{paragraph[2:]}\n```\n" if kept_as_is else f"{paragraph}\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    TARGET.write_text(reference())
