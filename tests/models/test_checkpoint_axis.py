"""An axis of checkpoints: choosing usable files, reporting the others, and loading."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

from extractkit.core.checkpoints import ExcludedCheckpoint
from extractkit.errors import ConfigError, JobError, ModelError
from extractkit.models import given_weights as axes
from extractkit.models.checkpoint import load as load_weights_alone
from extractkit.models.given_weights import WeightFiles, checkpoint_axis
from extractkit.models.weight_files import WeightFile, keras_hdf5

Arrays = Mapping[str, np.ndarray]

USUAL: Arrays = {"layer/kernel": np.ones((2, 3), np.float32), "layer/bias": np.zeros(3, np.float32)}


class Model:
    """Remembers what it was given; refuses kernels that are not (2, 3)."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def load(self, file: WeightFile) -> None:
        self.loaded.append(Path(file.path).name)
        if file.entry("layer/kernel").shape != (2, 3):
            raise ModelError(f"model.checkpoints={file.path!r} does not fit.")


def h5(path: Path, arrays: Arrays = USUAL) -> str:
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            file[key] = value
    return str(path)


def tensors(path: Path, arrays: Arrays = USUAL) -> str:
    save_file(dict(arrays), path)
    return str(path)


def others(**changes: np.ndarray) -> Arrays:
    return {**USUAL, **{f"layer/{name}": value for name, value in changes.items()}}


WIDE = others(kernel=np.ones((4, 3), np.float32))


def axis(paths: list[str], model: Model | None = None, *, alike: bool = False) -> WeightFiles:
    found = checkpoint_axis(paths, None, (model or Model()).load, alike=alike)
    assert found is not None
    return found


def refused(found: WeightFiles, policy: str = "fail") -> str:
    with pytest.raises(ModelError) as caught:
        found.choose(policy)
    assert found.checkpoints == ()
    return str(caught.value)


def labels(found: WeightFiles) -> list[str]:
    return [one.label for one in found.checkpoints]


# ---- what a configuration asks for


def test_without_checkpoints_there_is_no_axis() -> None:
    assert checkpoint_axis(None, None, Model().load, instead_of={"model.path": "a"}) is None


def test_a_step_without_checkpoints_is_a_mistake() -> None:
    with pytest.raises(ConfigError) as caught:
        checkpoint_axis(None, r"(\d+)", Model().load)
    assert str(caught.value) == (
        "model.checkpoint_step='(\\\\d+)' is for the files of model.checkpoints, which is not given"
    )


def test_two_ways_to_give_weights_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        checkpoint_axis(
            "a.h5", None, Model().load, instead_of={"a.b": None, "model.checkpoint": "b.h5"}
        )
    assert str(caught.value) == (
        "model.checkpoint and model.checkpoints are both given. Give one of them"
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "model=checkpoint is given no weights. Give some: model.path=FILE, or model.chec"),
        ({"path": "a", "checkpoints": "b"}, "model.path and model.checkpoints are both given."),
        ({"path": "a", "checkpoint_step": "x"}, "model.checkpoint_step='x' is for the files of"),
        ({"checkpoints": 3}, "model.checkpoints=3 is not a path, a glob or a list of them."),
    ],
)
def test_weights_alone_are_given_in_one_way(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_weights_alone(**settings)
    assert str(caught.value).startswith(said)


# ---- choosing


def test_all_that_are_built_alike_are_tried_by_loading_one(tmp_path: Path) -> None:
    paths = [tensors(tmp_path / f"{n}.safetensors") for n in range(5)]
    model = Model()
    found = axis(paths, model)
    assert found.checkpoints == ()
    found.choose("fail")
    assert labels(found) == ["0", "1", "2", "3", "4"]
    assert found.excluded == ()
    assert model.loaded == ["0.safetensors"]  # which tells that all fit, and is computed with first
    assert {one.bytes for one in found.checkpoints} == {Path(paths[0]).stat().st_size}


def test_many_hdf5_files_are_listed_by_one_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    together = keras_hdf5.run_for_many

    def counting(module: str, arguments: Any, size: int) -> bytes:
        asked.append(list(arguments))
        return together(module, arguments, size)

    monkeypatch.setattr(keras_hdf5, "run_for_many", counting)
    monkeypatch.setattr(keras_hdf5, "ask", lambda *_: pytest.fail("a file was asked about alone"))
    paths = [h5(tmp_path / f"{n}.h5") for n in range(6)]
    axis(paths).choose("fail")
    assert asked == [paths]


def test_a_file_that_ends_the_child_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child dies at the second file: those behind it are asked about by another one."""
    asked: list[int] = []
    together = keras_hdf5.run_for_many
    paths = [h5(tmp_path / f"{n}.h5") for n in range(4)]

    def dying(module: str, arguments: list[str], size: int) -> bytes:
        asked.append(len(arguments))
        if paths[1] not in arguments:
            return together(module, arguments, size)
        whole = together(module, arguments[: arguments.index(paths[1])], size)
        return whole + b'{"datasets": {"lay'

    monkeypatch.setattr(keras_hdf5, "run_for_many", dying)
    axis(paths).choose("fail")  # alone, the second seems as good as any
    assert asked == [4, 2]


def test_the_policy_skips_and_names_what_cannot_be_used(tmp_path: Path) -> None:
    torn = tmp_path / "torn.safetensors"
    tensors(torn)
    torn.write_bytes(torn.read_bytes()[:-4])
    paths = [
        tensors(tmp_path / "a.safetensors"),
        str(torn),
        tensors(tmp_path / "wide.safetensors", WIDE),
        tensors(tmp_path / "wide2.safetensors", WIDE),
        str(tmp_path / "none.safetensors"),
        h5(tmp_path / "e.h5"),
    ]
    found = axis(paths)
    found.choose("skip")
    assert labels(found) == ["a", "e"]
    reasons = {one.label: one.reason for one in found.excluded}
    assert list(reasons) == ["torn", "wide", "wide2", "none"]
    assert all(isinstance(one, ExcludedCheckpoint) for one in found.excluded)
    assert [one.path for one in found.excluded] == paths[1:5]
    assert reasons["wide"] == f"model.checkpoints={paths[2]!r} does not fit."
    assert reasons["wide2"] == (
        f"model.checkpoints={paths[3]!r} is built like another that does not fit: {reasons['wide']}"
    )
    assert reasons["torn"].startswith(
        f"model.checkpoints={paths[1]!r} (torn.safetensors) is damaged"
    )
    assert reasons["none"].startswith(f"model.checkpoints={paths[4]!r} does not exist. ")
    text = refused(axis(paths))
    assert text == (
        f"model.checkpoints: 4 of 6 checkpoints cannot be used, first 'torn': "
        f"{reasons['torn'].rstrip('.')}. Correct them, or start a new run without them: "
        f"runtime.bad_checkpoints=skip"
    )


@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_where_none_can_be_used_there_is_no_way_out(policy: str, tmp_path: Path) -> None:
    paths = [tensors(tmp_path / f"{n}.safetensors", WIDE) for n in range(2)]
    assert refused(axis(paths), policy) == (
        f"model.checkpoints: 2 of 2 checkpoints cannot be used, first '0': "
        f"model.checkpoints={paths[0]!r} does not fit."
    )
    missing = [str(tmp_path / "x.safetensors")]
    for alike in (False, True):
        assert "1 of 1 checkpoints cannot be used" in refused(axis(missing, alike=alike), policy)


def test_formats_may_be_mixed_where_a_model_tells_what_fits(tmp_path: Path) -> None:
    found = axis([h5(tmp_path / "a.h5"), tensors(tmp_path / "b.safetensors")])
    found.choose("fail")
    assert labels(found) == ["a", "b"]


# ---- nothing but the files tells an architecture


def unlike(tmp_path: Path, path: str) -> str:
    """Why a file is not like the three usual ones beside it."""
    usual = [tensors(tmp_path / f"usual{n}.safetensors") for n in range(3)]
    found = axis([usual[0], path, *usual[1:]], alike=True)
    found.choose("skip")
    assert labels(found) == ["usual0", "usual1", "usual2"]
    (left_out,) = found.excluded
    reported = f"model.checkpoints={path!r} is not built like {usual[0]!r}: "
    assert left_out.reason.startswith(reported)
    return left_out.reason.removeprefix(reported)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        (WIDE, "'layer/kernel' is float32 [4, 3], not float32 [2, 3]"),
        (others(bias=np.zeros(3, np.float64)), "'layer/bias' is float64 [3], not float32 [3]"),
        ({"layer/kernel": USUAL["layer/kernel"]}, "it lacks 'layer/bias' [3]"),
        (others(more=np.zeros((7, 1), np.float32)), "it has 'layer/more' [7, 1] besides"),
    ],
)
def test_what_is_not_like_most_is_left_out(arrays: Arrays, reason: str, tmp_path: Path) -> None:
    assert unlike(tmp_path, tensors(tmp_path / "odd.safetensors", arrays)) == reason


def test_another_format_is_not_like_most(tmp_path: Path) -> None:
    reason = unlike(tmp_path, h5(tmp_path / "odd.h5"))
    assert reason.startswith("it is ")
    assert reason.endswith(", not safetensors")


@pytest.mark.parametrize("first", ["usual", "wide"])
def test_most_are_right_wherever_they_stand_and_of_two_halves_the_first(
    first: str, tmp_path: Path
) -> None:
    usual = [tensors(tmp_path / f"usual{n}.safetensors") for n in range(2)]
    wide = [tensors(tmp_path / f"wide{n}.safetensors", WIDE) for n in range(2)]
    halves = [*usual, *wide] if first == "usual" else [*wide, *usual]
    third = tensors(tmp_path / "usual2.safetensors")
    for paths, expected in (
        (halves, [f"{first}0", f"{first}1"]),
        ([*wide, *usual, third], ["usual0", "usual1", "usual2"]),
    ):
        found = checkpoint_axis(paths, None, lambda file: None, alike=True)
        assert found is not None
        found.choose("skip")
        assert labels(found) == expected


# ---- loading


def test_weights_are_loaded_when_they_are_not_the_models_already(tmp_path: Path) -> None:
    model = Model()
    found = axis([tensors(tmp_path / f"{n}.safetensors") for n in range(3)], model)
    found.choose("fail")
    model.loaded.clear()
    for position in (0, 0, 2, 2, 1, 0):
        found.use(position)
    assert model.loaded == ["2.safetensors", "1.safetensors", "0.safetensors"]


def change(path: str) -> None:
    tensors(Path(path), others(bias=np.ones(9, np.float32)))


def remove(path: str) -> None:
    Path(path).unlink()


@pytest.mark.parametrize("harm", [change, remove])
def test_a_file_that_is_not_what_it_was_is_never_loaded(
    harm: Callable[[str], None], tmp_path: Path
) -> None:
    model = Model()
    paths = [tensors(tmp_path / f"{n}.safetensors") for n in range(2)]
    found = axis(paths, model)
    found.choose("fail")
    model.loaded.clear()
    harm(paths[1])
    with pytest.raises(JobError) as caught:
        found.use(1)
    assert paths[1] in str(caught.value)
    assert model.loaded == []


def test_where_loading_fails_the_weights_are_nobodys(tmp_path: Path) -> None:
    failing: list[ModelError] = []
    loaded: list[str] = []

    def load(file: WeightFile) -> None:
        loaded.append(Path(file.path).stem)
        if failing:
            raise failing.pop()

    found = checkpoint_axis([tensors(tmp_path / f"{n}.safetensors") for n in range(2)], None, load)
    assert found is not None
    found.choose("fail")
    failing.append(ModelError("no room"))
    with pytest.raises(JobError) as caught:
        found.use(1)
    assert str(caught.value) == "checkpoint '1' can no longer be loaded: no room"
    found.use(0)  # it was the first's before, and half of it may be the second's now
    assert loaded == ["0", "1", "0"]


def test_a_file_that_changes_once_it_was_loaded_is_refused(tmp_path: Path) -> None:
    """What is recorded of it would be of weights with which nothing is computed."""
    first = tmp_path / "last.safetensors"

    def load(file: WeightFile) -> None:
        tensors(first, others(bias=np.ones(3, np.float32)))
        os.utime(first, ns=(0, 0))

    found = checkpoint_axis([tensors(first)], None, load)
    assert found is not None
    with pytest.raises(JobError, match="changed while the job ran"):
        found.choose("fail")


def test_a_file_that_goes_while_they_are_looked_at_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tensors(tmp_path / f"{n}.safetensors") for n in range(2)]
    monkeypatch.setattr(axes, "origin", lambda key, path: None)
    with pytest.raises(ModelError) as caught:
        axis(paths).choose("fail")
    assert str(caught.value) == f"model.checkpoints={paths[0]!r} no longer exists"


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    a = tensors(tmp_path / "a.safetensors")
    b = shutil.copy(a, tmp_path / "b.safetensors")
    c = tensors(tmp_path / "c.safetensors", others(bias=np.ones(3, np.float32)))
    found = axis([a, str(b), c])
    found.choose("fail")
    one, same, other = (checkpoint.sha256 for checkpoint in found.checkpoints)
    assert one == same != other
