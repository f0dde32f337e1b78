"""The reference has an entry for whatever is public: names of Python and configuration keys."""

import pkgutil
import re
import sys
from pathlib import Path

import pytest

import extractkit
import extractkit.testing
from extractkit import errors

DOCS = Path(__file__).parents[1] / "docs"
sys.path.insert(0, str(DOCS / "_ext"))

from config_group import CONF, entries  # noqa: E402

GROUPS = [folder.name for folder in sorted(CONF.iterdir()) if folder.is_dir()]


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
def test_every_group_has_a_section_and_every_key_a_description(group: str) -> None:
    page = (DOCS / "reference" / "configuration.md").read_text("utf-8")
    assert f"```{{config-group}} {group}\n" in page
    for entry in entries(group):
        assert entry.intro or group == "runtime", entry.name
        for key in entry.keys if group != "selectors" else ():
            assert key.description, f"conf/{group}/{entry.name}.yaml: {key.name}"


def test_keys_are_read_with_their_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(
        "# My model.\n#\n#   extractkit tensors model=mine\n_target_: a.b\n"
        "path: ???  # the file\n# one of\nmode: null # fast, slow\n",
        "utf-8",
    )
    monkeypatch.setattr("config_group.CONF", tmp_path)
    (entry,) = entries("model")
    assert entry.intro == "My model.\n\n    extractkit tensors model=mine"
    assert [(key.name, key.default, key.description) for key in entry.keys] == [
        ("path", "???", "the file"),
        ("mode", "null", "one of fast, slow"),
    ]
