"""Progress on standard error: of a job, and of anything that takes longer than two seconds."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import UnsupportedOperation
from threading import Lock
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from extractkit.core.plan import PlannedTensor
from extractkit.display import Printable, duration_text, rate_text, render, run, safe
from extractkit.engine import Listener, Summary
from extractkit.errors import counted
from extractkit.models.process import resident_memory
from extractkit.runs.directory import human_bytes

_FIRST_S = 2.0
_LINES_S = (_FIRST_S, 10.0, 30.0)
_LATER_S = 60.0
_REFRESH_S = 1.0


class Waiting:
    """Shows the current stage of a command on a stream: a spinner on a terminal, lines elsewhere.

    A stage that ends within two seconds is not shown. Lines come after 2, 10, 30 and 60 seconds,
    and then once a minute.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stage: str | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, stage: str) -> None:
        """Begin a stage and end the previous one."""
        self.end()
        self._stage = stage
        self._ended = threading.Event()
        show = self._spin if self._stream.isatty() else self._write_lines
        arguments = (safe(stage), _duplicate(self._stream), self._ended)
        # A daemon thread, so that an exit without `end` does not wait for it.
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
        """Remove the spinner within the context, so that something can be printed."""
        stage = self._stage
        self.end()
        yield
        if stage is not None:
            self.begin(stage)

    def _spin(self, stage: str, stream: TextIO, ended: threading.Event) -> None:
        # A closed terminal shows nothing, but the command continues.
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
    """Show progress on a stream until the context ends.

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

    While TensorFlow is imported, which takes longest, descriptor 2 leads to the log.
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


_INTERVAL_S = 5.0


@contextmanager
def listening(stream: TextIO) -> Iterator[Listener]:
    """Yield a listener for the stream, and restore the terminal on exit."""
    shown = Bar(stream) if stream.isatty() else Lines(stream)
    try:
        yield shown
    finally:
        shown.stop()


class Lines:
    """Listener that prints a plain line every few seconds."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._lock = Lock()
        self._samples = self._done = self._stored = 0
        self._slowest: str | None = None
        self._began = self._spoke = clock()
        self._waiting = Waiting(stream)

    def stage(self, name: str) -> None:
        """Show the stage if it takes long."""
        self._waiting.begin(name)

    def planned(
        self, tensors: Sequence[PlannedTensor], samples: int, total_bytes_estimate: int
    ) -> None:
        """Print what the job is about to do."""
        self._waiting.end()
        self._samples = samples
        self._began = self._spoke = self._clock()
        self._write(_announcement(tensors, samples, total_bytes_estimate))

    def advanced(self, samples: int, stored: int) -> None:
        """Print the progress, unless a line was printed within the last seconds."""
        with self._lock:
            self._done += samples
            self._stored += stored
            now = self._clock()
            if now - self._spoke < _INTERVAL_S:
                return
            self._spoke = now
            self._write(self._status(now - self._began))

    def paced(self, stage: str) -> None:
        """Name the stage in lines to come."""
        self._slowest = stage

    def note(self, message: str) -> None:
        """Print a message."""
        self._write(safe(message))

    def finished(self, summary: Summary) -> None:
        """Print the summary."""
        self.stop()
        self._write(render(run.summary(summary), self._stream).rstrip("\n"))

    def stop(self) -> None:
        """Show no further progress."""
        self._waiting.end()

    def _status(self, seconds: float) -> str:
        left = max(self._samples - self._done, 0)
        parts = [
            f"{self._done:,} of {counted(self._samples, 'sample')}",
            rate_text(self._done, seconds),
            human_bytes(self._stored),
        ]
        if self._done:
            parts.append(f"{duration_text(seconds * left / self._done)} left")
        parts += [_memory_text(), _pace_text(self._slowest)]
        return ", ".join(filter(None, parts))

    def _write(self, line: str) -> None:
        self._stream.write(f"{line}\n")
        self._stream.flush()


class Bar:
    """Listener with a progress bar: rate, bytes and remaining time."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False)
        self._bar = Progress(
            BarColumn(bar_width=None),
            *(column(table_column=Column(no_wrap=True)) for column in _COLUMNS),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            TextColumn("{task.description}"),
            console=self._console,
            transient=True,
            expand=True,
        )
        self._task = self._bar.add_task("", total=None, start=False, stored=0)
        self._stored = 0
        self._lock = Lock()
        self._waiting = Waiting(stream)

    def stage(self, name: str) -> None:
        """Remove the bar, and show a spinner if the stage takes long."""
        self._bar.stop()
        self._waiting.begin(name)

    def planned(
        self, tensors: Sequence[PlannedTensor], samples: int, total_bytes_estimate: int
    ) -> None:
        """Print what the job is about to do, and show the bar."""
        self._waiting.end()
        self._console.print(Printable(Text(_announcement(tensors, samples, total_bytes_estimate))))
        self._bar.update(self._task, total=samples)
        self._bar.start_task(self._task)
        self._bar.start()

    def advanced(self, samples: int, stored: int) -> None:
        """Move the bar."""
        with self._lock:
            self._stored += stored
            self._bar.update(self._task, advance=samples, stored=self._stored)

    def paced(self, stage: str) -> None:
        """Name the stage beside the bar."""
        self._bar.update(self._task, description=_pace_text(stage))

    def note(self, message: str) -> None:
        """Print a message above the bar."""
        with self._waiting.paused():
            self._console.print(Printable(Text(message)))

    def finished(self, summary: Summary) -> None:
        """Replace the bar with the summary."""
        self.stop()
        self._console.print(Printable(run.summary(summary)))

    def stop(self) -> None:
        """Remove the bar and the spinner."""
        self._waiting.end()
        self._bar.stop()


class _Rate(ProgressColumn):
    """Samples per second."""

    def render(self, task: Task) -> Text:
        return Text(rate_text(int(task.completed), task.elapsed or 0))


class _Stored(ProgressColumn):
    """Bytes stored so far."""

    def render(self, task: Task) -> Text:
        return Text(human_bytes(task.fields["stored"]))


class _Memory(ProgressColumn):
    """Memory of this process."""

    max_refresh = 1.0

    def render(self, task: Task) -> Text:
        return Text(_memory_text())


_COLUMNS = (MofNCompleteColumn, _Rate, _Stored, _Memory)


def _memory_text() -> str:
    """Return the memory of this process; nothing where the system does not report it."""
    try:
        return f"{human_bytes(resident_memory())} memory"
    except OSError:
        return ""


def _pace_text(stage: str | None) -> str:
    return "" if stage is None else f"slowest: {stage}"


def _announcement(tensors: Sequence[PlannedTensor], samples: int, estimate: int) -> str:
    return (
        f"{counted(len(tensors), 'tensor')} of {counted(samples, 'sample')}, "
        f"about {human_bytes(estimate)}"
    )
