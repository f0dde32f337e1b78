"""Plugins that cannot be used, or do other things than they predict: nothing is stored."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from extractkit.core.statistics import registry as statistics
from extractkit.core.transforms import registry as transforms
from extractkit.engine import Silent
from extractkit.engine.execute import execute
from extractkit.engine.preview import preview
from extractkit.errors import ConfigError, SelectionError
from extractkit.runs.reader import open_run
from tests.engine.examples import job

IMPORTS = """
from dataclasses import dataclass, replace
from typing import ClassVar
import numpy as np
from extractkit.core.spec import Dim
from extractkit.core.statistics import features
from extractkit.core.transforms import Axis
from extractkit.core.transforms.elementwise import Abs
from extractkit.core.statistics.counts import Sparsity
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for installed packages."""
    folder = tmp_path / "site"
    folder.mkdir()
    with monkeypatch.context() as context:
        context.syspath_prepend(str(folder))
        yield folder
    for module in ("odd_pack", "other_pack"):
        sys.modules.pop(module, None)
    for plugins in (transforms.PLUGINS, statistics.PLUGINS):
        plugins.clear()


def installed(
    site: Path, code: str, *, name: str = "odd", package: str = "odd-pack", kind: str = "transforms"
) -> None:
    """Install a distribution whose module holds a class `Odd`."""
    module = package.replace("-", "_")
    info = site / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[extractkit.{kind}]\n{name} = {module}:Odd\n")
    (site / f"{module}.py").write_text(IMPORTS + code)
    for plugins in (transforms.PLUGINS, statistics.PLUGINS):
        plugins.clear()


def refused(tmp_path: Path, **selector: object) -> str:
    """The message with which a plan and a run refuse a job."""
    messages = []
    for attempt in (
        lambda mine: execute(mine, tmp_path / "run", hydra_files={}, listener=Silent()),
        lambda mine: preview(mine, tmp_path / "run"),
    ):
        with pytest.raises((ConfigError, SelectionError)) as caught:
            attempt(job({"path": "embedding:output", **selector}))
        messages.append(str(caught.value))
        assert not (tmp_path / "run").exists()
    assert messages[0] == messages[1]
    return messages[0]


CLASS = "class Odd(Abs):\n    name = 'odd'\n"
AT = "selectors.s0.do.0.odd: "
AUTHOR = ". Its author finds such defects with extractkit.testing.transforms.TransformContract"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "def in_numpy(self, operand, value): return [value.astype('float64')]",
            "in its NumPy form the result is float64, and its spec has float32",
        ),
        (
            "def in_graph(self, tf, operand, value): return [tf.cast(value.tensor, 'float64')]",
            "in its graph form the result is float64, and its spec has float32",
        ),
        (
            "def in_numpy(self, operand, value): return [value.sum(-1)]",
            "in its NumPy form the result has 2 axes, and its spec 3",
        ),
        (
            "def results(self, operand):\n"
            "        axis = Axis(Dim('odd', 7))\n"
            "        return {'': operand.with_axis(len(operand.axes) - 1, axis)}",
            "in its NumPy form the result has 4 elements along axis 2, and its spec 7",
        ),
        (
            "def lengths(self, xp, operand, lengths):\n"
            "        return [{axis: one // 2 for axis, one in lengths.items()}]",
            "in its NumPy form the result has 16 elements along axis 1, and `lengths` predicts 8",
        ),
        (
            "def lengths(self, xp, operand, lengths): return [{2: lengths[1]}]",
            "in its NumPy form `lengths` has axis 2 of the result, which is not a ragged one",
        ),
        (
            "def results(self, operand): return {'': operand, 'more': operand}",
            "in its NumPy form it returns 1 results, and its spec has 2",
        ),
        (
            "def in_numpy(self, operand, value): raise RuntimeError('no luck')",
            "its NumPy form fails on float32 zeros of shape [1, 16, 4]: RuntimeError: no luck",
        ),
        (
            "def in_graph(self, tf, operand, value): return [value.no_such_thing]",
            "its graph form fails on float32 zeros of shape [1, 16, 4]: AttributeError: 'Masked' "
            "object has no attribute 'no_such_thing'",
        ),
    ],
)
def test_a_transform_that_does_something_else_is_refused(
    body: str, message: str, site: Path, tmp_path: Path
) -> None:
    installed(site, f"{CLASS}    {body}\n")
    expected = f"{AT}the transform 'odd' of odd-pack has a defect: {message}{AUTHOR}"
    assert refused(tmp_path, do=["odd"]) == expected


def test_a_defect_is_found_behind_other_steps(site: Path, tmp_path: Path) -> None:
    body = "def in_numpy(self, operand, value): return [value.astype('float64')]"
    installed(site, f"{CLASS}    {body}\n")
    do = [{"slice": {"token": "1:"}}, {"topk": {"axis": 2, "k": 2}}, "odd", {"mean": "token"}]
    assert refused(tmp_path, do=do).startswith(
        "selectors.s0.do.2.odd: the transform 'odd' of odd-pack has a defect: in its NumPy form "
        "the result is float64, and its spec has float32"
    )


NEEDS_ELEMENTS = """
    def in_numpy(self, operand, value):
        assert value.max() <= 9  # which has no value for no elements
        return [{}]
"""


@pytest.mark.parametrize("taken", ["20:30", "-900:-800"])
def test_a_transform_is_tried_on_as_many_elements_as_a_slice_needs(
    taken: str, site: Path, tmp_path: Path
) -> None:
    installed(site, CLASS + NEEDS_ELEMENTS.format("value"))
    mine = {"path": "embedding:output", "do": [{"slice": {"token": taken}}, "odd"]}
    preview(job(mine, inputs=["ab " * 900]), tmp_path)


@pytest.mark.parametrize("taken", ["20:30", "-900:-800"])
def test_a_defect_is_found_behind_a_slice_far_from_the_start(
    taken: str, site: Path, tmp_path: Path
) -> None:
    installed(site, CLASS + NEEDS_ELEMENTS.format("value.astype('float64')"))
    message = refused(tmp_path, do=[{"slice": {"token": taken}}, "odd"])
    assert "in its NumPy form the result is float64" in message


STATISTIC = "class Odd(Sparsity):\n    name = 'odd'\n"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "def partial_bytes(self, operand): return 3",
            "its partial result has 40 bytes, and `partial_bytes` predicts 3",
        ),
        (
            "def merge(self, one, other): return {**super().merge(one, other), 'more': 3}",
            "it merges ['count', 'zeros'] to ['count', 'more', 'zeros']",
        ),
        ("def finish(self, partial): return {'share': 3}", "'share' is int, not an array"),
        (
            "def of(self, block): raise RuntimeError('no luck')",
            "it fails on zeros of shape [1, 16, 4]: RuntimeError: no luck",
        ),
    ],
)
def test_a_statistic_that_does_something_else_is_refused(
    body: str, message: str, site: Path, tmp_path: Path
) -> None:
    installed(site, f"{STATISTIC}    {body}\n", kind="statistics")
    assert refused(tmp_path, statistics=["odd"]) == (
        f"selectors.s0.statistics.0.odd: the statistic 'odd' of odd-pack has a defect: {message}"
        f". Its author finds such defects with extractkit.testing.statistics.StatisticContract"
    )


def test_a_statistic_of_a_package_is_computed_and_its_version_recorded(
    site: Path, tmp_path: Path
) -> None:
    installed(site, STATISTIC, kind="statistics")
    mine = job({"path": "embedding:output", "statistics": ["odd", "sparsity"]})
    execute(mine, tmp_path / "run", hydra_files={}, listener=Silent())
    run = open_run(tmp_path / "run")
    assert run.manifest.plugins == ("odd-pack",)
    assert run.manifest.versions["odd-pack"] == "1.0"
    found = run.statistics["embedding:output"]
    assert (found.odd.zeros == found.sparsity.zeros).all()


KINDS = [("transforms", {"do": ["odd"]}), ("statistics", {"statistics": ["odd"]})]


@pytest.mark.parametrize(("kind", "selector"), KINDS)
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import nothing_of_this_name", "cannot be imported: ModuleNotFoundError("),
        ("Odd = 3", "is not a class whose `name` is 'odd'"),
        ("class Odd(Abs): pass", "is not a class whose `name` is 'odd'"),
        ("", "cannot be imported: AttributeError("),
        ("class Odd: name = 'odd'", "does not define parse, "),
    ],
)
def test_a_plugin_that_is_no_plugin_is_refused(
    kind: str, selector: dict[str, object], code: str, message: str, site: Path, tmp_path: Path
) -> None:
    installed(site, code, kind=kind)
    found = refused(tmp_path, **selector)
    noun = kind.removesuffix("s")
    at = f"selectors.s0.{next(iter(selector))}.0"
    assert found.startswith(at)
    assert f"the {noun} 'odd' of odd-pack, odd_pack:Odd, {message}" in found


@pytest.mark.parametrize(("kind", "selector"), KINDS)
def test_two_plugins_of_one_name_are_refused(
    kind: str, selector: dict[str, object], site: Path, tmp_path: Path
) -> None:
    installed(site, CLASS, kind=kind)
    installed(site, CLASS, package="other-pack", kind=kind)
    assert refused(tmp_path, **selector).endswith(
        f": 'odd' is a {kind.removesuffix('s')} of several packages: odd-pack and other-pack. "
        f"Uninstall all but one"
    )


@pytest.mark.parametrize("kind", ["transforms", "statistics"])
def test_a_plugin_of_the_name_of_an_own_one_changes_nothing(kind: str, site: Path) -> None:
    room = transforms if kind == "transforms" else statistics
    name = {"transforms": "mean", "statistics": "moments"}[kind]
    before = room.names()
    installed(site, f"class Odd(Abs):\n    name = {name!r}\n", name=name, kind=kind)
    assert room.names() == before
    assert room.PLUGINS.distribution(name) is None
