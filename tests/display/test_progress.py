"""A job's progress, with and without a terminal."""

import io
import re
from pathlib import Path

import pytest

from extractkit.display import progress
from extractkit.display.progress import Bar, Lines, listening
from extractkit.engine import Summary
from tests.display.examples import EVIL, SHOWN_EVIL, planned

TENSORS = planned(kind="layer_output")
SUMMARY = Summary(
    directory=Path("/out/run"), tensors=3, samples=1000, truncated=2, shards=4, bytes=5_000_000,
    seconds=12.5, non_finite=("pool:output",),
)  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that pass on request."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "resident_memory", lambda: 1_200_000_000)


def test_lines_come_every_few_seconds_with_rate_bytes_and_time_left() -> None:
    stream, clock = io.StringIO(), Clock()
    lines = Lines(stream, clock)
    lines.planned(TENSORS, 1000, 2_000_000)
    for at in range(12):
        clock.now += 1
        lines.advanced(10, 20_000)
        if at > 5:
            lines.paced("reading")
    assert stream.getvalue().splitlines() == [
        "3 tensors of 1,000 samples, about 2.0 MB",
        "50 of 1,000 samples, 10 samples/s, 100 kB, 1:35 left, 1.2 GB memory",
        "100 of 1,000 samples, 10 samples/s, 200 kB, 1:30 left, 1.2 GB memory, slowest: reading",
    ]


def test_nothing_is_said_of_a_rate_before_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> int:
        raise OSError("not a system that reports it")

    monkeypatch.setattr(progress, "resident_memory", unknown)
    stream, clock = io.StringIO(), Clock()
    lines = Lines(stream, clock)
    lines.planned(TENSORS, 1000, 0)
    clock.now = 6
    lines.advanced(0, 0)
    assert stream.getvalue().splitlines()[1] == "0 of 1,000 samples, 0 B"


def test_a_note_cannot_control_the_terminal() -> None:
    stream = io.StringIO()
    Lines(stream).note(EVIL)
    assert stream.getvalue() == f"{SHOWN_EVIL}\n"


def test_a_run_closes_with_a_table() -> None:
    stream = io.StringIO()
    Lines(stream).finished(SUMMARY)
    assert stream.getvalue().splitlines() == [
        "samples     1,000, 2 of them cut off",
        "tensors     3",
        "stored      5.0 MB in 4 shards",
        "time        12 s, 80 samples/s",
        "not finite  NaN or infinity in pool:output",
        "look at it  extractkit show /out/run",
    ]


def test_a_terminal_gets_a_bar_and_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    with listening(stream) as listener:
        assert isinstance(listener, Bar)
        listener.planned(TENSORS, 1000, 2_000_000)
        listener.advanced(1000, 2_000_000)
        listener.paced("storing")
        listener.note("[bold]look")
        listener.finished(SUMMARY)
    text = stream.getvalue()
    assert "1000/1000" in text
    for part in ("2.0 MB", "1.2 GB memory", "slowest: storing"):
        assert part in text
    assert "[bold]look" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is back


def test_an_exception_takes_the_bar_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()

    def fail() -> None:
        with listening(stream) as listener:
            listener.planned(TENSORS, 10, 0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert "\x1b[?25h" in stream.getvalue()  # the cursor is back


def test_elsewhere_there_are_lines() -> None:
    with listening(io.StringIO()) as listener:
        assert isinstance(listener, Lines)


@pytest.mark.parametrize(("width", "samples"), [(80, 29), (80, 3_000), (160, 2_000_000)])
def test_the_bar_fits_the_terminal(
    width: int, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    stream = Terminal()
    bar = Bar(stream)
    bar.planned(TENSORS, samples, 2_000_000)
    bar.advanced(samples // 3, 123_000_000)
    bar.paced("computing")
    bar.stop()
    shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", stream.getvalue())
    frame = next(line for line in re.split(r"[\r\n]", shown) if "slowest" in line)
    assert len(frame) == width
    for part in (f"{samples // 3}/{samples} ", "123 MB", "1.2 GB memory", "slowest: computing"):
        assert part in frame
