"""A file that may end whoever reads it, looked at by a child process first."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from extractkit.errors import ModelError

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


def ask_about_all(module: str, arguments: Sequence[str], size: int) -> bytes:
    """What a child writes to standard output that is asked about several files at once.

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
