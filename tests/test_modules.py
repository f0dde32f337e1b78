"""The modules of the package: few, none too short for a subject, and none in a cycle of imports."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "extractkit"
FILES = sorted(PACKAGE.rglob("*.py"))
MOST = 246
FEWEST_LINES = 40
GROWING = ("core/transforms/", "core/statistics/", "reports/", "testing/")
"""Folders with one file a family or a contract, which do not count."""

Imports = Mapping[str, set[str]]


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for file in FILES}


def test_there_are_few() -> None:
    """Markers of packages, which hold no code, do not count."""
    counted = [
        file
        for file in FILES
        if not str(file.relative_to(PACKAGE)).startswith(GROWING)
        and len(ast.parse(file.read_text("utf-8")).body) > 1
    ]
    assert len(counted) <= MOST, "Extend a file that has this subject, or merge two of one subject"


def test_none_is_a_fragment() -> None:
    """A package may be empty, and a fence around a library may be low."""
    fragments = [
        file.name
        for file in FILES
        if file.name != "__init__.py"
        and not file.name.endswith("_internals.py")
        and len(file.read_text("utf-8").splitlines()) < FEWEST_LINES
    ]
    assert fragments == []


def executed(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the statements of a module, without imports for type checkers only."""
    rest: list[ast.AST] = [tree]
    while rest:
        node = rest.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.stmt):
            yield node
        rest += [one for one in ast.iter_child_nodes(node) if not isinstance(one, ast.expr)]


def imports_of(name: str, source: str, modules: Mapping[str, object]) -> set[str]:
    """Return the modules that a module imports, in functions too, and the packages around them.

    A module is inside its own packages, which may import it.
    """
    found = set()
    for node in executed(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (module := node.module or "") in modules:
            inner = (f"{module}.{alias.name}" for alias in node.names)
            found |= {one if one in modules else module for one in inner}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in modules}
    around = {one[:end] for one in found for end, sign in enumerate(one) if sign == "."}
    root = name.partition(".")[0]
    return found | {one for one in around - {root} if not f"{name}.".startswith(f"{one}.")}


def cycle_in(imports: Imports) -> list[str]:
    """Return modules that import each other in a circle, or nothing."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        for one in sorted(imports.get(name, ())):
            if found := visit(one, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(imports) if (found := visit(name, []))), [])


def test_none_imports_itself_through_others() -> None:
    read = {
        name: imports_of(name, file.read_text("utf-8"), MODULES) for name, file in MODULES.items()
    }
    assert cycle_in(read) == []


@pytest.mark.parametrize(
    ("sources", "cycle"),
    [
        ({"p": "", "p.a": "from p import b", "p.b": "import p.a"}, ["p.a", "p.b"]),
        (
            {"p": "", "p.a": "def f():\n from p.b import x", "p.b": "from p.a import y"},
            ["p.a", "p.b"],
        ),
        (
            {"p": "", "p.a": "from p.b.c import x", "p.b": "from p.a import y", "p.b.c": ""},
            ["p.a", "p.b"],
        ),
        ({"p": "", "p.a": "if TYPE_CHECKING:\n from p.b import x", "p.b": "from p.a import y"}, []),
        ({"p": "", "p.b": "from p.b.c import x", "p.b.c": ""}, []),
    ],
)
def test_a_cycle_is_found(sources: dict[str, str], cycle: list[str]) -> None:
    read = {name: imports_of(name, source, sources) for name, source in sources.items()}
    assert cycle_in(read) == cycle
