"""Renderables as text for a stream."""

import io

import pytest
from rich.text import Text

from extractkit.display.console import render


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
