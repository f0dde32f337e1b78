"""`model=tensorflow_js`: layers and graph models, against Keras and a session."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from extractkit.core.requests import Value
from extractkit.errors import ConfigError, ModelError
from extractkit.models import Fetch, Model, checkpoint
from extractkit.models.tensorflow_js import load
from extractkit.testing.models import ModelContract
from tests.models.programs import values_of
from tests.models.tfjs_files import graph_model, layers_model, small_graph, small_keras, write

v1 = tf.compat.v1
X = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
IMAGES = np.random.default_rng(1).normal(size=(2, 6, 6, 3)).astype(np.float32)


def by_session(graph_def: Any, name: str, images: np.ndarray = IMAGES) -> np.ndarray:
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        tf.import_graph_def(graph_def, name="")
        return np.asarray(session.run(name, {"x:0": images}))


@pytest.fixture(scope="module")
def layers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layers_model(small_keras(), tmp_path_factory.mktemp("tfjs") / "layers")


@pytest.fixture(scope="module")
def graph_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tfjs") / "graph"
    return graph_model(small_graph(), ["x"], {"y": "pooled:0"}, folder)


class TestLayersContract(ModelContract):
    @pytest.fixture(autouse=True)
    def _folder(self, layers_folder: Path) -> None:
        self.folder = layers_folder

    def model(self) -> Model:
        return load(str(self.folder))


class TestGraphContract(ModelContract):
    @pytest.fixture(autouse=True)
    def _folder(self, graph_folder: Path) -> None:
        self.folder = graph_folder

    def model(self) -> Model:
        return load(str(self.folder / "model.json"))


def test_a_layers_model_agrees_with_keras(layers_folder: Path) -> None:
    model, own = load(str(layers_folder)), small_keras()
    values = values_of(model, [":output", "hidden:output"], {"x": X})  # type: ignore[arg-type]
    np.testing.assert_allclose(values[":output"], own.predict(X, verbose=0), rtol=1e-5, atol=1e-6)
    hidden = np.maximum(X.astype(np.float64) @ own.get_weights()[0] + own.get_weights()[1], 0)
    np.testing.assert_allclose(values["hidden:output"], hidden, rtol=1e-5, atol=1e-5)


def test_the_weights_alone(layers_folder: Path, graph_folder: Path) -> None:
    own = small_keras()
    weights = checkpoint.load(str(layers_folder))
    assert len(weights.catalog) == len(own.weights)
    np.testing.assert_array_equal(
        weights.constants([Fetch(Value("hidden:kernel"))])[0], own.get_weights()[0]
    )
    words = checkpoint.load(str(graph_folder / "model.json")).constants([Fetch(Value(":words"))])[0]
    assert words.tolist() == [b"a\0", b"", b"ccc"]


def test_a_graph_model_agrees_with_a_session(graph_folder: Path) -> None:
    model = load(str(graph_folder))
    addresses = [":output.y", "hidden:0"]
    values = values_of(model, addresses, {"x": IMAGES})  # type: ignore[arg-type]
    for address, name in zip(addresses, ("pooled:0", "hidden:0"), strict=True):
        np.testing.assert_allclose(values[address], by_session(small_graph(), name), rtol=1e-6)
    assert model.constants([Fetch(Value("named:0"))])[0].tolist() == [b"ccc", b"a\0", b""]


def test_fused_operations_are_taken_apart(tmp_path: Path) -> None:
    graph_def = small_graph()
    fused = v1.GraphDef(versions=graph_def.versions)
    for node in graph_def.node:
        if node.name == "hidden":
            step = next(n for n in graph_def.node if n.op == "DepthwiseConv2dNative")
            new = v1.NodeDef(name="hidden", op="FusedDepthwiseConv2dNative")
            new.input.extend(["x", "filters", "bias"])
            for key, value in step.attr.items():
                new.attr[key].CopyFrom(value)
            new.attr["fused_ops"].list.s.extend([b"BiasAdd", b"Relu6"])
            new.attr["num_args"].i = 1
            fused.node.append(new)
            alpha = v1.NodeDef(name="alpha", op="Const")
            alpha.attr["dtype"].type = tf.float32.as_datatype_enum
            alpha.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.full(6, 0.5, "f4")))
            prelu = v1.NodeDef(name="prelu", op="Prelu", input=["shifted", "alpha"])
            prelu.attr["T"].type = tf.float32.as_datatype_enum
            three = v1.NodeDef(name="three", op="Const")
            three.attr["dtype"].type = tf.float32.as_datatype_enum
            three.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.float32(3)))
            shifted = v1.NodeDef(name="shifted", op="Sub", input=["hidden", "three"])
            shifted.attr["T"].type = tf.float32.as_datatype_enum
            fused.node.extend([alpha, three, shifted, prelu])
        elif node.name not in ("depthwise", "BiasAdd") and "depthwise" not in node.name:
            fused.node.append(node)
    folder = graph_model(fused, ["x"], {"y": "prelu:0"}, tmp_path)
    values = values_of(load(str(folder)), ["hidden:0", ":output.y"], {"x": IMAGES})  # type: ignore[arg-type]
    hidden = by_session(small_graph(), "hidden:0")
    np.testing.assert_allclose(values["hidden:0"], hidden, rtol=1e-5)
    shifted_value = hidden - 3
    expected = np.where(shifted_value > 0, shifted_value, 0.5 * shifted_value)
    np.testing.assert_allclose(values[":output.y"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16"])
def test_quantised_weights(dtype: str, tmp_path: Path) -> None:
    own = small_keras()
    kernel = own.get_weights()[0]
    scale = float(np.ptp(kernel)) / (255 if dtype == "uint8" else 65535)
    quantised = {"hidden/kernel": (dtype, scale, float(kernel.min()))}
    folder = layers_model(own, tmp_path / dtype, quantised=quantised)
    value = load(str(folder)).constants([Fetch(Value("hidden:kernel"))])[0]
    if dtype == "float16":
        expected = kernel.astype(np.float16).astype(np.float32)
    else:
        steps = np.round((kernel.astype(np.float64) - kernel.min()) / scale)
        expected = (steps * scale + float(kernel.min())).astype(np.float32)
    np.testing.assert_array_equal(value, expected)
    assert not np.array_equal(value, kernel)


def test_whole_numbers_that_are_quantised(tmp_path: Path) -> None:
    array = np.array([-3, 0, 7], np.int32)
    write(tmp_path, {}, {"a": array}, quantised={"a": ("uint8", 10 / 255, -3.0)})
    value = checkpoint.load(str(tmp_path)).constants([Fetch(Value(":a"))])[0]
    np.testing.assert_array_equal(value, array)
    assert value.dtype == np.int32


def changed(folder: Path, target: Path, change: Callable[[dict[str, Any], Path], None]) -> str:
    """What is said of a copy that was changed."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    document = json.loads((target / "model.json").read_text())
    change(document, target)
    (target / "model.json").write_text(json.dumps(document))
    with pytest.raises(ModelError) as raised:
        load(str(target))
    return str(raised.value).removeprefix(f"model.path={str(target)!r}")


def _first(document: dict[str, Any]) -> dict[str, Any]:
    weight: dict[str, Any] = document["weightsManifest"][0]["weights"][0]
    return weight


def test_what_is_missing_or_does_not_fit(layers_folder: Path, tmp_path: Path) -> None:
    shard = "group1-shard1of"
    name = next(p.name for p in layers_folder.iterdir() if p.name.startswith(shard))

    def cut_off(_: Any, folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:-4])

    def outside(document: Any, _: Path) -> None:
        document["weightsManifest"][0]["paths"][0] = "../secret"

    def code(document: Any, _: Path) -> None:
        layer = document["modelTopology"]["model_config"]["config"]["layers"][1]
        layer["class_name"] = "Lambda"
        layer["config"] = {"name": "f", "function": ["4wEAAAA=", None, None]}

    cases: list[tuple[Callable[[Any, Path], Any], str]] = [
        (lambda _, folder: (folder / name).unlink(), f": the shard '{name}' is missing beside"),
        (cut_off, "one is cut off, or of another model. Copy them again"),
        (lambda d, _: _first(d).update(shape=[8, 21]), "one is cut off, or of another model"),
        (lambda d, _: _first(d).update(shape=[8, -1]), "has the shape [8, -1]"),
        (lambda d, _: _first(d).update(shape=8), "weight 'hidden/kernel': TypeError"),
        (lambda d, _: _first(d).update(dtype="float99"), "is of type 'float99'"),
        (lambda d, _: _first(d).update(shape=[20, 8]), "'hidden/kernel' is [20, 8] in the file"),
        (lambda d, _: _first(d).update(name="other/kernel"), "does not fit the model"),
        (lambda d, _: _first(d).update(quantization={"dtype": "int4"}), "stored as int4"),
        (lambda d, _: d["weightsManifest"][0].pop("paths"), "weightsManifest: KeyError: 'paths'"),
        (outside, "names '../secret', which is not the name of a file beside it"),
        (lambda d, _: d.update(modelTopology=None), "holds weights alone, no modelTopology"),
        (lambda d, _: d.update(modelTopology={"a": 1}), "does not describe a Keras model"),
        (code, "holds Python code in a Lambda layer, which TensorFlow.js does not have"),
    ]
    for number, (change, reported) in enumerate(cases):
        message = changed(layers_folder, tmp_path / str(number), change)
        assert reported in message, (reported, message)


def test_a_graph_that_does_not_fit_its_weights(graph_folder: Path, tmp_path: Path) -> None:
    def table(document: Any, _: Path) -> None:
        document["modelTopology"]["node"].append({"name": "t", "op": "HashTableV2"})

    def untyped(document: Any, _: Path) -> None:
        nodes = document["modelTopology"]["node"]
        del next(node for node in nodes if node["name"] == "filters")["attr"]["dtype"]

    cases: list[tuple[Callable[[Any, Path], Any], str]] = [
        (lambda d, _: _first(d).update(name="other"), "the graph needs the weight 'filters'"),
        (lambda d, _: _first(d).update(shape=[9, 3, 2]), "weight 'filters' is [9, 3, 2], in the"),
        (lambda d, _: d["signature"]["outputs"]["y"].update(name="z:0"), "signature names 'z:0'"),
        (lambda d, _: d["modelTopology"].update(node=[{"op": 3}]), "is not a GraphDef: ParseError"),
        (table, "has the table 't' (HashTableV2)"),
        (untyped, "the constant 'filters' has a type that TensorFlow does not know"),
    ]
    for number, (change, reported) in enumerate(cases):
        message = changed(graph_folder, tmp_path / str(number), change)
        assert reported in message, (reported, message)


def test_what_is_no_model_of_tensorflow_js(tmp_path: Path, layers_folder: Path) -> None:
    (tmp_path / "a.tflite").write_bytes(b"\x1c\0\0\0TFL3")
    for path, reported in (
        (tmp_path, "That is for model=tflite"),
        (tmp_path / "a.tflite", "That is for model=tflite"),
        (tmp_path / "none", "Give a folder with a model.json, or that file"),
        ("https://host/model.json", "is not on this machine"),
    ):
        with pytest.raises(ModelError) as raised:
            load(str(path))
        assert reported in str(raised.value)
    with pytest.raises(ConfigError, match=r"model\.outputs: .* is a layers model"):
        load(str(layers_folder), outputs=["y"])
    shard = next(layers_folder.glob("*.bin"))
    with pytest.raises(ModelError, match="a shard of the weights of a TensorFlow"):
        checkpoint.load(str(shard))
