"""What a path holds: each kind of file that people have, distinguished by its content."""

import gzip
import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from extractkit.errors import ModelError
from extractkit.models.recognition import recognize, refuse_others

v1 = tf.compat.v1


def graph_def() -> tf.compat.v1.GraphDef:
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 3], "x")
        tf.nn.relu(x, name="y")
    return graph.as_graph_def()


def meta_graph() -> v1.MetaGraphDef:
    meta = v1.MetaGraphDef(graph_def=graph_def())
    meta.meta_info_def.tensorflow_version = "1.15"
    return meta


def saved_model() -> saved_model_pb2.SavedModel:
    return saved_model_pb2.SavedModel(saved_model_schema_version=1, meta_graphs=[meta_graph()])


def zipped(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, "{}")
    return content.getvalue()


def onnx() -> bytes:
    """ModelProto: ir_version 8, producer "pytorch", a graph, an opset."""
    return b"\x08\x08\x12\x07pytorch\x1a\x031.9\x3a\x04\x0a\x02\x0a\x00\x42\x02\x10\x0d"


def core_ml() -> bytes:
    """Model: specificationVersion 4, a description, a neural network (field 500)."""
    return b"\x08\x04\x12\x02\x0a\x00\xa2\x1f\x02\x0a\x00"


def hdf5(attributes: dict[str, str]) -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs.update(attributes)
    return content.getvalue()


def safetensors() -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + b"\0\0\0\0"


def npz() -> bytes:
    content = io.BytesIO()
    np.savez(content, a=np.ones(2))
    return content.getvalue()


OLD_PYTORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
LAYERS = {"modelTopology": {}, "weightsManifest": []}
CHECKPOINT = b'model_checkpoint_path: "model.ckpt-1"\n'

FILES = [
    ("graph.pb", lambda: graph_def().SerializeToString(), "frozen_graph", "a GraphDef"),
    ("graph.pbtxt", lambda: str(graph_def()).encode(), "frozen_graph", "a GraphDef as text"),
    ("saved_model.pb", lambda: saved_model().SerializeToString(), "saved_model", "SavedModel"),
    ("m.meta", lambda: meta_graph().SerializeToString(), "meta_graph", "MetaGraphDef without its"),
    ("model.tflite", lambda: b"\x1c\0\0\0TFL3" + bytes(20), "tflite", "TensorFlow Lite"),
    ("no_ending", lambda: b"\x1c\0\0\0TFL3" + bytes(20), "tflite", "TensorFlow Lite"),
    ("m.keras", lambda: zipped("config.json", "metadata.json"), "keras", "a Keras archive"),
    ("m.h5", lambda: hdf5({"model_config": "{}"}), "keras", "a Keras model in HDF5"),
    ("m.h5", lambda: hdf5({"layer_names": "[]"}), "checkpoint", "an HDF5 file without an"),
    ("m.safetensors", safetensors, "checkpoint", "weights in safetensors"),
    ("checkpoint", lambda: CHECKPOINT, "checkpoint", "the state file"),
    ("model.json", lambda: json.dumps(LAYERS).encode(), "tensorflow_js", "TensorFlow.js"),
    ("m.task", lambda: zipped("a.tflite", "METADATA"), "tflite", "a bundle of TensorFlow Lite"),
    ("m.pkl", lambda: pickle.dumps({"w": 1}), None, "a pickle"),
    ("m.bin", lambda: pickle.dumps({"w": 1}), None, "a pickle"),
    ("m.joblib", lambda: pickle.dumps([1], 0), None, "a pickle"),
    ("m.pth", lambda: OLD_PYTORCH, None, "a pickle of PyTorch"),
    ("m.pt", lambda: zipped("m/data.pkl", "m/data/0"), None, "a pickle of PyTorch"),
    ("s.pt", lambda: zipped("m/data.pkl", "m/code/a.py", "m/constants.pkl"), None, "TorchScript"),
    ("m.onnx", onnx, None, "an ONNX model"),
    ("m.mlmodel", core_ml, None, "a Core ML model"),
    ("m.json", lambda: b'{"class_name": "Sequential", "config": {}}', None, "the architecture"),
    ("m.tar.gz", lambda: gzip.compress(b"x"), None, "a file packed with gzip"),
    ("m.zip", lambda: zipped("readme.txt"), None, "a zip archive"),
    ("m.npz", npz, None, "an archive of NumPy arrays"),
    ("m.gguf", lambda: b"GGUF" + bytes(20), None, "a GGUF file"),
    ("m.pb", lambda: LFS, None, "a pointer of Git LFS"),
    ("m.h5", lambda: b"<!DOCTYPE html><html></html>", None, "a web page"),
    ("m.pb", lambda: b"", None, "an empty file"),
    ("saved_model.cpb", lambda: b"\x0a\x03abc", None, "split format"),
    ("v.data-00000-of-00001", lambda: bytes(8), None, "without its index"),
]


@pytest.mark.parametrize(("name", "content", "model", "what"), FILES)
def test_a_file_is_recognized(
    name: str, content: Callable[[], bytes], model: str | None, what: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_bytes(content())
    found = recognize(str(file))
    assert found is not None
    assert found.model == model
    assert what in found.what
    assert found.advice or found.model


@pytest.mark.parametrize(
    "content", [bytes(30), b"hello, world", b"\xff\xfe\x08\x01", b"\x0a\x02\x08"]
)
def test_anything_else_is_not(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    assert recognize(str(file)) is None


def test_every_start_of_a_file_can_be_looked_at(tmp_path: Path) -> None:
    """Whatever is cut off or changed, nothing raises."""
    file = tmp_path / "file"
    generator = np.random.default_rng(0)
    for _, content, _, _ in FILES:
        whole = content()
        for _ in range(8):
            data = bytearray(whole[: generator.integers(0, len(whole) + 1)])
            if data:
                data[generator.integers(0, len(data))] ^= 1 << generator.integers(0, 8)
            file.write_bytes(bytes(data))
            recognize(str(file))


def test_folders(tmp_path: Path) -> None:
    def folder(name: str, **files: bytes) -> str:
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file.replace("__", ".")).write_bytes(content)
        return str(tmp_path / name)

    def model(path: str) -> str | None:
        found = recognize(path)
        return None if found is None else found.model

    assert model(folder("s", saved_model__pb=saved_model().SerializeToString())) == "saved_model"
    assert model(folder("b", bert_config__json=b"{}")) == "bert"
    assert model(folder("j", model__json=json.dumps(LAYERS).encode())) == "tensorflow_js"
    assert model(folder("h", config__json=b'{"model_type": "bert"}')) == "hugging_face"
    assert model(folder("t", model__tflite=b"\x1c\0\0\0TFL3", readme__md=b"#")) == "tflite"
    assert recognize(folder("empty")) is None
    assert recognize(str(tmp_path / "nowhere")) is None
    assert recognize("a\0b") is None


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("gs://bucket/m", "gcloud storage cp -r gs://bucket/m ."),
        ("s3://bucket/m", "aws s3 cp --recursive s3://bucket/m NAME"),
        ("s3://bucket/m/net.keras", "aws s3 cp s3://bucket/m/net.keras ."),
        ("hf://google/bert", "hf download google/bert --local-dir NAME"),
        ("hf://a/b@v2/net.keras", "hf download a/b net.keras --revision v2 --local-dir NAME"),
        ("https://huggingface.co/gpt2", "hf download gpt2 --local-dir NAME"),
        ("https://huggingface.co/a/b/tree/main", "hf download a/b --local-dir NAME"),
        ("https://hf.co/a/b/tree/main/c", "hf download a/b --include 'c/*' --local-dir NAME"),
        (
            "https://huggingface.co/a/b/blob/v2/c/net.keras?download=true",
            "hf download a/b c/net.keras --revision v2 --local-dir NAME",
        ),
        ("https://host/m.tflite", "curl -LO https://host/m.tflite"),
        ("abfs://x/y", "Copy it to this machine and give the path of the copy"),
    ],
)
def test_places_elsewhere(path: str, advice: str) -> None:
    with pytest.raises(ModelError) as raised:
        refuse_others(path, "saved_model")
    assert str(raised.value).startswith(f"model.path={path!r} is not on this machine. ")
    assert advice in str(raised.value)


@pytest.mark.parametrize("host", ["", "localhost"])
def test_a_url_of_a_local_file_is_answered_with_its_path(host: str) -> None:
    with pytest.raises(ModelError, match=r"of a local file\. Give its path: /models/a b\.keras$"):
        refuse_others(f"file://{host}/models/a%20b.keras", "keras")


def test_nothing_is_imported_to_look_at_a_file() -> None:
    code = (
        "import sys; from extractkit.models.recognition import recognize; recognize('.');"
        "print([m for m in ('tensorflow', 'keras', 'h5py', 'pickle') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "tensorflow" not in done.stdout
    assert "keras" not in done.stdout
