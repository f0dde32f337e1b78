"""The file of `extractkit diff --map`."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from extractkit.errors import ConfigError
from extractkit.runs.comparing.pairing import FileMapping


def read_mapping_of(folder: Path, text: str) -> FileMapping:
    file = folder / "map.yaml"
    file.write_text(text, encoding="utf-8")
    return FileMapping.read(file)


def test_entries_are_texts_in_the_files_order(tmp_path: Path) -> None:
    found = read_mapping_of(
        tmp_path, '"b:output": "net/b:0" # the last\n":output": "${oc.env:HOME}"\na: "${"\n'
    )
    assert list(found.items()) == [
        ("b:output", "net/b:0"),
        (":output", "${oc.env:HOME}"),
        ("a", "${"),
    ]


_DOUBLED = ", ".join(f"l{n}: &l{n} [*l{n - 1}, *l{n - 1}]" for n in range(1, 60))
_ENDLESS = f"a: {{l0: &l0 [x], {_DOUBLED}}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not hold a mapping. Write one line for each tensor"),
        ("{}", "does not hold a mapping"),
        ("[a, b]", "does not hold a mapping"),
        ("dense:output\n", "no|holds"),
        ("a: {to: b}", "'a': {'to': 'b'} is not an entry"),
        ("a: 1", "'a': 1 is not an entry"),
        ("1: a", "1: 'a' is not an entry"),
        ("a: b\na: c", r"map.yaml, line 2: duplicate key 'a'"),
        ("a: [", r"map.yaml, line \d: not valid YAML"),
        ("5", r"map.yaml does not hold a mapping"),
        ("&a [*a]", r"map.yaml does not hold a mapping"),
        ('"a": &x {b: *x}', r"'a': {'b': {'b': {.*} is not an entry"),
        (_ENDLESS, r"'a': {'l0': \['x'\], .*} is not an entry"),
        ("2001-99-99: a", r"map.yaml: not valid YAML: month must be in 1..12"),
        ("? [a]\n: b", r"map.yaml, line 1: not valid YAML: found unhashable key"),
        ("a: \x01", r"map.yaml: not valid YAML: unacceptable character"),
        (f"a: {'[' * 3000}{']' * 3000}", r"map.yaml does not hold a mapping"),
    ],
)
def test_anything_else_is_one_message(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_mapping_of(tmp_path, text)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_bytes("ä: b".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"map.yaml is not UTF-8 text: .* byte 0xe4"):
        FileMapping.read(tmp_path / "map.yaml")


def test_each_entry_has_its_line(tmp_path: Path) -> None:
    found = read_mapping_of(tmp_path, "# of both\na: b\n\n? 'c:output'\n: d\n")
    assert found.path == str(tmp_path / "map.yaml")
    assert found.lines == {"a": 2, "c:output": 4}


def test_what_yaml_merges_has_no_line_of_its_own(tmp_path: Path) -> None:
    found = read_mapping_of(tmp_path, "<<: {x: y}\na: b\n")
    assert found == {"x": "y", "a": "b"}
    assert found.lines["a"] == 2
    assert "x" not in found.lines


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor() as threads:
        threads.submit(pipe.write_text, "a: b\n", "utf-8")
        assert FileMapping.read(pipe) == {"a": "b"}


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"map.yaml: No such file"):
        FileMapping.read(tmp_path / "map.yaml")
