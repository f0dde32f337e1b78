"""Private names of other packages: where source uses them, and whether a release has them."""

import ast
import importlib
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

OURS = ("extractkit", "tests", "benchmarks", "experiments")

_MODULES = (
    "ai_edge_litert._",
    "hydra._internal.",
    "hydra.core.config_search_path.",
    "hydra.core.override_parser.",
    "hydra.version.",
    "keras.src.",
    "tensorflow.python.",
    "tf_keras.src.",
)
# Documented although they begin with an underscore.
_PUBLIC = {"_exit", "_fields", "_replace", "_asdict"}
_BY_NAME = ("getattr", "hasattr", "setattr", "delattr", "patched", "attribute")


def check(distribution: str, name: str, purpose: str, objects: Mapping[str, object]) -> None:
    """Fail with a sentence if the installed release lacks a name.

    Args:
        distribution: The distribution package that has it.
        name: `module:attribute.attribute`, or `object:attribute` for one of `objects`.
        purpose: The file that uses it, and what for.
        objects: Instances, for attributes that their class does not show.
    """
    root, _, attributes = name.partition(":")
    try:
        value: object = objects[root] if root in objects else importlib.import_module(root)
        for attribute in attributes.split(".") if attributes else ():
            value = getattr(value, attribute)
    except (ImportError, AttributeError):
        version = metadata.version(distribution)
        pytest.fail(f"{distribution} {version} lacks {name}, used in {purpose}", pytrace=False)


def unlisted(path: str, names: Mapping[str, str]) -> set[str]:
    """Return the private names that a file uses and `names`, as for `check`, does not list."""
    tree = parsed(path)
    listed = {part for name in names for part in name.replace(":", ".").split(".")}
    used = {name.rstrip(".").rpartition(".")[2] for _, name in private_uses(tree, defined(tree))}
    return used - listed


def parsed(path: str) -> ast.Module:
    """Return the syntax tree of a file, by its path from the root."""
    return ast.parse((ROOT / path).read_text("utf-8"))


def defined(tree: ast.Module) -> set[str]:
    """Return the names with a leading underscore that a file itself defines."""
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                found.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                found.add(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                found.add(name)
    return {name for name in found if name.startswith("_")}


def own_private_uses(tree: ast.Module, own: set[str]) -> Iterator[tuple[int, str]]:
    """Yield line and name of each use of a private name of ours from outside its class or module.

    Args:
        tree: A file of tests.
        own: Names with a leading underscore that our modules define.
    """
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module), names=aliases):
                ours = module.split(".")[0] in OURS
                found = [one.name for one in aliases if ours and one.name in own]
            case ast.Attribute(value=value, attr=name):
                inside = isinstance(value, ast.Name) and value.id in ("self", "cls")
                found = [name] if name in own and not inside else []
            case ast.Call(args=arguments):
                texts = [one.value for one in arguments if isinstance(one, ast.Constant)]
                words = [str(text).rpartition(".")[2] for text in texts]
                by_name = getattr(node.func, "attr", getattr(node.func, "id", "")) in _BY_NAME
                found = [word for word in words if by_name and word in own]
            case _:
                continue
        for name in found:
            yield node.lineno, name


def private_uses(tree: ast.Module, own: set[str]) -> Iterator[tuple[int, str]]:
    """Yield line and name of each use of a private name of another package.

    Args:
        tree: The file.
        own: Names with a leading underscore that are not another package's.
    """
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                found = [alias.name for alias in aliases if _is_private(alias.name)]
            case ast.ImportFrom(module=str(module), names=aliases):
                imported = [f"{module}.{alias.name}" for alias in aliases]
                found = [name for name in imported if _is_private(name)]
            case ast.Attribute(value=value, attr=name):
                of_ours = isinstance(value, ast.Name) and value.id in ("self", "cls")
                found = [name] if not of_ours and _is_hidden(name, own) else []
            case ast.Call(func=ast.Name(id=called), args=[_, ast.Constant(value=str(name)), *_]):
                found = [name] if called in _BY_NAME and _is_hidden(name, own) else []
            case ast.Constant(value=str(text)) if id(node) not in docstrings:
                found = [text] if f"{text}.".startswith(_MODULES) else []
            case _:
                continue
        for name in found:
            yield getattr(node, "lineno", 0), name


def _is_private(module: str) -> bool:
    ours = module.partition(".")[0] in OURS
    # Relative to a package of another library: `from package._module import name`.
    hidden = any(_is_hidden(part, set()) for part in module.split("."))
    return f"{module}.".startswith(_MODULES) or (hidden and not ours)


def _is_hidden(name: str, own: set[str]) -> bool:
    if name == "__internal__":
        return True
    return (
        name.startswith("_")
        and not name.startswith("__")
        and name not in own
        and name not in _PUBLIC
    )
