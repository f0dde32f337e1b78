"""Renderables as text for a stream."""

import io
import re

import pytest
from rich.table import Table
from rich.text import Text

from extractkit.display import printable, render


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_are_not_folded_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert render(Text("x" * 300), io.StringIO()) == "x" * 300 + "\n"


def test_colours_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in render(Text("x", style="red"), Terminal())
    assert render(Text("x", style="red"), io.StringIO()) == "x\n"


def test_a_width_that_is_asked_for_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "10")
    assert render(Text("x" * 15), io.StringIO()) == "x" * 10 + "\n" + "x" * 5 + "\n"


HOSTILE = "a\x1b]0;title\x07b\x9b2J\rc\u202ed\ud800"
SHOWN = r"a\x1b]0;title\x07b\x9b2J\rc\u202ed\ud800"


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_no_control_sequence_of_a_text_reaches_the_terminal(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    table = Table.grid()
    table.add_row(Text(HOSTILE, style="red"), HOSTILE)
    for renderable in (Text(HOSTILE), HOSTILE, table):
        shown = re.sub(r"\x1b\[[\d;]*m", "", render(renderable, stream))
        assert all(line.isprintable() for line in shown.splitlines())
        assert r"\x1b]0;title" in shown


def test_markup_in_a_text_is_text() -> None:
    text = "[link=file:///x]a[/link] [red]b[/red] :smile:"
    assert render(text, io.StringIO()) == f"{text}\n"


def test_a_message_keeps_its_lines() -> None:
    assert printable(f"{HOSTILE}\nsecond") == f"{SHOWN}\nsecond"
