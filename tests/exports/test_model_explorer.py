"""Node data for Model Explorer: on the right nodes, with numbers counted from the values."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import extractkit
from extractkit.core.values import Array
from extractkit.errors import ConfigError, MissingExtraError, RunDirectoryError
from extractkit.runs.reader import Run
from tests.runs.trajectory_examples import made

ADAPTER = "ai_edge_model_explorer_adapter"
X = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
HIDDEN = "/Relu"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as a SavedModel, a frozen graph, and in TensorFlow Lite with and without int8."""
    folder = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(3, "relu", name="hidden")
    model = keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(2, name="logit")])
    model.export(folder / "saved", verbose=False)
    for name, settings in (
        ("float", {}),
        (
            "int8",
            {
                "optimizations": [tf.lite.Optimize.DEFAULT],
                "representative_dataset": lambda: ([row[np.newaxis]] for row in X),
            },
        ),
    ):
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"))
        vars(converter).update(settings)
        (folder / f"{name}.tflite").write_bytes(converter.convert())
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, (None, 4), "x")
        first, second = tf.split(x, 2, axis=1, name="halves")
        tf.add(first, second * 3.0, name="Identity")
    (folder / "net.pb").write_bytes(graph.as_graph_def().SerializeToString())
    return folder


def run_of(folder: Path, model: str, name: str, into: Path) -> Run:
    selectors = {"all": {"path": "*"}}
    chosen = [f"model={model}", f"model.path={folder / name}"]
    return extractkit.extract(chosen, inputs=X, selectors=selectors, run_dir=into)


def numbers(directory: Path) -> dict[str, Any]:
    """Return the results of each file."""
    files = {path.stem: json.loads(path.read_text("utf-8")) for path in directory.iterdir()}
    assert all(path.suffix == ".json" for path in directory.iterdir())
    return files


def test_nodes_of_tflite_are_found_by_tensors_and_show_errors(folder: Path, tmp_path: Path) -> None:
    reference = run_of(folder, "tflite", "float.tflite", tmp_path / "float")
    run = run_of(folder, "tflite", "int8.tflite", tmp_path / "int8")
    (hidden,) = (key for key in reference if HIDDEN in reference[key].record.name)
    real = hidden.replace(":0", ":dequantized")
    path = extractkit.export(
        *(run.path, "model-explorer", tmp_path / "nodes"),
        reference=reference.path,
        mapping={hidden: real},
    )
    found = {name: data["results"] for name, data in numbers(path).items()}
    interpreter = Interpreter(str(folder / "int8.tflite"))
    names = {one["name"] for one in interpreter.get_tensor_details()}
    assert all(data.keys() <= names for data in found.values())
    name = run[hidden].record.name
    a, b = (np.asarray(one, np.float64) for one in (reference[hidden], run[real]))
    relative = np.linalg.norm(a - b) / np.linalg.norm(a)
    assert relative > 0
    assert found["relative-error"] == {name: {"value": pytest.approx(relative)}}
    assert found["largest-error"] == {name: {"value": pytest.approx(np.abs(a - b).max())}}
    assert found["max"][name]["value"] == pytest.approx(b.max())
    assert found["bytes-per-sample"][name]["value"] == 3  # of int8, not of the real numbers
    assert {one["value"] for one in found["not-finite"].values()} == {0}
    assert not extractkit.verify(run.path).failed


class Converter(ModuleType):
    """A converter that numbers nodes in the order of the graph, as Model Explorer does."""

    VisualizeConfig = SimpleNamespace

    def __init__(self, functions: dict[str, list[str]]) -> None:
        super().__init__(ADAPTER)
        self.functions = functions

    def ConvertGraphDefDirectlyToJson(self, config: object, path: str) -> str:  # noqa: N802
        graph = tf.compat.v1.GraphDef.FromString(Path(path).read_bytes())
        graphs = {"main": [node.name for node in graph.node], **self.functions}
        nodes = {
            name: [{"id": str(at), "namespace": one} for at, one in enumerate(each)]
            for name, each in graphs.items()
        }
        return json.dumps(
            [{"subgraphs": [{"id": name, "nodes": each} for name, each in nodes.items()]}]
        )


@pytest.fixture
def frozen(folder: Path, tmp_path: Path) -> Run:
    return run_of(folder, "frozen_graph", "net.pb", tmp_path / "frozen")


def node_of(folder: Path, name: str) -> str:
    graph = tf.compat.v1.GraphDef.FromString((folder / "net.pb").read_bytes())
    return str([node.name for node in graph.node].index(name))


def test_nodes_of_a_graph_have_the_numbers_of_the_converter(
    folder: Path, frozen: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, ADAPTER, Converter({}))
    found = numbers(extractkit.export(frozen.path, "model-explorer"))
    assert {*found["max"]} == {"main"}
    largest = found["max"]["main"]["results"]
    # An operation with two tensors shows the larger of both, and the bytes of both.
    assert largest[node_of(folder, "halves")]["value"] == pytest.approx(X.max())
    sizes = found["bytes-per-sample"]["main"]["results"]
    assert sizes[node_of(folder, "halves")]["value"] == 16
    added = (X[:, :2] + 3 * X[:, 2:]).max()
    assert largest[node_of(folder, "Identity")]["value"] == pytest.approx(added)


def test_an_operation_of_an_inner_function_does_not_get_another_ones_numbers(
    folder: Path, frozen: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, ADAPTER, Converter({"inner": ["Identity"], "g": ["mul"]}))
    found = numbers(extractkit.export(frozen.path, "model-explorer"))
    assert {*found["max"]} == {"main"}
    assert node_of(folder, "Identity") not in found["max"]["main"]["results"]


def test_the_graph_must_be_that_of_the_run(
    folder: Path, frozen: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, ADAPTER, Converter({}))
    content = (folder / "net.pb").read_bytes()
    (folder / "net.pb").write_bytes(content + b"\0")
    with pytest.raises(RunDirectoryError, match=r"is of another model than is at .* has changed"):
        extractkit.export(frozen.path, "model-explorer")
    (folder / "net.pb").write_bytes(content)
    assert not frozen.path.with_name("frozen.model-explorer").exists()


def test_what_it_cannot_show_is_refused(
    frozen: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, ADAPTER, None)
    with pytest.raises(MissingExtraError, match=r"of a TensorFlow graph needs ai_edge_model_ex"):
        extractkit.export(frozen.path, "model-explorer")
    other = made(tmp_path / "other").path
    with pytest.raises(RunDirectoryError, match=r"model=model, of which Model Explorer has no gr"):
        extractkit.export(other, "model-explorer")
    with pytest.raises(ConfigError, match=r"^reference='x': tensorboard does not show how far"):
        extractkit.export(other, "tensorboard", reference="x")
    with pytest.raises(ConfigError, match=r"^mapping is between the reference and the run"):
        extractkit.export(other, "model-explorer", mapping={})


@pytest.mark.oracle
@pytest.mark.skipif(find_spec(ADAPTER) is None, reason=f"{ADAPTER} is not installed")
@pytest.mark.parametrize(
    ("model", "name"), [("saved_model", "saved"), ("frozen_graph", "net.pb"), ("tflite", "")]
)
def test_model_explorer_itself_has_these_nodes(
    folder: Path, tmp_path: Path, model: str, name: str
) -> None:
    import ai_edge_model_explorer_adapter as adapter

    name = name or "float.tflite"
    run = run_of(folder, model, name, tmp_path / "run")
    found = numbers(extractkit.export(run.path, "model-explorer"))["max"]
    config, path = adapter.VisualizeConfig(), str(folder / name)
    convert = {
        "saved_model": [
            adapter.ConvertSavedModelDirectlyToJson,
            adapter.ConvertSavedModelToJson,
        ],
        "frozen_graph": [adapter.ConvertGraphDefDirectlyToJson],
        "tflite": [adapter.ConvertFlatbufferDirectlyToJson],
    }[model]
    graphs = {
        graph["id"]: graph
        for one in convert
        for collection in json.loads(one(config, path))
        for graph in collection["subgraphs"]
    }
    by_operation = {run[key].record.address.rpartition(":")[0]: run[key] for key in run}
    if model == "tflite":
        attributes = [a for n in graphs["main"]["nodes"] for a in n["outputsMetadata"]]
        tensors = {one["value"] for a in attributes for one in a["attrs"] if one["key"] == TENSOR}
        assert found["results"].keys() <= tensors
        return
    assert len(found) == len(convert)
    for graph, data in found.items():
        nodes = {node["id"]: node["namespace"] for node in graphs[graph]["nodes"]}
        assert len(data["results"]) > 2
        for node, one in data["results"].items():
            values: Array = np.asarray(by_operation[nodes[node]])
            if nodes[node] != "halves":
                assert one["value"] == pytest.approx(float(values.max()))


TENSOR = "tensor_name"
