"""The run's own log: everything that is logged while a job runs, whatever the terminal shows."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from extractkit.runs.directory import LOG

_FORMAT = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s"


@contextmanager
def run_log(directory: Path) -> Iterator[None]:
    """Append records of every logger, and Python's warnings, to the log of the run."""
    handler = logging.FileHandler(directory / LOG, encoding="utf-8")
    formatter = logging.Formatter(_FORMAT, datefmt="%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root, own = logging.getLogger(), logging.getLogger("extractkit")
    level = own.level
    own.setLevel(logging.DEBUG)
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        own.setLevel(level)
        handler.close()
