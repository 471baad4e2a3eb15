"""What docs/configuration.md and docs/errors.md say of `byok8s run` is so."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import click
import pytest
import yaml
from byok8s.batch.waits import Limits
from byok8s.command.run import run
from byok8s.exceptions import SettingsError
from byok8s.run.lookup import parse_param
from byok8s.run.plain_yaml import parse_yaml
from byok8s.run.preflight import NEEDED
from byok8s.run.wait_limits import parse_wait_limit

DOCS = Path(__file__).parents[2] / "docs"
CONFIGURATION = (DOCS / "configuration.md").read_text()
ERRORS = (DOCS / "errors.md").read_text()


def test_every_option_and_variable_is_in_the_configuration_page() -> None:
    for parameter in run.params:
        if isinstance(parameter, click.Option):
            assert f"`{parameter.opts[0]}`" in CONFIGURATION, parameter.opts
            variables = parameter.envvar or []
            for variable in [variables] if isinstance(variables, str) else variables:
                assert f"`{variable}`" in CONFIGURATION


def test_the_role_allows_what_is_checked_and_what_explains_a_slow_start() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", ERRORS, re.DOTALL)
    role, binding = yaml.safe_load_all(block)
    allowed = {
        (verb, resource)
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    checked = {
        (verb, f"{resource}/{part}" if part else resource)
        for verbs, resource, part in NEEDED
        for verb in verbs.split()
    }
    assert allowed - checked == {("list", "events")}
    assert checked <= allowed
    assert binding["roleRef"]["name"] == role["metadata"]["name"]


def test_the_words_that_must_be_quoted() -> None:
    (line,) = re.findall(r"take for different values: (.*?)\. Put", CONFIGURATION)
    words = re.findall(r"`([^`]+)`", line)
    assert len(words) > 8
    for word in words:
        with pytest.raises(SettingsError):
            parse_yaml(f"a: {word}", "x")
    assert parse_yaml("a: 1.0e-5", "x") == {"a": 1e-5}


def test_the_examples_of_param() -> None:
    values = [parse_param(f"a={text}")[1] for text in ("5", "0.5", "true", "null")]
    assert values == [5, 0.5, True, None]
    for text in ("1.10", "007", "1e5", "True", "blue"):
        assert parse_param(f"a={text}")[1] == text
    assert parse_param("sizes=[1, 2]")[1] == [1, 2]
    assert parse_param('id="5"')[1] == "5"


def test_the_limits_of_waiting() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \|.*\| (\w+) \|$", CONFIGURATION, re.MULTILINE)
    told = dict(parse_wait_limit(f"{name}={time}") for name, time in rows)
    assert told == asdict(Limits())


SOURCES = Path(__file__).parents[2] / "cli/byok8s"


@pytest.mark.parametrize(
    "phrase",
    sorted(
        phrase
        for row in re.findall(r"^\| (`.*?) \|", ERRORS, re.MULTILINE)
        for phrase in re.findall(r"`([^`]+)`", row)
    ),
)
def test_a_message_in_the_errors_page_is_one_that_is_printed(phrase: str) -> None:
    text = "".join(path.read_text() for path in SOURCES.rglob("*.py"))
    text = re.sub(r'"\s*\n?\s*f?"', "", text)  # strings that were split over lines
    for part in re.split(r"'?…'?|'\.'|a\.b|'a'|`", phrase):
        words = part.strip(" :'")
        if len(words) > 3 and words not in ("is not in the range",):  # click's own words
            assert words in text, words
