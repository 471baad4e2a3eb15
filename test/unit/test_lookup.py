"""Which files a run reads, what it finds in them, and what it says when something is wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from byok8s.exceptions import SettingsError
from byok8s.run.lookup import (
    find_file,
    find_snakefile,
    look_up,
    merge,
    parse_param,
    read_params,
    read_targets,
)
from byok8s.settings import RunSettings


def settings(**changes: Any) -> RunSettings:
    return RunSettings(**{"workflow": "workflow", "params": "params", "local": True} | changes)


def write(path: str | Path, content: str | bytes = "{}") -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(function: Any, *arguments: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in message and message.endswith(".")
    return message


# --- finding


@pytest.mark.parametrize("suffix", ["", ".json", ".yaml", ".yml"])
@pytest.mark.parametrize("where", ["", "flow/"])
def test_a_file_is_found_with_and_without_its_suffix(folder: Path, suffix: str, where: str) -> None:
    write(f"{where}params{suffix}")
    assert find_file("params", "parameter file", Path("flow")) == Path(f"{where}params{suffix}")


def test_the_name_as_given_comes_first_and_the_current_folder_before_the_snakefiles(
    folder: Path,
) -> None:
    write("flow/params")
    write("params.yml")
    assert find_file("params", "parameter file", Path("flow")) == Path("params.yml")
    write("params.json")
    assert find_file("params", "parameter file", Path("flow")) == Path("params.json")
    write("params")
    assert find_file("params", "parameter file", Path("flow")) == Path("params")


def test_a_folder_of_that_name_is_passed_over(folder: Path) -> None:
    Path("params").mkdir()
    write("params.json")
    assert find_file("params", "parameter file", Path()) == Path("params.json")


def test_a_missing_file_error_lists_every_path_tried(folder: Path) -> None:
    message = refusal(find_file, "params", "parameter file", folder / "flow")
    for place in (folder, folder / "flow"):
        for suffix in ("", ".json", ".yaml", ".yml"):
            assert f"{place}/params{suffix}" in message
    assert message.startswith("Cannot find the parameter file 'params'; tried ")


def test_an_absolute_path_is_tried_once(folder: Path) -> None:
    message = refusal(find_file, f"{folder}/x", "workflow file", folder / "flow")
    assert message.count(f"{folder}/x.json") == 1


def test_a_folder_given_as_a_file_is_said_to_be_one(folder: Path) -> None:
    Path("params").mkdir()
    assert "the first is a folder" in refusal(find_file, "params", "parameter file", Path())


def test_a_fifo_as_from_process_substitution_is_a_file(folder: Path) -> None:
    os.mkfifo("pipe")
    assert find_file("pipe", "parameter file", Path()) == Path("pipe")


def test_an_empty_name_is_refused(folder: Path) -> None:
    assert "empty" in refusal(find_file, "", "parameter file", Path())


def test_everything_is_looked_up_together(folder: Path) -> None:
    write("flow/Snakefile", "")
    write("flow/workflow.yaml", "workflow_target: [a, b]")
    write("params.json", '{"name": "blue", "deep": {"x": 1}}')
    found = look_up(
        settings(snakefile=Path("flow/Snakefile"), overrides={"deep.y": "1.10", "name": "red"})
    )
    assert found.targets == ("a", "b")
    assert found.config == {"name": "red", "deep": {"x": 1, "y": "1.10"}}


def test_targets_of_the_command_line_replace_the_files(folder: Path) -> None:
    write("Snakefile", "")
    write("workflow.json", '{"workflow_target": "a"}')
    write("params.json")
    assert look_up(settings(targets=("c", "d"))).targets == ("c", "d")


def test_a_missing_snakefile_is_named_with_its_path(folder: Path) -> None:
    message = refusal(find_snakefile, Path("Snakefile"))
    assert message == (
        f"Snakefile 'Snakefile' not found (tried {folder}/Snakefile); "
        "name it with --snakefile (-s)."
    )


def test_a_snakefile_in_the_usual_folder_is_pointed_out(folder: Path) -> None:
    write("workflow/Snakefile", "")
    assert "use -s workflow/Snakefile" in refusal(find_snakefile, Path("Snakefile"))


def test_all_missing_files_are_told_at_once(folder: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        look_up(settings())
    snakefile, first, second = str(caught.value).split("\n")
    assert "Snakefile" in snakefile
    assert "workflow file 'workflow'" in first
    assert "parameter file 'params'" in second


# --- targets


@pytest.mark.parametrize(
    ("content", "targets"),
    [
        ('{"workflow_target": "alpha.txt"}', ("alpha.txt",)),
        ('{"workflow_target": ["a", "b"]}', ("a", "b")),
        ('{"note": "the default target"}', ()),
        ("{}", ()),
    ],
)
def test_targets(folder: Path, content: str, targets: tuple[str, ...]) -> None:
    assert read_targets(write("w.json", content)) == targets


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("5", "5"),
        ("null", "null"),
        ("true", "true"),
        ('{"a": 1}', "a mapping"),
        ("[]", "empty ([])"),
        ('""', 'empty ("")'),
        ('["a", 1]', "a list"),
        ('["a", ["b"]]', "a list"),
    ],
)
def test_a_target_of_another_type_is_refused(folder: Path, value: str, shown: str) -> None:
    message = refusal(read_targets, write("w.json", f'{{"workflow_target": {value}}}'))
    assert f"'w.json': workflow_target is {shown}, but must be one target or a list" in message


def test_a_misspelt_key_is_not_taken_for_the_default_target(folder: Path) -> None:
    assert "'workflow_targets' is unknown" in refusal(
        read_targets, write("w.json", '{"workflow_targets": "a"}')
    )


# --- values


VALUES = {
    "version": "1.10",
    "nothing": None,
    "yes": True,
    "integer": 123456789012345678901234567890,
    "float": 0.1,
    "small": 1e-7,
    "text": 'it\'s "quoted"\nand ünïcode 🐍 $HOME {wildcard} \\',
    "empty": {"list": [], "mapping": {}, "text": ""},
    "nested": [{"a": [1, [2, None]]}, -3, "null", "true", "007"],
    "key with spaces and.dots": 1,
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_values_come_through_unchanged(folder: Path, encoding: str) -> None:
    path = write("p.json", json.dumps(VALUES, ensure_ascii=False).encode(encoding))
    assert repr(read_params(path)) == repr(VALUES)


@pytest.mark.parametrize("name", ["p.yaml", "p.yml", "p.YAML", "p", "p.config"])
def test_yaml_values_come_through_unchanged(folder: Path, name: str) -> None:
    import yaml

    text = yaml.safe_dump(VALUES, allow_unicode=True)
    assert repr(read_params(write(name, text))) == repr(dict(sorted(VALUES.items())))


def test_a_file_without_a_suffix_that_begins_as_json_is_json(folder: Path) -> None:
    assert read_params(write("p", '{"a": 1e5}')) == {"a": 1e5}


def test_yaml_dates_and_times_stay_text(folder: Path) -> None:
    text = "day: 2024-01-31\nmoment: 2024-01-31T10:00:00Z\ntime: 12:30:45\nshort: 12:30\n"
    assert read_params(write("p.yaml", text)) == {
        "day": "2024-01-31",
        "moment": "2024-01-31T10:00:00Z",
        "time": "12:30:45",
        "short": "12:30",
    }


def test_yaml_anchors_and_merges(folder: Path) -> None:
    text = "base: &base {a: 1, b: 2}\nother:\n  <<: *base\n  b: 3\nsame: *base\n"
    assert read_params(write("p.yaml", text)) == {
        "base": {"a": 1, "b": 2},
        "other": {"a": 1, "b": 3},
        "same": {"a": 1, "b": 2},
    }


AMBIGUOUS = ["no", "Yes", "ON", "off", "010", "0o10", "0b11", "1_000", "08", "1e-5", "1.5e5"]


@pytest.mark.parametrize("word", AMBIGUOUS)
def test_a_word_that_yaml_readers_disagree_about_must_be_quoted(folder: Path, word: str) -> None:
    message = refusal(read_params, write("p.yaml", f"a: 1\nkey: {word}\n"))
    assert f"'{word}' is not the same value to every YAML reader" in message
    assert message.endswith("(line 2, column 6).")
    assert read_params(write("p.yaml", f"key: '{word}'")) == {"key": word}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: .nan", ".nan is not a JSON number"),
        ("a: -.inf", "-.inf is not a JSON number"),
        ("a: 1.0e+999", "1.0e+999 is not a JSON number"),
        ("a: !!binary aGk=", "binary has no JSON equivalent"),
        ("a: !!set {b}", "set has no JSON equivalent"),
        ("a: !!python/object:os.system x", "has no JSON equivalent"),
        ("1: b", "a key that is not text"),
        ("no: b", "'no' is not the same value"),
        ("? [a]\n: b", "a key that is not text"),
        ("a: 1\nb: 2\na: 3", "the key 'a' is given twice; keep one of them (line 3, column 1)"),
        ("a: &x [*x]", "holds itself"),
        ("a: *x", "undefined alias (line 1, column 4)"),
        ("a: [1,\n", "not valid YAML"),
        ("a: b: c", "mapping values are not allowed in this context (line 1, column 5)"),
        ("\tb: 1", "cannot start any token (line 1, column 1)"),
        ("a: 1\n---\nb: 2", "(line 2, column 1)"),
        ("a: \x07", "not valid YAML"),
        ("a: " + "[" * 100_000 + "]" * 100_000, "nest"),  # PyYAML has a limit of its own, or Python
        ("a: " + "[" * 150 + "]" * 150, "nested"),
        ("a: " + "9" * 5000, "is not a JSON number"),
        ("- a", "holds a list, but a parameter file must be a mapping"),
        ("text", "holds text, but"),
        ("# only a comment", "holds null, but"),
    ],
)
def test_bad_yaml(folder: Path, text: str, words: str) -> None:
    message = refusal(read_params, write("p.yaml", text))
    assert words in message and "'p.yaml'" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1,}', "'p.json' is not valid JSON: "),
        ('{\n  "a": 1\n  "b": 2}', "Expecting ',' delimiter (line 3, column 3)"),
        ("{'a': 1}", "(line 1, column 2)"),
        ('{"a": NaN}', "NaN is not a JSON number (line 1, column 7)"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        ('{\n"a": 1e999}', "1e999 is not a JSON number (line 2, column 6)"),
        ('{"a": 1,\n "a": 2}', "the key 'a' is given twice (lines 1, 2); keep one"),
        ('{"x": {"a": 1, "a": 2}}', "the key 'a' is given twice (line 1)"),
        ('{"a": "\\ud800"}', "half a surrogate pair"),
        ('{"a": ' + "[" * 100_000, "nested"),
        ('{"a": ' + "[" * 150 + "]" * 150 + "}", "nested"),
        ('{"a": ' + "9" * 5000 + "}", "too many digits"),
        ("[1]", "holds a list, but"),
        ('"x"', "holds text, but"),
        ("null", "holds null, but"),
        ("", "is empty; write {}"),
        (" \n ", "is empty"),
        ('{"a": 1} {"b": 2}', "Extra data (line 1, column 10)"),
    ],
)
def test_bad_json(folder: Path, text: str, words: str) -> None:
    message = refusal(read_params, write("p.json", text))
    assert words in message and "'p.json'" in message


def test_a_binary_file_is_refused(folder: Path) -> None:
    assert "binary file" in refusal(read_params, write("p.json", b"\x7fELF\x02\x01\x00\x00"))


def test_text_in_another_encoding_is_refused_with_its_place(folder: Path) -> None:
    message = refusal(read_params, write("p.json", '{"a": 1,\n"b": "ü"}'.encode("latin-1")))
    assert message == "'p.json' is not UTF-8 text (line 2, column 7); save it as UTF-8."


def test_an_unreadable_file_is_told_as_such(folder: Path) -> None:
    path = write("p.json")
    path.chmod(0)
    if os.access(path, os.R_OK):  # root reads everything; a link to itself it cannot
        path.unlink()
        path.symlink_to(path.name)
    assert "cannot be read (" in refusal(read_params, path)


# --- --param


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("0.5", 0.5),
        ("1.10", "1.10"),
        ("007", "007"),
        ("1e5", "1e5"),
        ("12345678901234567890123", 12345678901234567890123),
        ("true", True),
        ("True", "True"),
        ("null", None),
        ("none", "none"),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("", ""),
        ("blue", "blue"),
        ("it's", "it's"),
        ("a=b", "a=b"),
        ('"5"', "5"),
        ('{"a":1}', {"a": 1}),
        ('[1, "x"]', [1, "x"]),
        ("[abc", "[abc"),
        ("{wildcard}", "{wildcard}"),
        (" 5", " 5"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_the_value_of_a_param(text: str, value: Any) -> None:
    key, parsed = parse_param(f"key={text}")
    assert key == "key"
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize("text", ["", "key", "=value", "a..b=1", ".a=1", "a.=1"])
def test_a_param_without_key_or_value_is_refused(text: str) -> None:
    assert "KEY=VALUE" in refusal(parse_param, text)


def test_a_param_with_a_key_given_twice_is_refused() -> None:
    assert "--param k: the key 'a' is given twice" in refusal(parse_param, 'k={"a":1,"a":2}')


def test_dotted_keys_nest_and_leave_the_rest() -> None:
    params = {"a": {"b": 1, "c": {"d": 2}}, "x.y": 1}
    merged = merge(params, {"a.c.d": 3, "new.deep.key": 4, "x.y": 5, "a.e": 6})
    assert merged == {
        "a": {"b": 1, "c": {"d": 3}, "e": 6},
        "x.y": 5,
        "new": {"deep": {"key": 4}},
    }
    assert params == {"a": {"b": 1, "c": {"d": 2}}, "x.y": 1}


def test_a_dotted_key_through_a_value_is_refused() -> None:
    assert "--param a.b: 'a' is 5 in the params" in refusal(merge, {"a": 5}, {"a.b": 1})
