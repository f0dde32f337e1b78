"""The reference has an entry for whatever is public: names of Python and configuration keys."""

import pkgutil
import re
import sys
from pathlib import Path

import pytest

import extractkit
import extractkit.testing
from extractkit import errors
from extractkit.config import GROUPS
from extractkit.config.declared import entries

DOCS = Path(__file__).parents[1] / "docs"
sys.path.insert(0, str(DOCS / "_ext"))

from config_group import section  # noqa: E402


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


@pytest.mark.parametrize("group", sorted({*GROUPS} - {"experiment"}))
def test_every_group_has_a_section_with_every_key(group: str) -> None:
    page = (DOCS / "reference" / "configuration.md").read_text("utf-8")
    assert f"```{{config-group}} {group}\n" in page
    for entry in entries(group):
        assert entry.intro or group == "runtime", entry.name
        text = section(group, entry)
        for key in entry.keys:
            assert f".{key.name}` (default `{key.written}`)\n: {key.description}" in text
