"""MediaPipe's own files: one that XNNPACK alone can run, and one that MediaPipe alone can."""

from pathlib import Path

import numpy as np
import pytest

from experiments.real_models.fetch import data_file
from extractkit.core.catalog import Kind
from extractkit.core.requests import Value
from extractkit.core.values import Array
from extractkit.models import Compilation, Fetch
from extractkit.models.litert.model import TFLiteModel
from extractkit.models.tflite import load
from tests.oracles.test_tflite_formats import close, computed, plain_loop, samples, values
from tests.real_models import FOLDER, skipped_if_out_of_reach

pytestmark = [pytest.mark.real_model, pytest.mark.oracle]

_WHEEL = "mediapipe==0.10.21"
_FILES = {
    "selfie_segmentation/selfie_segmentation.tflite": (
        "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c"
    ),
    "face_landmark/face_landmark_with_attention.tflite": (
        "e06a804e0144f9929eda782122916b35d60c697c3c9344013ca2bbe76a6ce2b4"
    ),
}
_SELFIE, _FACE = _FILES


def file(inside: str) -> Path:
    """A file of the wheel; the test is skipped where it cannot be had."""
    with skipped_if_out_of_reach():
        return data_file(_WHEEL, f"mediapipe/modules/{inside}", _FILES[inside], FOLDER)


def agreeing(one: TFLiteModel, other: TFLiteModel, x: Array) -> int:
    """How many computed tensors two models have in common, all of which must agree."""
    known = {record.address for record in computed(other)}
    records = [record for record in computed(one) if record.address in known]
    pairs = zip(values(one, records, x), values(other, records, x), strict=True)
    for record, (ours, theirs) in zip(records, pairs, strict=True):
        assert close(ours, theirs, 1e-3), record.address
    return len(records)


def test_a_file_that_xnnpack_alone_can_run() -> None:
    path = file(_SELFIE)
    model = load(str(path))
    assert all(record.extractable for record in model.catalog.records)
    x = samples(model)
    records = computed(model)
    ours = dict(zip([r.address for r in records], values(model, records, x), strict=True))
    for preserve in (False, True):
        theirs = plain_loop(path, x, preserve=preserve, delegate=True)
        for record in records:
            if preserve or record.kind is Kind.MODEL_OUTPUT:
                expected = theirs.get_tensor(model.found[record.address].index)
                assert ours[record.address].tobytes() == expected.tobytes(), record.address


def test_the_same_without_xnnpack_up_to_what_it_alone_has() -> None:
    fast, plain = (load(str(file(_SELFIE)), xnnpack=on) for on in (True, False))
    assert agreeing(fast, plain, samples(fast)) > 100
    reasons = {record.reason for record in plain.catalog.records} - {None}
    assert reasons == {
        "it needs Convolution2DTransposeBias (operation 244), which only XNNPACK has: "
        "model.xnnpack=true"
    }


def test_what_comes_before_mediapipe_s_own_operations() -> None:
    fast, plain = (load(str(file(_FACE)), xnnpack=on) for on in (True, False))
    assert agreeing(fast, plain, samples(fast)) > 50
    reasons = {record.reason or "" for record in fast.catalog.records} - {""}
    assert len(reasons) == 3
    assert all("Landmarks2TransformMatrix" in reason for reason in reasons)
    weights = [record.address for record in fast.catalog.records if record.kind is Kind.WEIGHT]
    assert all(fast.catalog[address].extractable for address in weights)
    assert len(fast.constants([Fetch(Value(address)) for address in weights])) == len(weights) > 300


def test_the_first_convolution_by_hand() -> None:
    """In NumPy, from the weights of the file."""
    model = load(str(file(_FACE)))
    subgraph = model.entry.subgraph
    number = next(n for n, one in enumerate(subgraph.operations) if one.type == "CONV_2D")
    source, kernel, bias = subgraph.operations[number].inputs
    by_index = {one.index: one for one in model.found.values()}
    assert source in model.entry.inputs.values()
    x = samples(model)
    address = by_index[subgraph.operations[number].outputs[0]].record.address
    (ours,) = model.program([Fetch(Value(address))], Compilation())(
        {next(iter(model.entry.inputs)): x}, {}
    )
    constants = [Fetch(Value(by_index[index].record.address)) for index in (kernel, bias)]
    weights, offset = (one.astype(np.float64) for one in model.constants(constants))
    out, side, _, channels = weights.shape
    count = ours.shape[1]
    step = x.shape[1] // count
    # As TensorFlow pads where the output is as large as the input, or half of it.
    missing = max((count - 1) * step + side - x.shape[1], 0)
    around = (missing // 2, missing - missing // 2)
    padded = np.pad(x[0].astype(np.float64), (around, around, (0, 0)))
    reach = step * (count - 1) + 1
    patches = np.stack(
        [padded[i : i + reach : step, j : j + reach : step] for i, j in np.ndindex(side, side)], 2
    )
    flat = weights.reshape(out, side * side, channels)
    expected = np.einsum("hwpc,opc->hwo", patches, flat) + offset
    np.testing.assert_allclose(ours[0], expected, rtol=1e-4, atol=1e-4)
