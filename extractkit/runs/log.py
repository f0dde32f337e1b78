"""The run's own log: all records logged while a job runs, independent of the terminal."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path

from extractkit.runs import LOG
from extractkit.store.local import opened_to_append, writing

_FORMAT = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s"


class _RunHandler(logging.FileHandler):
    """Handler that ignores write errors, so that a failing log does not end a job."""

    _reported = False

    def _open(self) -> TextIOWrapper:
        descriptor = opened_to_append(Path(self.baseFilename))
        return open(descriptor, "a", encoding=self.encoding)  # noqa: PTH123 - a descriptor

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        if not self._reported:
            self._reported = True
            sys.stderr.write(
                f"extractkit: {self.baseFilename} could not be written: {sys.exc_info()[1]}\n"
            )


class _WarningHandler(logging.Handler):
    """Handler that also passes extractkit's own warnings to the caller."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._warn = warn

    def emit(self, record: logging.LogRecord) -> None:
        # Errors end the job and are reported there.
        if record.levelno == logging.WARNING:
            self._warn(record.getMessage())


@contextmanager
def run_log(directory: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """Append records of every logger, and Python's warnings, to the log of the run.

    Args:
        warn: Receives each warning of extractkit's own loggers as well.

    Raises:
        JobError: the log cannot be opened.
        RunDirectoryError: something else has its name.
    """
    with writing(directory / LOG):
        handler = _RunHandler(directory / LOG, encoding="utf-8")
    formatter = logging.Formatter(_FORMAT, datefmt="%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root, own = logging.getLogger(), logging.getLogger("extractkit")
    level = own.level
    own.setLevel(logging.DEBUG)
    root.addHandler(handler)
    warnings = _WarningHandler(warn)
    own.addHandler(warnings)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        own.removeHandler(warnings)
        root.removeHandler(handler)
        own.setLevel(level)
        handler.close()
