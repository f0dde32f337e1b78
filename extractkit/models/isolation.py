"""Third-party code kept apart: patched in one thread, silenced, or run in a child process."""

import functools
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from extractkit.errors import ModelError

_lock = threading.RLock()


@contextmanager
def patched(
    owner: type | ModuleType,
    name: str,
    replacing: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> Iterator[None]:
    """Replace a method or function within the block, for calls from this thread.

    Classes and modules are shared by all threads, and two threads that patch and restore the same
    method in turn could leave it patched. So a lock is held for the whole block, during which other
    threads still call the original.

    Args:
        owner: The class or module.
        name: The name of the method, which may be inherited, or of the function.
        replacing: Takes the current method and returns its replacement. It is called once no other
            thread can patch the method.
    """
    with _lock:
        is_own = name in vars(owner)
        original = getattr(owner, name)
        replacement = replacing(original)
        thread = threading.get_ident()

        # Keras inspects signatures. Attributes that packages set on functions are not copied.
        @functools.wraps(original, updated=())
        def called(*args: Any, **kwargs: Any) -> Any:
            method = replacement if threading.get_ident() == thread else original
            return method(*args, **kwargs)

        setattr(owner, name, called)
        try:
            yield
        finally:
            if is_own:
                setattr(owner, name, original)
            else:
                delattr(owner, name)


_log = logging.getLogger(__name__)

# The file descriptor belongs to the process: threads would restore each other's.
_silence = threading.RLock()


@contextmanager
def noise_to_log(source: str) -> Iterator[None]:
    """Redirect standard error to the log within the block, line by line at level debug.

    This affects every thread of the process, so the block should be short.

    Args:
        source: The name to log the lines under ("tensorflow").
    """
    with _silence:
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


SECONDS = 120
"""The time limit of a child process for a small file, imports included."""

BYTES_PER_SECOND = 2_000_000
"""The number of bytes of a file that add one second to the limit: slow disks, several reads."""

_CRASHES = tuple(
    int(getattr(signal, name))
    for name in ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS")
)
"""Signals by which a process ends itself. Others come from outside."""

_OUT_OF_MEMORY = ("bad_alloc", "MemoryError")


@dataclass(frozen=True)
class Answer:
    """The result of a child process that was not killed.

    Attributes:
        code: Its exit code.
        output: Its standard output.
        last_words: The last line of its standard error, or "".
    """

    code: int
    output: bytes
    last_words: str


def ask(module: str, argument: str, file: Path, at: str) -> Answer:
    """Run a module on one file in a child process with the same import path.

    Args:
        module: Its dotted name, as after `python -m`.
        argument: Its only argument.
        file: The file that it reads. The time limit follows from its size.
        at: The key and value to name in messages.

    Raises:
        ModelError: The file is too large, or reading it takes too long or crashes the process.
        OSError: The file does not exist.
    """
    seconds = SECONDS + file.stat().st_size // BYTES_PER_SECOND
    try:
        done = _run(module, [argument], seconds)
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"{at} took longer than {seconds} s to look at. If the machine or the disk is slow, "
            f"try again, with a copy on a local disk"
        ) from error
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    if done.returncode and any(sign in line for line in lines for sign in _OUT_OF_MEMORY):
        raise ModelError(f"{at} is damaged, or too large: it asks for more memory than there is")
    if done.returncode == -signal.SIGXCPU:
        raise ModelError(f"{at} took more processor time to look at than a file of its size should")
    if done.returncode < 0 and -done.returncode not in _CRASHES:
        raise ModelError(
            f"{at} has not been read: something ended the process that looked at it (signal "
            f"{-done.returncode}), as systems do when memory is short. Free memory, and try again"
        )
    if done.returncode < 0:
        raise ModelError(
            f"{at} is damaged, or not whole, or its library fails on it: reading it crashed the "
            f"process that tried (signal {-done.returncode})"
        )
    return Answer(done.returncode, done.stdout, lines[-1] if lines else "")


def run_for_many(module: str, arguments: Sequence[str], size: int) -> bytes:
    """Run a module on several files in one child process, and return its standard output.

    The output may be incomplete: the child may crash or be stopped. Files without a result have to
    be run again.

    Args:
        size: The bytes of all files, from which the time limit follows.
    """
    try:
        return _run(module, arguments, SECONDS + size // BYTES_PER_SECOND).stdout
    except subprocess.TimeoutExpired as stopped:
        return stopped.stdout or b""


def _run(
    module: str, arguments: Sequence[str], seconds: int
) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        timeout=seconds,
        check=False,
    )
