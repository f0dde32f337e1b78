"""Small files of weights, written by the libraries that own the formats."""

from pathlib import Path

import h5py
import keras
import numpy as np
import tensorflow as tf
from safetensors.numpy import save_file

v1 = tf.compat.v1


def named_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights as PyTorch names them."""
    draw = np.random.default_rng(seed)
    return {
        "encoder.layer.0.query.weight": draw.normal(size=(5, 4)).astype(np.float32),
        "encoder.layer.0.query.bias": draw.normal(size=4).astype(np.float32),
        "encoder.layer.10.query.bias": draw.normal(size=4).astype(np.float16),
        "encoder.layer.2.query.bias": draw.normal(size=4),
        "scale": np.array(3, np.int64),
        "empty": np.zeros((0, 3), np.float32),
    }


def safetensors(file: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """A `.safetensors` file, and what is in it."""
    arrays = named_arrays(seed)
    save_file(arrays, file)
    return arrays


def trained_model(dtype: str = "float32") -> keras.Model:
    """A Keras model with nested layers, after one step of Adam."""
    keras.utils.set_random_seed(0)
    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, name="logits", dtype=dtype),
            keras.layers.Dropout(0.5),
            keras.layers.BatchNormalization(),
            inner,
        ]
    )
    model.compile("adam", "mse")
    model.fit(np.ones((2, 4)), np.ones((2, 2)), verbose=0)
    return model


def legacy_hdf5(file: Path) -> dict[str, np.ndarray]:
    """Weights as Keras 2 writes them, made by hand: what is in it, by dataset."""
    draw = np.random.default_rng(0)
    arrays = {
        "dense_1/dense_1/kernel:0": draw.normal(size=(4, 3)).astype(np.float32),
        "dense_1/dense_1/bias:0": draw.normal(size=3).astype(np.float32),
        "lstm_1/lstm_1_1/recurrent_kernel:0": draw.normal(size=(2, 8)).astype(">f4"),
        "bidirectional/bidirectional/forward_lstm/kernel:0": draw.normal(size=(2, 8)),
    }
    with h5py.File(file, "w") as opened:
        opened.attrs["layer_names"] = [key.encode() for key in ("dense_1", "lstm_1")]
        for key, array in arrays.items():
            opened[key] = array
    return arrays


def graph_checkpoint(folder: Path, version: int = 2) -> dict[str, np.ndarray]:
    """A checkpoint of TF1's Saver with the slots of two optimizers: what is in it, by name."""
    folder.mkdir(exist_ok=True)
    graph = tf.Graph()
    with graph.as_default(), v1.Session() as session:
        v1.set_random_seed(1)
        conv = v1.get_variable("conv/kernel", [3, 4], use_resource=False)
        bias = v1.get_variable("conv/bias", [4], use_resource=True)
        top = v1.get_variable("top", [2])
        loss = sum(tf.reduce_sum(tf.square(one - 1.0)) for one in (conv, bias, top))
        step = v1.train.get_or_create_global_step()
        adam = v1.train.AdamOptimizer().minimize(loss, step)
        with v1.variable_scope("second"):
            momentum = v1.train.MomentumOptimizer(0.1, 0.9).minimize(loss, var_list=[conv])
        average = tf.train.ExponentialMovingAverage(0.5).apply([bias])
        session.run(v1.global_variables_initializer())
        for update in (adam, momentum, average):  # together, they would race
            session.run(update)
        saver = v1.train.Saver(write_version=version)
        saver.save(session, str(folder / "model.ckpt"), global_step=7)
        variables = v1.global_variables()
        return dict(zip((one.op.name for one in variables), session.run(variables), strict=True))
