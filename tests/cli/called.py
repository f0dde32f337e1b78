"""How tests call the program, and the modules of a user's own that it finds."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import extractkit

SOURCES = str(Path(extractkit.__file__).parents[1])
SLOW_MODEL = """
import atexit, os, sys, time
from extractkit.testing.reference import ReferenceModel

def chatty():
    print("hello from the model")
    return ReferenceModel()

def broken():
    raise RuntimeError("boom")

def leaving():
    sys.exit(3)

def slow():
    print("loading", file=sys.stderr, flush=True)
    time.sleep(60)

class Sick(ReferenceModel):
    def forward(self, tokens):
        found = super().forward(tokens)
        return {key: value * float("nan") for key, value in found.items()}

def last(write=os.write, sleep=time.sleep):
    write(2, b"late\\n")
    sleep(1)

class Late:
    def __del__(self, last=last):
        last()

def taken_down_late():
    global late
    late = Late()
    return ReferenceModel()

def ending_late():
    atexit.register(last)
    return ReferenceModel()
"""

ON_RUNS = ("show", "resume", "join", "rerun", "verify", "diff", "similarity", "report")

Program = Callable[..., subprocess.CompletedProcess[str]]


def command(*arguments: str, python: str | Path = "") -> list[str]:
    start = "from extractkit.__main__ import main; main()"
    job = any("=" in argument for argument in arguments) and arguments[0] not in ON_RUNS
    own = ["--config-dir", "my", "--trust", "own"] if job else []
    return [str(python or sys.executable), "-P", "-c", start, *arguments, *own]


def variables(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS",)}
    return {**kept, "PYTHONPATH": SOURCES, "PYTHONDONTWRITEBYTECODE": "1", **more}


def check_not_imported(modules: str, arguments: Sequence[str], place: Path) -> None:
    """Check that a command, in a process of its own, imports none of these modules.

    Args:
        modules: an expression for the set of their names.
    """
    probe = (
        f"import sys; from extractkit import cli; cli.execute({list(arguments)}); "
        f"found = {modules} & set(sys.modules); "
        "sys.exit(repr(found) if found else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=place, env=variables(), check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def left_in(place: Path) -> set[str]:
    return {path.name for path in place.iterdir()} - {"my", "own.py"}
