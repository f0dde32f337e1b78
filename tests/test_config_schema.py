"""The JSON schema of the configuration: it takes what extractkit takes, and marks mistakes."""

import json
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from extractkit.config import config_directory
from extractkit.core.job import SETTINGS
from extractkit.core.selectors import SELECTOR_KEYS
from extractkit.errors import ConfigError

DOCS = Path(__file__).parents[1] / "docs"
sys.path.insert(0, str(DOCS / "_ext"))

from declared import SCHEMA_FILE, entries, schema_text  # noqa: E402

# What is for Hydra is no part of a job.
FILES = sorted(
    file for file in config_directory().rglob("*.yaml") if file.parent.parent.name != "hydra"
)
GROUPS = ("model", "inputs", "selectors", "sinks", "runtime")


@cache
def validator(group: str | None = None) -> Any:
    """Return the validator of files of a group; without one, of files with a whole job."""
    schema = json.loads(SCHEMA_FILE.read_text("utf-8"))
    if group is not None:
        schema = {"$ref": f"#/$defs/{group}", "$defs": schema["$defs"]}
    return jsonschema.Draft7Validator(schema)


def mistakes(document: object, group: str | None = None) -> list[str]:
    """Return where a document does not fit."""
    return [
        ".".join(map(str, error.absolute_path)) for error in validator(group).iter_errors(document)
    ]


def test_it_is_what_the_declarations_say() -> None:
    assert SCHEMA_FILE.read_text("utf-8") == schema_text(), "run `make conf`"
    validator().check_schema(json.loads(schema_text()))


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_it_takes_every_file_of_the_configuration(file: Path) -> None:
    group = file.parent.name if file.parent.name in GROUPS else None
    assert mistakes(yaml.safe_load(file.read_text("utf-8")), group) == []


@pytest.mark.parametrize(
    "page", [page for page in DOCS.rglob("*.md") if "```yaml\n" in page.read_text("utf-8")]
)
def test_it_takes_the_jobs_that_pages_show(page: Path) -> None:
    blocks = page.read_text("utf-8").split("```yaml\n")[1:]
    for block in blocks:
        document = yaml.safe_load(block.partition("```")[0])
        if isinstance(document, dict) and document.keys() <= {"defaults", "hydra", *GROUPS}:
            assert mistakes(document) == [], block


@pytest.mark.parametrize(
    ("document", "at"),
    [
        ({"modle": {}}, [""]),
        ({"inputs": None}, ["inputs"]),
        ({"runtime": {"batchsize": 3}}, ["runtime"]),
        ({"runtime": {"batch_size": 0}}, ["runtime.batch_size"]),
        ({"runtime": {"compile": "jit"}}, ["runtime.compile"]),
        ({"defaults": [{"override /model": "keras"}], "model": {"pth": "a.keras"}}, ["model"]),
        ({"defaults": [{"model": "tflite"}], "model": {"safe_mode": True}}, ["model"]),
        ({"selectors": {"mine": {"pathh": "*"}}}, ["selectors.mine"]),
        ({"selectors": {"attention": None}}, ["selectors.attention"]),
        ({"selectors": {"mine": {"any": [{"kind": "op", "knd": 1}]}}}, ["selectors.mine.any"]),
        ({"selectors": {"my-own": {"path": "*"}}}, ["selectors"]),
        ({"model": {"_target_": "extractkit.models.keras_file.load", "pth": "a"}}, ["model"]),
    ],
)
def test_it_marks_mistakes(document: Mapping[str, object], at: list[str]) -> None:
    assert mistakes(document) == at


@pytest.mark.parametrize(
    "document",
    [
        {"model": {"_target_": "mine.load", "depth": 3}},  # code of the user's own
        {"defaults": [{"override /model": "mine"}], "model": {"depth": 3}},
        {
            "defaults": [{"override /model": "keras"}],
            "model": {"_target_": "mine.load", "depth": 3},
        },
        {"model": {"path": "${oc.env:MODEL}"}, "runtime": {"batch_size": "${oc.env:B}"}},
        {"runtime": {"batch_size": "auto", "batch_tokens": None}},
        {"runtime": None},
        {"selectors": {"a": {"not": {"kind": "op"}, "feeds": [{"kind": "op"}], "any": None}}},
        {"sinks": {"mine": {"_target_": "mine.Sink", "rows": 3}, "hdf5": {"compression": "lzf"}}},
    ],
)
def test_it_takes_what_it_cannot_know(document: Mapping[str, object]) -> None:
    assert mistakes(document) == []


VALUES = st.one_of(
    *(st.none(), st.booleans(), st.integers(-3, 2000), st.text("agrx", max_size=5)),
    st.floats(0, 10).filter(lambda number: not number.is_integer()),  # JSON has one kind of 1
    st.sampled_from(["auto", "graph", "local", "skip"]),
)


@given(st.data())
def test_it_takes_a_setting_if_and_only_if_the_job_takes_it(data: st.DataObject) -> None:
    """A form of its own, such as a part, is a text with a format that only the job knows."""
    key = data.draw(st.sampled_from(SETTINGS))
    value = data.draw(VALUES)
    try:
        key.parse(value)
    except ConfigError:
        refused = True
    else:
        refused = False
    marked = bool(mistakes({key.name: value}, "runtime"))
    if type(key.form).__module__ == "extractkit.core.keys":
        assert marked is refused
    else:
        assert refused or not marked


def test_every_key_is_offered() -> None:
    definitions = json.loads(SCHEMA_FILE.read_text("utf-8"))["$defs"]
    assert {*definitions["selector"]["properties"]} == {*SELECTOR_KEYS}
    assert {*definitions["runtime"]["properties"]} == {key.name for key in SETTINGS}
    for group in ("model", "inputs", "sinks"):
        for entry in entries(group):
            offered = definitions[f"{group}.{entry.name}"]["properties"]
            assert {key.name for key in entry.keys} <= {*offered}
