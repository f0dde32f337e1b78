"""Run what a Markdown page shows, from top to bottom in one folder, and check what it prints.

- `bash` blocks are scripts, and have to succeed.
- `console` blocks hold commands behind `$ ` and what each prints, standard error included. A line
  `…` stands for any lines, `…` within a line for any characters.
- `python` blocks share one namespace, in this process. Those that begin with `>>>` are doctests.

Blocks inside `<!-- invisible-code-block: python -->` comments are run and not shown.
"""

import doctest
import os
import re
import subprocess
import sysconfig
from contextlib import chdir
from pathlib import Path

from sybil import Document, Example
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser, SkipParser

# Has been done by whoever runs the tests.
_SET_UP = re.compile(r"^(make|python -m (pip|venv)) ", re.MULTILINE)
_COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*\n?)", re.MULTILINE)
# Depends on the machine: signs of life of a slow one, and TensorFlow's own log.
_NOISE = re.compile(r"^(?:[EIW]\d{4} .*|\w.*, \d+(?:\.\d)? s)\n", re.MULTILINE)


def run_page(page: Path, folder: Path, programs: Path) -> int:
    """Run every block of a page in a folder, and return how many there were.

    Args:
        page: A Markdown file.
        folder: The working directory.
        programs: A folder for PATH with `python` and `extractkit` (`tests.preloaded`).

    Raises:
        SybilFailure: A command failed, or printed something else than the page says.
    """
    path = os.pathsep.join([str(programs), sysconfig.get_path("scripts"), os.environ["PATH"]])

    def shell(script: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def script(example: Example) -> str | None:
        if _SET_UP.search(example.parsed):
            return None
        done = shell(example.parsed)
        return f"exit code {done.returncode}\n{done.stdout}" if done.returncode else None

    def session(example: Example) -> str | None:
        for command, expected in commands(example.parsed):
            if _SET_UP.match(command):
                continue
            printed = shell(command).stdout
            if not matches(expected, printed):
                return f"$ {command}\nexpected:\n{expected}\nprinted:\n{printed}"
        return None

    document = Document.parse(
        str(page),
        SkipParser(),
        PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS),
        CodeBlockParser("bash", script),
        CodeBlockParser("console", session),
    )
    ran = 0
    with chdir(folder):
        for example in document:
            example.evaluate()
            ran += 1
    return ran


def commands(block: str) -> list[tuple[str, str]]:
    """Return each command of a `console` block, and what it prints."""
    found = list(_COMMAND.finditer(block))
    ends = [one.start() for one in found[1:]] + [len(block)]
    return [(one[1], block[one.end() : end]) for one, end in zip(found, ends, strict=True)]


def matches(expected: str, printed: str) -> bool:
    """Return whether a program printed what a page says."""
    lines = (
        "(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".*?") + "\n"
        for line in _trimmed(expected).splitlines()
    )
    pattern = "".join(lines)
    found = _trimmed(_NOISE.sub("", printed))
    return re.fullmatch(pattern, found + "\n" if found else "") is not None


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
