"""basic-pitch's SavedModel against its ONNX form and against a frozen graph in a plain session."""

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

import extractkit
from extractkit.core.values import Array
from extractkit.runs.views import TensorView
from tests.real_models import real_model

pytestmark = [pytest.mark.real_model, pytest.mark.oracle]

_FOLDER = "basic_pitch/saved_models/icassp_2022"

# What the ONNX file names as the SavedModel does, up to the port. Channels stand second there.
_MATCHING = (
    "cq_t2010v2_1/Sqrt_1", "normalized_log_1/Square", "normalized_log_1/Log",
    "normalized_log_1/Min", "normalized_log_1/sub", "normalized_log_1/Max",
    "normalized_log_1/Reshape_2", "tf.expand_dims_1/ExpandDims",
    "harmonic-stacking-diff/concat", "contours-reduced/Sigmoid", "conv2d_3/Sigmoid",
    "concat/concat", "conv2d_5/Sigmoid",
)  # fmt: skip


@pytest.fixture(scope="module")
def audio() -> Array:
    """Three chords of decaying partials: float32 (3, 43844, 1)."""
    seconds = np.arange(43844) / 22050
    chords = [(220.0, 277.2, 329.6), (440.0,), (130.8, 196.0, 261.6, 329.6)]
    waves = [sum(np.sin(2 * np.pi * f * seconds) * np.exp(-seconds) for f in c) for c in chords]
    return np.stack(waves)[..., None].astype(np.float32) / 4


@pytest.fixture(scope="module")
def run(audio: Array, tmp_path_factory: pytest.TempPathFactory) -> extractkit.Run:
    """Outputs and every operation of the SavedModel, batches of two and one."""
    path = real_model("basic-pitch", f"{_FOLDER}/nmp")
    return extractkit.extract(
        ["model=saved_model", f"model.path={path}", "selectors=[outputs,ops]",
         "runtime.batch_size=2"],
        inputs=audio,
        run_dir=tmp_path_factory.mktemp("runs") / "basic-pitch",
    )  # fmt: skip


def onnx_values(names: list[str], audio: Array) -> dict[str, Array]:
    """Tensors of the ONNX model, sample by sample, those inside it made outputs of it."""
    model = onnx.load(real_model("basic-pitch", f"{_FOLDER}/nmp.onnx"))
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in known)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (taken,) = session.get_inputs()
    each = [session.run(names, {taken.name: one[None]}) for one in audio]
    return {
        name: np.concatenate(parts)
        for name, parts in zip(names, zip(*each, strict=True), strict=True)
    }


def test_outputs_agree_with_onnx(run: extractkit.Run, audio: Array) -> None:
    outputs = {
        "note": "StatefulPartitionedCall:1",
        "onset": "StatefulPartitionedCall:2",
        "contour": "StatefulPartitionedCall:0",
    }
    expected = onnx_values(list(outputs.values()), audio)
    for name, there in outputs.items():
        value = np.asarray(run[f":output.{name}"])
        assert value.max() > 0.1  # there are notes
        np.testing.assert_allclose(value, expected[there], atol=1e-5, rtol=0)


def test_tensors_inside_agree_with_onnx(run: extractkit.Run, audio: Array) -> None:
    theirs = {name: f"model_1/{name};model_1/{name}" for name in _MATCHING}
    expected = onnx_values([*theirs.values()], audio)
    for name, there in theirs.items():
        value, other = np.asarray(run[f"model_1/{name}:0"]), expected[there]
        if value.shape != other.shape:
            other = np.moveaxis(other, 1, -1)
        np.testing.assert_allclose(
            value, other.reshape(value.shape), atol=1e-4, rtol=1e-4, err_msg=name
        )


def test_every_tensor_agrees_with_a_graph_rewritten_to_output_it(
    run: extractkit.Run, audio: Array
) -> None:
    """Another way to the same tensors: variables made constants, and a session of TensorFlow 1."""
    loaded = tf.saved_model.load(str(real_model("basic-pitch", f"{_FOLDER}/nmp")))
    frozen = convert_variables_to_constants_v2(loaded.signatures["serving_default"])
    addresses = [address for address in run if not address.startswith(":")]
    varying = [address for address in addresses if "sample" in (run[address].dims or ())]
    assert len(varying) > 200
    graph = tf.Graph()
    with graph.as_default():
        tf.graph_util.import_graph_def(frozen.graph.as_graph_def(), name="")
    names = {operation.name for operation in graph.get_operations()}
    theirs = {
        address: f"{full}:{port}"
        for address in varying
        for name, _, port in [address.rpartition(":")]
        for full in (name, f"StatefulPartitionedCall/{name}")
        if full in names
    }
    assert len(theirs) == len(varying)
    with tf.compat.v1.Session(graph=graph) as session:
        for start, stop in ((0, 2), (2, 3)):  # the batches of the run
            values = session.run(theirs, {"input_2:0": audio[start:stop]})
            for address, value in values.items():
                expected = _by_sample(run[address], value, stop - start)
                stored = np.asarray(run[address])[start:stop]
                np.testing.assert_allclose(stored, expected, 1e-5, 1e-5, err_msg=address)


def _by_sample(view: TensorView, value: Array, samples: int) -> Array:
    """A tensor with the sample axis in front, as runs store it."""
    if value.shape == (samples, *view.shape[1:]):
        return value
    return np.moveaxis(value, value.shape.index(samples), 0).reshape(samples, *view.shape[1:])
