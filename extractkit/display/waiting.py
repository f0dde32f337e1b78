"""Signs of life: what a command is doing, shown as soon as that takes longer than two seconds."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import UnsupportedOperation
from typing import TextIO

from rich.console import Console

from extractkit.display.text import duration_text, safe

_FIRST_S = 2.0
_LINES_S = (_FIRST_S, 10.0, 30.0)
_LATER_S = 60.0
_REFRESH_S = 1.0


class Waiting:
    """Shows the current stage of a command on a stream: a spinner on a terminal, lines elsewhere.

    Nothing is shown of a stage that ends within two seconds. Lines come after 2, 10, 30 and 60
    seconds, and then once a minute.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stage: str | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, stage: str) -> None:
        """Begin a stage; the one before it has ended."""
        self.end()
        self._stage = stage
        self._ended = threading.Event()
        show = self._spin if self._stream.isatty() else self._write_lines
        arguments = (safe(stage), _duplicate(self._stream), self._ended)
        # A daemon, so that an exit which skips `end` does not wait for it.
        self._thread = threading.Thread(target=show, args=arguments, name="waiting", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End the stage, if there is one, and remove its spinner."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._stage = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Remove the spinner inside, so that something can be printed; the stage goes on after."""
        stage = self._stage
        self.end()
        yield
        if stage is not None:
            self.begin(stage)

    def _spin(self, stage: str, stream: TextIO, ended: threading.Event) -> None:
        # A terminal that has been closed shows nothing; the command itself goes on.
        with _closed_after(stream, self._stream), suppress(OSError, ValueError):
            if ended.wait(_FIRST_S):
                return
            passed = _FIRST_S
            with Console(file=stream, highlight=False, markup=False).status(stage) as status:
                while not ended.wait(_REFRESH_S):
                    passed += _REFRESH_S
                    status.update(f"{stage}, {duration_text(passed)}")

    def _write_lines(self, stage: str, stream: TextIO, ended: threading.Event) -> None:
        with _closed_after(stream, self._stream), suppress(OSError, ValueError):
            passed = 0.0
            for moment in _moments():
                if ended.wait(moment - passed):
                    return
                passed = moment
                stream.write(f"{stage}, {duration_text(passed)}\n")
                stream.flush()


@contextmanager
def waiting(stream: TextIO, stage: str) -> Iterator[Waiting]:
    """Show signs of life on a stream until the context ends.

    Args:
        stream: Usually standard error.
        stage: The first stage, as in "loading the model".
    """
    shown = Waiting(stream)
    shown.begin(stage)
    try:
        yield shown
    finally:
        shown.end()


def _moments() -> Iterator[float]:
    yield from _LINES_S
    minute = 1
    while True:
        yield minute * _LATER_S
        minute += 1


def _duplicate(stream: TextIO) -> TextIO:
    """Return the stream under a descriptor of its own, if it has one.

    While TensorFlow is imported, which is what takes longest, descriptor 2 leads to the log.
    """
    try:
        return os.fdopen(os.dup(stream.fileno()), "w", encoding=stream.encoding, errors="replace")
    except (UnsupportedOperation, OSError):
        return stream


@contextmanager
def _closed_after(stream: TextIO, original: TextIO) -> Iterator[None]:
    """Close a duplicate when the context ends."""
    try:
        yield
    finally:
        if stream is not original:
            stream.close()
