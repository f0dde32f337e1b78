"""Each configuration key is declared once, and read."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import extractkit
from extractkit.config import config_directory
from extractkit.config.declared import entries
from extractkit.core.catalog import Kind
from extractkit.core.job import SETTINGS
from extractkit.core.selectors import PREDICATE_KEYS, SELECTOR_KEYS
from extractkit.core.transforms import REDUCTIONS, TRANSFORMS

SOURCE = sorted(Path(extractkit.__file__).parent.rglob("*.py"))
NAMES = [key.name for key in SETTINGS]


def attributes_read(of: str) -> Iterator[str]:
    """Yield the attributes that the source reads from what is called `of`."""
    for path in SOURCE:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute):
                owner = node.value
                name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
                if name.strip("_") == of:
                    yield node.attr


@pytest.mark.parametrize("group", ["runtime"])
def test_a_configuration_file_is_what_the_declarations_say(group: str) -> None:
    for entry in entries(group):
        assert entry.path.read_text("utf-8") == entry.text(), "run `make conf`"


def test_every_key_of_runtime_is_described_and_read() -> None:
    read = {*attributes_read("runtime")}
    for key in SETTINGS:
        assert re.fullmatch(r"[^\n]{20,}\.", key.description), key.name
        assert key.name in read, f"runtime.{key.name} is declared, and no code reads it"


def test_no_message_or_page_names_a_key_of_runtime_that_is_not_declared() -> None:
    root = Path(__file__).parents[1]
    pages = [*root.glob("docs/**/*.md"), root / "README.md", *config_directory().rglob("*.yaml")]
    history = ("changelog.md", "upgrades.py", "advice.py")
    for path in [one for one in [*SOURCE, *pages] if one.name not in history]:
        text = path.read_text("utf-8")
        for name in re.findall(r"(?<![\w.@/`])runtime\.([a-z]\w*)(?==)", text):
            assert name in NAMES, f"{path}: runtime.{name}"


def test_every_key_of_a_selector_is_described() -> None:
    described = {key.name: key.description for key in (*PREDICATE_KEYS, *TRANSFORMS)}
    assert tuple(described) == SELECTOR_KEYS
    assert all(described.values())
    assert all(f"`{kind}`" in described["kind"] for kind in Kind)
    assert all(f"`{name}`" in described["reduce"] for name in REDUCTIONS)
