"""Dataclasses as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from extractkit.errors import RunDirectoryError
from extractkit.runs.schema import canonical, decode, document, plain


@dataclass(frozen=True)
class Inner:
    """A nested value."""

    number: int
    ratio: float | None


@dataclass(frozen=True)
class Outer:
    """A value of every form."""

    names: tuple[str, ...]
    pair: tuple[int, str]
    inner: Mapping[str, Inner]
    anything: object
    ranges: tuple[tuple[int, int], ...] = ((0, 2), (2, 3))


OUTER = Outer(("a",), (1, "b"), {"x": Inner(1, None), "y": Inner(2, 0.5)}, [1, {"a": None}])
DATA = {
    "names": ["a"],
    "pair": [1, "b"],
    "inner": {"x": {"number": 1, "ratio": None}, "y": {"number": 2, "ratio": 0.5}},
    "anything": [1, {"a": None}],
    "ranges": [[0, 2], [2, 3]],
}


def test_values_become_json_and_come_back() -> None:
    assert plain(OUTER) == DATA
    assert decode(Outer, DATA, "file") == OUTER


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nmes": 1}, r"^file holds 'nmes', which does not exist. Available: .*'names'"),
        ({"names": "a"}, r"^file.names is 'a', which is not a list$"),
        ({"names": [1]}, r"^file.names\[0\] is 1, which is not a text$"),
        ({"pair": [1]}, r"^file.pair has 1 entries in place of 2$"),
        ({"ranges": [[0, 2], [2, 3, 4]]}, r"^file.ranges\[1\] has 3 entries in place of 2$"),
        ({"ranges": [[0, 2], [2, True]]}, r"^file.ranges\[1\]\[1\] is True, which is not of type"),
        ({"inner": {"x": {"number": True, "ratio": None}}}, r"^file.inner.x.number is True"),
        ({"inner": {"x": {"number": 1}}}, r"^file.inner.x lacks 'ratio'$"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(RunDirectoryError, match=message):
        decode(Outer, {**DATA, **change}, "file")


def test_values_of_numpy_and_paths_are_plain() -> None:
    assert plain({1: (np.float32(0.5), np.int64(3), np.bool(True), Path("a"))}) == {
        "1": [0.5, 3, True, "a"]
    }


def test_what_json_has_no_word_for_becomes_text() -> None:
    assert canonical([float("nan"), float("-inf"), np.float32("inf")]) == '["nan","-inf","inf"]'


def test_an_object_without_a_form_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot be recorded"):
        plain({"a": {1, 2}})


def test_canonical_text_does_not_depend_on_the_order_but_a_document_keeps_it() -> None:
    assert canonical({"b": 1, "a": "é"}) == canonical({"a": "é", "b": 1}) == '{"a":"é","b":1}'
    assert document({"b": 1, "a": 2}) == b'{\n "b": 1,\n "a": 2\n}\n'


def test_a_name_that_is_no_utf8_has_a_document() -> None:
    assert document({"a": "\udcff"}) == '{\n "a": "\udcff"\n}\n'.encode(errors="surrogatepass")
