"""What native code writes to standard error, past Python's own `sys.stderr`."""

import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_log = logging.getLogger(__name__)

# The descriptor belongs to the whole process: two threads would put each other's back.
_lock = threading.RLock()


@contextmanager
def noise_to_log(source: str) -> Iterator[None]:
    """Within it, standard error goes to the log, line by line at its end, on level debug.

    That holds for every thread of the process, so as little as possible belongs inside.

    Args:
        source: who speaks, for the log ("tensorflow").
    """
    with _lock:
        sys.stderr.flush()
        kept = os.dup(2)
        with tempfile.TemporaryFile() as noise:
            os.dup2(noise.fileno(), 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(kept, 2)
                os.close(kept)
                noise.seek(0)
                for line in noise.read().decode(errors="replace").splitlines():
                    _log.debug("%s: %s", source, line)
