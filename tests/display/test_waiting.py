"""Signs of life while something takes long."""

import io
import os
import pty
import threading
import time
from pathlib import Path

import pytest

from extractkit.display.progress import Waiting, waiting


def test_a_short_stage_shows_nothing() -> None:
    stream = io.StringIO()
    with waiting(stream, "loading the model"):
        time.sleep(0.05)
    assert stream.getvalue() == ""


def test_after_two_seconds_a_line_says_what_goes_on_even_where_descriptor_2_is_redirected(
    tmp_path: Path,
) -> None:
    seen = tmp_path / "seen"
    with seen.open("w") as stream, waiting(stream, "loading \x1b[31m the model"):
        elsewhere, kept = os.open(os.devnull, os.O_WRONLY), os.dup(stream.fileno())
        os.dup2(elsewhere, stream.fileno())
        time.sleep(2.5)
        os.dup2(kept, stream.fileno())
        os.close(kept)
        os.close(elsewhere)
    assert seen.read_text() == "loading \\x1b[31m the model, 2.0 s\n"


def test_a_terminal_gets_a_spinner_that_is_gone_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    shown: list[bytes] = []
    reader = threading.Thread(target=lambda: shown.append(_read_all(ours)))
    reader.start()
    with os.fdopen(theirs, "w") as stream:
        wait = Waiting(stream)
        wait.begin("loading the model")
        time.sleep(2.5)
        with wait.paused():
            stream.write("a note\n")
            stream.flush()
        wait.end()
    reader.join()
    os.close(ours)
    text = shown[0].decode()
    assert "loading the model" in text
    # The line is cleared before anything else is printed.
    assert "\x1b[2K" in text[: text.index("a note")].rpartition("loading the model")[2]
    assert "loading" not in text[text.index("a note") :]


def _read_all(descriptor: int) -> bytes:
    found = b""
    while True:
        try:
            found += (more := os.read(descriptor, 4096))
        except OSError:  # the other side is closed
            return found
        if not more:
            return found
