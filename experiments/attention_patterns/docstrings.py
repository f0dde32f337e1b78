"""Real English text of uneven lengths that every Python brings along: its own docstrings.

    python -m experiments.attention_patterns.docstrings FILE

writes paragraphs of the standard library's docstrings, one a line.
"""

import ast
import random
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

PARAGRAPHS = 400

_EXCLUDED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
_SHORTEST = 80  # characters: enough words to distinguish neighbours, ends and the rest


def paragraphs() -> Iterator[str]:
    """All of them in the order of the library's paths, whitespace collapsed."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if not _EXCLUDED.intersection(path.relative_to(root).parts):
            yield from _of_module(path.read_bytes())


def _of_module(source: bytes) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # stray escapes in other people's strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError):  # ValueError: null bytes
        return
    for node in _statements(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for paragraph in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
                yield " ".join(paragraph.split())


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the module and its statements, level by level. No expression has a docstring."""
    nodes: list[ast.AST] = [tree]
    for node in nodes:
        yield node
        for name in ("body", "handlers", "orelse", "finalbody", "cases"):
            nodes += getattr(node, name, ())


if __name__ == "__main__":
    texts = [text for text in dict.fromkeys(paragraphs()) if len(text) >= _SHORTEST]
    chosen = random.Random(0).sample(texts, PARAGRAPHS)
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(chosen) + "\n", encoding="utf-8")
