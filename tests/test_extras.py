"""The extras: declared once in the code, and the same in pyproject.toml and in the guide."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

import extractkit
from extractkit.config import GROUPS, options
from extractkit.core.extras import CORE, EXTRAS, Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
USES = [use for extra in EXTRAS for use in extra.serves]


def written(requirements: tuple[Requirement, ...]) -> list[str]:
    return [f"{one.name}{one.bounds}" for one in requirements]


def test_they_require_what_the_project_declares() -> None:
    declared = dict(PROJECT["optional-dependencies"])
    del declared["all"]
    assert declared["keras-hub"] == ["extractkit[bert]"]
    declared["keras-hub"] = declared["bert"]
    assert {one.name: written(one.requires) for one in EXTRAS} == declared
    assert written(CORE) == PROJECT["dependencies"]


def test_each_use_has_one_extra_and_exists() -> None:
    assert len({*USES}) == len(USES)
    chosen = [use.split("=") for use in USES if re.fullmatch(r"\w+=\w+", use)]
    assert len(chosen) > 4
    for group, name in chosen:
        assert group in GROUPS, group
        assert name in options(group)


def test_what_messages_ask_for_is_declared() -> None:
    """An undeclared use would end the program by a KeyError in the place of its message."""
    asked = {
        argument.value
        for file in Path(extractkit.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if node.func.id in ("require", "install") and node.args
        for argument in node.args[-1:]
        if isinstance(argument, ast.Constant)
    }
    assert {"inputs=parquet", "model=tflite", "to_xarray"} <= asked <= {*USES}


def test_the_guide_has_a_row_for_each() -> None:
    guide = (ROOT / "docs" / "how-to" / "install.md").read_text("utf-8")
    rows = re.findall(r"^\| (`[^|]+`) \|[^|]*\| (.*) \|$", guide, re.MULTILINE)
    served = {name: text for names, text in rows for name in re.findall(r"`([\w-]+)`", names)}
    assert {*served} == {one.name for one in EXTRAS}
    for extra in EXTRAS:
        for use in extra.serves:
            if re.fullmatch(r"\w+=\w+", use):
                assert f"`{use}`" in served[extra.name]


@pytest.mark.parametrize(
    ("bounds", "version", "taken"),
    [
        (">=2.21,<2.22", "2.21.0", True),
        (">=2.21,<2.22", "2.21.1.post1", True),
        (">=2.21,<2.22", "2.22.0rc0", False),
        (">=2.21,<2.22", "2.9", False),
        (">=3.10", "3.10.0", True),
        (">=2.0", "2", True),
        ("==0.1.0", "0.1", True),
        ("==0.1.0", "0.1.1", False),
        ("<5", "4.57.3", True),
        ("<5", "5", False),
        ("", "unknown", True),
    ],
)
def test_a_release_is_taken_or_not(bounds: str, version: str, taken: bool) -> None:
    assert Requirement("x", bounds).takes(version) is taken


def test_a_requirement_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match="'x ~= 1' is not a requirement of the form NAME>=A,<B"):
        Requirement.parse("x ~= 1")
