"""Each configuration key is declared once, and read."""

import ast
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from inspect import isclass
from pathlib import Path
from typing import Annotated

import pytest

import extractkit
from extractkit.config import config_directory
from extractkit.core.catalog import Kind
from extractkit.core.component import IMPORTS_KEY, Component
from extractkit.core.job import SETTINGS
from extractkit.core.keys import (
    DecidesLayout,
    DecidesValues,
    Effect,
    Whole,
    effects_of,
    keys_of,
    settings_of,
)
from extractkit.core.predicates import PREDICATE_KEYS
from extractkit.core.rollout import ROLLOUT_KEY
from extractkit.core.selectors import SELECTOR_KEYS, STATISTICS_KEY, TAKE
from extractkit.core.targets import GRADIENT_KEY
from extractkit.core.transforms.pipeline import TRANSFORMS
from extractkit.core.transforms.registry import REDUCTIONS
from extractkit.core.trust import OWN

sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "_ext"))

from declared import DECLARED_GROUPS, Entry, entries

SOURCE = sorted(Path(extractkit.__file__).parent.rglob("*.py"))


def attributes_read(of: str) -> Iterator[str]:
    """Yield the attributes that the source reads from what is called `of`."""
    for path in SOURCE:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute):
                owner = node.value
                name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
                if name.strip("_") == of:
                    yield node.attr


@pytest.mark.parametrize("group", DECLARED_GROUPS)
def test_a_configuration_file_is_what_the_declarations_say(group: str) -> None:
    for entry in entries(group):
        assert entry.path.read_text("utf-8") == entry.text(), "run `make conf`"


def test_every_key_of_runtime_is_described_and_read() -> None:
    read = {*attributes_read("runtime")}
    for key in SETTINGS:
        assert re.fullmatch(r"[^\n]{20,}\.", key.description), key.name
        assert key.name in read, f"runtime.{key.name} is declared, and no code reads it"


@pytest.mark.parametrize("group", ["model", "inputs", "runtime"])
def test_no_message_or_page_names_a_key_that_is_not_declared(group: str) -> None:
    root = Path(__file__).parents[1]
    pages = [*root.glob("docs/**/*.md"), root / "README.md", *config_directory().rglob("*.yaml")]
    history = ("changelog.md", "upgrades.py", "advice.py", "old-runs.md")
    declared = {key.name for entry in entries(group) for key in entry.keys}
    for path in [one for one in [*SOURCE, *pages] if one.name not in history]:
        text = path.read_text("utf-8")
        for name in re.findall(rf"(?<![\w.@/`]){group}\.([a-z]\w*)(?==)", text):
            assert name in declared, f"{path}: {group}.{name}"


def test_a_setting_without_a_declared_effect_is_refused() -> None:
    @dataclass(frozen=True)
    class Mine:
        declared: Annotated[int, Whole(), Effect.LAYOUT, "A number."] = 1
        batch: int = 3

    with pytest.raises(TypeError, match=r"Mine\.batch does not declare a key: annotate it with"):
        settings_of(Mine)


OF_SELECTORS = (*PREDICATE_KEYS, TAKE, GRADIENT_KEY, ROLLOUT_KEY, *TRANSFORMS, STATISTICS_KEY)


def test_every_key_of_a_selector_is_described() -> None:
    described = {
        key.name: key.description
        for key in (*PREDICATE_KEYS, TAKE, GRADIENT_KEY, ROLLOUT_KEY, *TRANSFORMS, STATISTICS_KEY)
    }
    assert tuple(described) == SELECTOR_KEYS
    assert all(described.values())
    assert all(f"`{kind}`" in described["kind"] for kind in Kind)
    assert all(f"`{name}`" in described["reduce"] for name in REDUCTIONS)


COMPONENTS = [
    pytest.param(entry, id=f"{group}={entry.name}")
    for group in ("model", "inputs", "sinks")
    for entry in entries(group)
]


@pytest.mark.parametrize("entry", COMPONENTS)
def test_every_key_of_a_component_is_described_and_read(entry: Entry) -> None:
    function = Component("inputs", re.findall(r"_target_: (\S+)", entry.head)[-1]).function()
    own = inspect.getsource(sys.modules[function.__module__] if isclass(function) else function)
    read = {
        node.attr if isinstance(node, ast.Attribute) else node.id
        for node in ast.walk(ast.parse(own))
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load)
    }
    for key in entry.keys:
        assert len(key.description) > 5, key.name
        assert key.name in read or key == IMPORTS_KEY, f"{key.name} is declared, and not read"


@pytest.mark.parametrize("target", sorted(OWN))
def test_every_argument_of_a_component_has_an_effect(target: str) -> None:
    for key in keys_of(Component("inputs", target).function()):
        assert key.type, key.name
        assert key.effect in (Effect.VALUES, Effect.LAYOUT, Effect.NONE)


def test_every_key_of_a_selector_has_type_and_effect() -> None:
    for key in OF_SELECTORS:
        assert key.type, key.name
        assert key.effect is Effect.RECORDED, key.name


def test_an_argument_without_an_effect_is_refused() -> None:
    def load(path: DecidesValues[str], size: int = 3) -> None: ...

    with pytest.raises(TypeError, match=r"load: 'size' declares no effect\. Annotate it by what"):
        keys_of(load)


def test_an_argument_of_a_type_that_yaml_lacks_is_refused() -> None:
    def load(path: DecidesValues[Path]) -> None: ...

    with pytest.raises(TypeError, match=r"load: 'path' has a type that YAML does not have: .*Path"):
        keys_of(load)


def test_an_argument_of_foreign_code_decides_values_unless_it_says_otherwise() -> None:
    def load(path: str, cache: Annotated[str, Effect.NONE] = "", **rest: object) -> None: ...

    assert effects_of(load) == {"path": Effect.VALUES, "cache": Effect.NONE}
    assert effects_of(max) == {}


def test_keys_come_from_signature_and_docstring() -> None:
    def load(
        path: DecidesValues[str],
        size: DecidesLayout[int | None],
        mode: DecidesValues[str | Sequence[str]] = "fast",
        axes: DecidesValues[Annotated[object, "list or mapping"]] = None,
        **rest: object,
    ) -> None:
        """Load.

        Args:
            path: The file, which
                may be long.
            mode: True or None.

        Raises:
            mode: Never.
        """

    found = [
        (key.name, key.type, key.written, key.description, key.effect) for key in keys_of(load)
    ]
    assert found == [
        ("path", "text", "???", "The file, which may be long.", Effect.VALUES),
        ("size", "whole number or null", "null", "", Effect.LAYOUT),
        ("mode", "text or list", "fast", "true or null.", Effect.VALUES),
        ("axes", "list or mapping", "null", "", Effect.VALUES),
    ]
