"""Real English text of very uneven lengths that every Python brings along: its own docstrings."""

import ast
import random
import re
import sysconfig
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
_SHORTEST = 20  # characters


def stdlib_docstrings(count: int | None, *, seed: int = 0) -> list[str]:
    """Give `count` paragraphs (None: all) of the standard library's docstrings, shuffled by `seed`.

    A paragraph has 20 characters or more, its whitespace collapsed to single spaces, and occurs
    once. Python 3.11 has about 14,600 of them, of 20 to 2,600 characters; other versions have
    others, so no expectation may quote them. One seed gives one order, whatever the count: a
    smaller sample is the beginning of a larger one.

    Raises:
        ValueError: the library has fewer than `count` paragraphs.
    """
    texts = list(_paragraphs())
    if count is not None and not 0 <= count <= len(texts):
        raise ValueError(f"count={count}: the standard library has {len(texts)} paragraphs")
    random.Random(seed).shuffle(texts)
    return texts[:count]


@cache
def _paragraphs() -> tuple[str, ...]:
    """Read the library once a process (two seconds), in the order of its paths."""
    root = Path(sysconfig.get_path("stdlib"))
    unique: dict[str, None] = {}
    for path in sorted(root.rglob("*.py")):
        if not _SKIPPED_FOLDERS.intersection(path.relative_to(root).parts):
            unique.update(dict.fromkeys(_docstring_paragraphs(path)))
    return tuple(unique)


def _docstring_paragraphs(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # stray escapes in other people's strings
            module = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # ValueError: null bytes
        return
    for node in ast.walk(module):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node) or ""
            for paragraph in re.split(r"\n\s*\n", docstring):
                text = " ".join(paragraph.split())
                if len(text) >= _SHORTEST:
                    yield text
