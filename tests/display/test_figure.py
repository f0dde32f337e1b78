"""`extractkit show RUN --figure FILE`."""

import importlib
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from extractkit import cli
from extractkit.display import run as figures
from extractkit.display.run import draw
from extractkit.errors import ConfigError, MissingExtraError, RunDirectoryError
from extractkit.runs.drift import Drift, Moved, TensorDrift
from extractkit.runs.manifest import Status
from tests.engine.examples import executed, job
from tests.runs.trajectory_examples import made, started

MAGIC = {".png": b"\x89PNG\r\n\x1a\n", ".pdf": b"%PDF-", ".svg": b"<?xml"}


@pytest.fixture
def matplotlib() -> ModuleType:
    return pytest.importorskip("matplotlib")


def drift(count: int = 4, tensors: int = 2) -> Drift:
    def series(at: int) -> Moved:
        values = tuple(at + n / 10 for n in range(count))
        return Moved(values, (None, *values[1:]), (1.0,) * count)

    moved = {f"layer_{at}:output": TensorDrift(series(at), series(at)) for at in range(tensors)}
    return Drift(tuple(f"step_{n}" for n in range(count)), moved)


def panels(found: Drift, steps: list[int] | None = None) -> list[Any]:
    """Its axes, row by row: relative norm, cosine, CKA; from the first, from the one before."""
    whole = figures.figure(found, steps or [])
    whole.draw_without_rendering()
    return list(whole.axes)


# ---- with matplotlib


@pytest.mark.parametrize("ending", MAGIC)
def test_a_figure_of_a_run_is_written_in_the_format_of_its_ending(
    ending: str, matplotlib: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made(tmp_path / "run").path
    path = tmp_path / f"drift{ending}"
    assert cli.execute(["show", str(run), "--figure", str(path)]) == cli.DONE
    assert path.read_bytes().startswith(MAGIC[ending])
    assert "start, middle, end" in capsys.readouterr().out
    if ending == ".svg":
        ET.parse(path)
    with pytest.raises(
        ConfigError, match=r"^--figure='.*' exists\. Choose another name, or remove "
    ):
        cli.execute(["show", str(run), "--figure", str(path)])


def test_every_line_is_a_series_of_the_drift(matplotlib: ModuleType) -> None:
    found = drift()
    for panel, (column, measure) in zip(
        panels(found, [0, 10, 200, 300]),
        [
            (column, measure)
            for measure in ("relative_norm", "cosine", "cka")
            for column in ("from_first", "from_previous")
        ],
        strict=True,
    ):
        lines = {line.get_label().strip(): line for line in panel.lines}
        assert set(lines) == set(found.tensors)
        for key, moved in found.tensors.items():
            expected = getattr(getattr(moved, column), measure)
            assert lines[key].get_xdata() == pytest.approx([0, 10, 200, 300])
            np.testing.assert_array_equal(
                lines[key].get_ydata(), np.array(expected, float), err_msg=f"{column} {measure}"
            )


def test_without_steps_checkpoints_stand_in_their_order_with_labels(matplotlib: ModuleType) -> None:
    bottom = panels(drift(30))[-1]
    ticks = [text.get_text() for text in bottom.get_xticklabels()]
    assert ticks == [f"step_{n}" for n in range(0, 30, 3)]
    assert bottom.get_xlabel() == "checkpoint"
    assert panels(drift(), [1, 2, 3, 4])[-1].get_xlabel() == "step"


def test_of_many_tensors_those_that_moved_most_are_drawn(matplotlib: ModuleType) -> None:
    lines = panels(drift(tensors=40))[0].lines
    assert [line.get_label().strip() for line in lines] == [
        f"layer_{n}:output" for n in range(28, 40)
    ]


@pytest.mark.parametrize(
    "name", ["$x^$", "_hidden", "a$b", r"\alpha$_$", "[bold]", "é漢字\x1b[31m"]
)
def test_names_are_no_formulas(name: str, matplotlib: ModuleType, tmp_path: Path) -> None:
    whole = drift(2, 1)
    (moved,) = whole.tensors.values()
    odd = Drift((name, f"{name}2"), {name: moved})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        draw(odd, tmp_path / "f.png")
        assert len(panels(odd)[0].lines) == 1


# ---- mistakes


@pytest.mark.parametrize("name", ["drift", "drift.gif", "drift.jpg"])
def test_another_ending_is_refused_before_anything_is_drawn(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        draw(drift(), tmp_path / name)
    assert str(caught.value).startswith(
        f"--figure={str(tmp_path / name)!r} does not end like a figure. "
    )
    assert "'.svg'" in str(caught.value)


def test_a_place_that_cannot_be_written_to_is_reported(
    matplotlib: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "taken.png").mkdir()
    for path, why in (("no/f.png", "No such file or directory"), ("taken.png", "Is a directory")):
        with pytest.raises(ConfigError) as caught:
            draw(drift(), tmp_path / path)
        assert str(caught.value) == (
            f"--figure={str(tmp_path / path)!r} cannot be written: {why}. Choose another file"
        )


def test_without_matplotlib_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = importlib.import_module

    def missing(name: str, package: str | None = None) -> ModuleType:
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(name)
        return imported(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingExtraError) as caught:
        draw(drift(), tmp_path / "f.png")
    assert str(caught.value) == (
        "show --figure needs matplotlib, which is not installed. "
        "Install it: python -m pip install 'extractkit[plot]'"
    )
    assert not (tmp_path / "f.png").exists()


def test_a_run_without_checkpoints_has_nothing_to_draw(tmp_path: Path) -> None:
    run = executed(tmp_path / "run", job({"path": "pool:output"})).path
    with pytest.raises(RunDirectoryError) as caught:
        cli.execute(["show", str(run), "--figure", str(tmp_path / "f.png")])
    assert str(caught.value).startswith(
        f"{run} has no checkpoints, so there is nothing to draw. A figure shows how "
    )
    assert not (tmp_path / "f.png").exists()


def test_nor_has_one_that_is_not_finished(tmp_path: Path) -> None:
    example = made(tmp_path / "whole")
    recorder = started(
        tmp_path / "run",
        "hdf5",
        steps=False,
        samples=example.samples,
        constants=example.constants,
    )
    recorder.fail(Status.INTERRUPTED)
    with pytest.raises(RunDirectoryError, match="is not finished, so there is nothing to draw"):
        cli.execute(["show", str(tmp_path / "run"), "--figure", str(tmp_path / "f.png")])
