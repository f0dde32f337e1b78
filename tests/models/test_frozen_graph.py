"""`model=frozen_graph`: binary and text, and whatever else may be given by mistake."""

import random
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from extractkit.core.catalog import Kind
from extractkit.core.requests import Value
from extractkit.errors import ConfigError, JobError, ModelError, UserError
from extractkit.models import Compilation, Fetch
from extractkit.models.frozen_graph import load
from extractkit.testing.models import drawn
from tests.models.session_graphs import by_hand, classifier, frozen, saved, weight

v1 = tf.compat.v1
OFF = {"training": False}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return frozen(classifier, ["probs"], tmp_path / "graph.pb")


def test_text_and_binary_are_one_model(path: Path, tmp_path: Path) -> None:
    text = load(str(frozen(classifier, ["probs"], tmp_path / "graph.pbtxt")), constants=OFF)
    binary = load(str(path), constants=OFF)
    assert text.catalog.records == binary.catalog.records
    assert text.weights_digest() == binary.weights_digest()


def test_outputs_are_what_is_asked_for(path: Path) -> None:
    model = load(str(path), outputs=["hidden/Relu", "drop/Merge:0"], constants=OFF)
    outputs = [a for a, record in model.catalog.items() if record.kind is Kind.MODEL_OUTPUT]
    assert outputs == ["hidden/Relu:0", "drop/Merge:0"]
    with pytest.raises(ConfigError, match=r"model\.outputs: 'probz' is not a tensor.*'probs'"):
        load(str(path), outputs=["probz"], constants=OFF)


def test_a_loops_result_is_measured_and_right(path: Path) -> None:
    model = load(str(path), constants=OFF)
    assert model.catalog["probs:0"].spec.undescribed.labels == ("?", None)
    batch = drawn(model, 3)
    (value,) = model.program([Fetch(Value("probs:0"))], Compilation())(
        batch.features, batch.lengths
    )
    np.testing.assert_allclose(value, by_hand(batch.features["x"])["probs:0"], atol=1e-6)


def test_devices_of_another_machine_do_not_matter(path: Path) -> None:
    expected = load(str(path), constants=OFF).weights_digest()
    graph_def = v1.GraphDef.FromString(path.read_bytes())
    for node in graph_def.node:
        node.device = "/job:worker/task:3/device:GPU:5"
    path.write_bytes(graph_def.SerializeToString())
    assert load(str(path), constants=OFF).weights_digest() == expected


def test_no_such_file(path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load(str(path.with_name("grahp.pb")))
    assert "does not exist" in str(caught.value)
    assert "'graph.pb'" in str(caught.value)


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a folder; model=frozen_graph takes one file"):
        load(str(tmp_path))
    tf.saved_model.save(tf.Module(), str(tmp_path))
    with pytest.raises(ModelError, match=r"is a SavedModel. That is for model=saved_model"):
        load(str(tmp_path))


def test_a_saved_models_file(tmp_path: Path) -> None:
    tf.saved_model.save(tf.Module(), str(tmp_path))
    with pytest.raises(ModelError) as caught:
        load(str(tmp_path / "saved_model.pb"))
    assert f"model=saved_model model.path={tmp_path}" in str(caught.value)


def test_a_meta_graph(tmp_path: Path) -> None:
    prefix = saved(classifier, tmp_path / "model")
    with pytest.raises(ModelError) as caught:
        load(f"{prefix}.meta")
    assert f"model=meta_graph model.path={prefix}.meta" in str(caught.value)


def test_a_graph_that_was_not_frozen(tmp_path: Path) -> None:
    with tf.Graph().as_default() as graph:
        classifier()
    tf.io.write_graph(graph.as_graph_def(), str(tmp_path), "graph.pb", as_text=False)
    with pytest.raises(
        ModelError,
        match=r"is not frozen: it has no values for 2 of its variables, such as 'hidden/kernel:0'",
    ):
        load(str(tmp_path / "graph.pb"))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is an empty file"),
        (b"\x00\x01garbage", "is not a GraphDef, and its format is unknown"),
        (b"PK\x03\x04 something", "is a zip archive that is cut off or damaged"),
    ],
)
def test_something_else(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "graph.pb").write_bytes(content)
    with pytest.raises(ModelError, match=what):
        load(str(tmp_path / "graph.pb"))


def test_an_operation_that_nobody_knows(path: Path) -> None:
    graph_def = v1.GraphDef.FromString(path.read_bytes())
    next(node for node in graph_def.node if node.op == "Relu").op = "MyOwnRelu"
    path.write_bytes(graph_def.SerializeToString())
    reasons = {record.reason or "" for record in load(str(path), constants=OFF).catalog.records}
    assert any("(MyOwnRelu), which this TensorFlow does not have" in one for one in reasons)


def test_a_constant_that_cannot_be_read_is_named(path: Path) -> None:
    graph_def = v1.GraphDef.FromString(path.read_bytes())
    kernel = next(node for node in graph_def.node if node.name == "hidden/kernel")
    kernel.attr["value"].tensor.tensor_content = b"123"
    path.write_bytes(graph_def.SerializeToString())
    with pytest.raises(
        ModelError, match=r"^model 'frozen_graph': 'hidden/kernel:0' cannot be read: Cannot parse"
    ):
        load(str(path), constants=OFF).weights_digest()


def mostly_weights() -> None:
    """As in real files, so that damage hits numbers as well as structure."""
    classifier()
    probs = v1.get_default_graph().get_tensor_by_name("probs:0")
    tf.matmul(probs, weight("wide/kernel", [4, 1000]), name="wide")


def test_damage_is_reported_or_does_no_harm(tmp_path: Path) -> None:
    path = frozen(mostly_weights, ["wide"], tmp_path / "graph.pb")
    content = path.read_bytes()
    run(path)  # what was not damaged
    harmless, failed, reported = 0, 0, []
    for seed in range(40):
        path.write_bytes(damaged(content, seed))
        try:
            run(path)
            harmless += 1
        except UserError as error:
            reported.append(str(error))
        except JobError:  # it loads, and then cannot be computed
            failed += 1
    assert harmless
    assert len(reported) >= 10, "every file that was cut short"
    assert harmless + failed + len(reported) == 40
    assert all(text.startswith(("model.path=", "model.constants")) for text in reported), reported


def run(path: Path) -> None:
    """Whatever is done with a model."""
    model = load(str(path), constants=OFF)
    model.weights_digest()
    fetches = [
        Fetch(Value(record.address))
        for record in model.catalog.records
        if record.kind is Kind.MODEL_OUTPUT
    ]
    batch = drawn(model, 2)
    model.program(fetches, Compilation())(batch.features, batch.lengths)


def damaged(content: bytes, seed: int) -> bytes:
    """A file cut off, or with some bits changed."""
    generator = random.Random(seed)
    if seed % 4 == 0:
        return content[: generator.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(1 + seed % 4):
        changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
    return bytes(changed)
