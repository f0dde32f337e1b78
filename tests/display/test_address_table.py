"""Tables about tensors at the widths of terminals."""

import io

import pytest
from rich.text import Text

from extractkit.display import render
from extractkit.display.address_table import AddressTable

LONG = "transformer_layer_0/self_attention_layer/attention_output:output"


def shown(table: AddressTable, width: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    return render(table, io.StringIO()).splitlines()


@pytest.fixture
def table() -> AddressTable:
    found = AddressTable("tensor", "dtype", "mean", "about", dispensable=("mean",))
    found.add_row(LONG, "float32", "0.25", Text("one two three four five six seven eight nine"))
    found.add_row("", "int8", "3", "")
    found.add_row("x:0", "float32 against a type that has a very long name")
    found.add_row("… and 3 more")
    return found


def test_columns_that_fit_are_side_by_side(
    table: AddressTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    pad = " " * len(LONG)
    assert shown(table, 130, monkeypatch) == [
        f"{'tensor':<{len(LONG)}}  dtype    mean  about",
        f"{LONG}  float32  0.25  one two three four five six seven eight nine",
        f"{pad}  int8     3",
        f"{'x:0':<{len(LONG)}}  float32 against a type that has a very long name",
        "… and 3 more",
    ]
    assert shown(table, 116, monkeypatch)[1:3] == [
        f"{LONG}  float32  0.25  one two three four five six seven",
        f"{pad}                 eight nine",
    ]


def test_addresses_have_lines_of_their_own_where_columns_do_not_fit(
    table: AddressTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shown(table, 60, monkeypatch) == [
        "tensor",
        "  dtype    mean  about",
        LONG,
        "  float32  0.25  one two three four five six seven eight",
        "                 nine",
        "  int8     3",
        "x:0",
        "  float32 against a type that has a very long name",
        "… and 3 more",
    ]


def test_what_says_least_is_omitted_and_named(
    table: AddressTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown(table, 42, monkeypatch)
    assert lines[:5] == [
        "tensor",
        "  dtype    about",
        LONG,
        "  float32  one two three four five six",
        "           seven eight nine",
    ]
    assert " ".join(lines[-2:]) == "For more columns (mean), use a wider terminal or --json"
