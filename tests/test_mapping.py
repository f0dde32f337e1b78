"""The file of `extractkit diff --map`."""

from pathlib import Path

import pytest

from extractkit.config.mapping import read_mapping
from extractkit.errors import ConfigError


def mapping(folder: Path, text: str) -> dict[str, str]:
    file = folder / "map.yaml"
    file.write_text(text, encoding="utf-8")
    return read_mapping(file)


def test_entries_are_texts_in_the_files_order(tmp_path: Path) -> None:
    found = mapping(
        tmp_path, '"b:output": "net/b:0" # the last\n":output": "${oc.env:HOME}"\na: b\n'
    )
    assert list(found.items()) == [
        ("b:output", "net/b:0"),
        (":output", "${oc.env:HOME}"),
        ("a", "b"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no mapping. Write one line for each tensor"),
        ("{}", "holds no mapping"),
        ("[a, b]", "holds no mapping"),
        ("dense:output\n", "no|holds"),
        ("a: {to: b}", "'a': {'to': 'b'} is no entry"),
        ("a: 1", "'a': 1 is no entry"),
        ("1: a", "1: 'a' is no entry"),
        ("a: b\na: c", "duplicate key a"),
        ("a: [", "no valid YAML"),
        ('a: "${"', "a: "),
    ],
)
def test_anything_else_is_one_message(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mapping(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"map.yaml: No such file"):
        read_mapping(tmp_path / "map.yaml")
