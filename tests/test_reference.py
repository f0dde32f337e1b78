"""The reference has an entry for whatever is public: names of Python and configuration keys."""

import inspect
import pkgutil
import re
import sys
from pathlib import Path

import pytest
import yaml

import extractkit
import extractkit.testing
from extractkit import errors
from extractkit.commands.verbs import VERBS, of_verb, overview
from extractkit.config import GROUPS
from extractkit.core.spec import SAMPLES, Dim, TensorSpec
from extractkit.core.transforms import registry as transforms
from extractkit.core.transforms.pipeline import Pipeline

DOCS = Path(__file__).parents[1] / "docs"
TABLE = "{selector-keys} transforms"
sys.path.insert(0, str(DOCS / "_ext"))

from config_group import section  # noqa: E402
from declared import entries  # noqa: E402


def test_every_public_name_has_an_entry() -> None:
    page = (DOCS / "reference" / "python.md").read_text("utf-8")
    entered = re.findall(r"^\.\. auto\w+:: (\S+)", page, re.MULTILINE)
    public = [f"extractkit.{name}" for name in extractkit.__all__]
    contracts = [
        f"extractkit.testing.{module.name}"
        for module in pkgutil.iter_modules(extractkit.testing.__path__)
    ]
    raised = [f"extractkit.{name}" for name in dir(errors) if name.endswith("Error")]
    assert set(public + contracts + raised) <= set(entered)
    assert set(raised) <= set(public)


def test_every_member_of_a_public_class_is_described() -> None:
    bare = [
        f"{name}.{member}"
        for name in extractkit.__all__
        if inspect.isclass(public := getattr(extractkit, name))
        for member, value in vars(public).items()
        if not member.startswith("_") and _is_bare(value)
    ]
    assert bare == ["Run.skipped"]  # an error that names what has replaced it


def _is_bare(member: object) -> bool:
    function = getattr(member, "fget", None) or getattr(member, "func", member)
    return callable(function) and not inspect.getdoc(function)


def test_every_verb_has_a_section_with_all_its_options() -> None:
    page = (DOCS / "reference" / "command-line.md").read_text("utf-8")
    sections = re.findall(r"^### (\w+)\n\n```\{program-output\} extractkit (.*)\n```", page, re.M)
    assert sections == [(verb, f"{verb} --help") for verb in VERBS]
    assert "```{program-output} extractkit --help\n```" in page
    for name, verb in VERBS.items():
        _, _, listed = of_verb(name).partition("\nOptions\n")
        for option in verb.options:
            assert f"  {option.typed} " in listed, (name, option)
            assert option.description.split()[0] in listed
            assert f"  {option.typed} " in overview({})


def test_the_keys_of_selectors_have_their_sections() -> None:
    page = (DOCS / "reference" / "selectors.md").read_text("utf-8")
    for kind in ("predicates", "transforms"):
        assert f"```{{selector-keys}} {kind}\n```" in page
    _, _, transforms_section = page.partition(TABLE)
    listed = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", transforms_section, re.MULTILINE)
    assert {*re.findall(r"\w+", " ".join(listed))} == {*transforms.names()}


def examples_of_transforms() -> list[tuple[str, str | None]]:
    """Return the names in the table of transforms with each example of options.

    Those that name a run, which has to exist, are omitted.
    """
    page = (DOCS / "reference" / "selectors.md").read_text("utf-8")
    row = re.compile(r"^\| (`\w+`(?:, `\w+`)*) \|(.*?)\|", re.MULTILINE)
    return [
        (name, options)
        for names, cell in row.findall(page.partition(TABLE)[2])
        for name in re.findall(r"\w+", names)
        for options in re.findall(r"`([^`]+)`", cell) or [None]
        if options is None or "run:" not in options
    ]


@pytest.mark.parametrize(("name", "options"), examples_of_transforms())
def test_every_example_of_a_transform_fits_hidden_states(name: str, options: str | None) -> None:
    given = None if options is None else yaml.safe_load(options)
    if given is None and name == "threshold":
        given = 0.5  # described in words
    spec = TensorSpec("float32", (SAMPLES, Dim.along("token"), Dim(size=384)))
    step = name if given is None else {name: given}
    assert Pipeline.parse({"do": [step]}, "s").bind("a:b", spec)


@pytest.mark.parametrize("group", sorted({*GROUPS} - {"experiment"}))
def test_every_group_has_a_section_with_every_key(group: str) -> None:
    page = (DOCS / "reference" / "configuration.md").read_text("utf-8")
    assert f"```{{config-group}} {group}\n" in page
    for entry in entries(group):
        assert entry.intro or group == "runtime", entry.name
        text = section(group, entry)
        for key in entry.keys:
            assert (
                f".{key.name}` ({key.type}; default `{key.written}`)\n: {key.description}" in text
            )
            assert f"*{key.effect.value.capitalize()}.*" in text
