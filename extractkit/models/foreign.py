"""Other people's code that may raise, print or crash, and methods of it that are replaced.

A class or module is shared by every thread: two that take its method and put it back in turn may
leave it replaced for good. So one lock is held from taking to putting back, and other threads get
the original all the while.
"""

import functools
import logging
import os
import re
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

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST = 300
# Where a graph or a layer failed, which TensorFlow and Keras tell before what went wrong.
_PLACE = re.compile(
    r"^Graph execution error|^Detected at node|^File |^Node: |^\d+ root error|^<stack traces"
    r"|^Exception encountered when calling"
)

# What a layer was called with, which Keras tells after what went wrong.
_CALLED_WITH = re.compile(r"^\s*(?:Call a|A)rguments received by", re.MULTILINE)


def attribute(value: object, name: str) -> Any:
    """Return an attribute; None where there is none, or where computing it raises.

    Properties of a TensorFlow function raise an AssertionError where its variables are gone.
    """
    try:
        return getattr(value, name, None)
    except Exception:  # noqa: BLE001 - whatever a property of somebody else's class raises
        return None


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error, or one that led to it, says that memory is short.

    TensorFlow's own is told by its name: who asks need not have TensorFlow.
    """
    chain: BaseException | None = error
    seen: set[int] = set()
    while chain is not None and id(chain) not in seen:
        if isinstance(chain, MemoryError) or type(chain).__name__ == "ResourceExhaustedError":
            return True
        seen.add(id(chain))
        # Keras raises its own in place of another, of which it names no cause.
        chain = chain.__cause__ or chain.__context__
    return False


def error_summary(error: BaseException) -> str:
    """Return the type of the exception and the first line of it that says something.

    A line that ends in a colon announces the next one.
    """
    lines = _lines(str(error))
    # AutoGraph puts the whole way there first.
    if lines and lines[0] == "in user code:":
        lines = lines[-1:]
    name = type(error).__name__
    if not lines:
        return name
    said = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    return f"{name}: {said[:_LONGEST]}"


def graph_error_summary(error: Any) -> str:
    """What TensorFlow says went wrong in a graph: the first line that does not tell where."""
    return (_lines(str(error.message)) or [type(error).__name__])[0][:_LONGEST]


def _lines(text: str) -> list[str]:
    """Return those that say something; all of them where each tells a place."""
    reason = _CALLED_WITH.split(_COLOUR.sub("", text))[0]
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    return [line for line in lines if not _PLACE.search(line)] or lines


_lock = threading.RLock()


@contextmanager
def patched(
    owner: type | ModuleType,
    name: str,
    replacing: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> Iterator[None]:
    """Replace a method within the block, for calls of this thread.

    Args:
        owner: the class, or the module.
        name: of the method, its own or inherited, or of the function.
        replacing: makes the new method from the one that is there, which is only known for sure
            once no other thread can change it.
    """
    with _lock:
        is_own = name in vars(owner)
        original = getattr(owner, name)
        replacement = replacing(original)
        thread = threading.get_ident()

        # Keras asks methods for their signature; marks that packages put on functions stay off.
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

# The descriptor belongs to the whole process: two threads would put each other's back.
_silence = threading.RLock()


@contextmanager
def noise_to_log(source: str) -> Iterator[None]:
    """Within it, standard error goes to the log, line by line at its end, on level debug.

    That holds for every thread of the process, so as little as possible belongs inside.

    Args:
        source: who speaks, for the log ("tensorflow").
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
"""How long a child may take for a small file, importing what it needs included."""

BYTES_PER_SECOND = 2_000_000
"""Every so many bytes of the file are a second more: slow disks, read several times."""

_OUT_OF_MEMORY = ("bad_alloc", "MemoryError")


@dataclass(frozen=True)
class Answer:
    """What a child that ended by itself leaves.

    Attributes:
        code: its exit code.
        output: what it wrote to standard output.
        last_words: the last line that it wrote to standard error, "" where there is none.
    """

    code: int
    output: bytes
    last_words: str


def ask(module: str, argument: str, file: Path, at: str) -> Answer:
    """Run a module in a child process, which finds the packages that this one finds.

    Args:
        module: by its dotted name, as after `python -m`.
        argument: its only one.
        file: what it reads; its size decides how long it may take.
        at: how messages name what the user gave.

    Raises:
        ModelError: the file is too large, or reading it takes too long or ends the process.
        OSError: the file is not there.
    """
    seconds = SECONDS + file.stat().st_size // BYTES_PER_SECOND
    try:
        done = _run(module, [argument], seconds)
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"{at} took longer than {seconds} s to look at") from error
    said = done.stderr.decode(errors="replace").strip().splitlines()
    if done.returncode and any(sign in line for line in said for sign in _OUT_OF_MEMORY):
        raise ModelError(f"{at} is damaged, or too large: it asks for more memory than there is")
    if done.returncode == -signal.SIGXCPU:
        raise ModelError(f"{at} took more processor time to look at than a file of its size should")
    if done.returncode < 0:
        raise ModelError(
            f"{at} is damaged, or not whole: reading it ended the process that tried "
            f"(signal {-done.returncode})"
        )
    return Answer(done.returncode, done.stdout, said[-1] if said else "")


def run_for_many(module: str, arguments: Sequence[str], size: int) -> bytes:
    """Return what a child writes to standard output that is asked about several files at once.

    However it ends: what it had not come to has to be asked about again.

    Args:
        size: bytes of all the files, which decide how long it may take.
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
