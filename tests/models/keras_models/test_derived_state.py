"""State that layers derive from their weights, against Keras itself."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from extractkit.component import Component
from extractkit.models.keras_file import load
from extractkit.models.keras_models.model import KerasModel
from extractkit.values import Array
from tests.models import derived_layers
from tests.models.derived_layers import KERASES, KINDS, build, inputs, trained
from tests.models.programs import values_of

# SpectralNormalization of tf-keras 2.21 cannot be built: it takes InputSpec from Keras 3.
EVERY = [
    (which, kind)
    for which in KERASES
    for kind in KINDS
    if (which, kind) != ("tf_keras", "spectral")
]


def output(model: KerasModel, kind: str) -> Array:
    x = inputs(kind)
    return values_of(model, [":output"], {"x": x.astype(object) if x.dtype.kind == "U" else x})[
        ":output"
    ]


def factory(which: str, kind: str) -> Component:
    arguments = {"which": which, "kind": kind}
    return Component("model.factory", f"{derived_layers.__name__}.build", arguments)


def plain(which: str, kind: str, file: Path) -> Array:
    """What a program gets that builds the architecture, loads the weights and predicts."""
    keras.utils.set_random_seed(0)
    model = build(which, kind)
    model.load_weights(str(file))
    return np.asarray(model.predict(tf.constant(inputs(kind)), verbose=0))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of tf-keras
@pytest.mark.parametrize(("which", "kind"), EVERY)
def test_values_are_those_of_keras_wherever_the_weights_come_from(
    which: str, kind: str, tmp_path: Path
) -> None:
    files = []
    for seed in (1, 2):
        model = trained(which, kind, seed)
        files.append(tmp_path / f"step_{seed}.weights.h5")
        model.save_weights(files[-1])
    expected = [plain(which, kind, file) for file in files]
    assert np.abs(expected[0] - expected[1]).max() > 1e-3

    architecture = factory(which, kind)
    loaded = load(factory=architecture, checkpoint=str(files[1]))
    np.testing.assert_allclose(output(loaded, kind), expected[1], rtol=1e-5)

    axis = load(factory=architecture, checkpoints=f"{tmp_path}/step_*.weights.h5")
    assert axis.checkpoints is not None
    axis.checkpoints.choose("fail")
    for position in (0, 1, 0):
        axis.checkpoints.use(position)
        np.testing.assert_allclose(output(axis, kind), expected[position], rtol=1e-5)

    model.save(tmp_path / "whole.keras")
    read = KERASES[which].models.load_model(tmp_path / "whole.keras", compile=False)
    whole = np.asarray(read.predict(tf.constant(inputs(kind)), verbose=0))
    np.testing.assert_allclose(output(load(str(tmp_path / "whole.keras")), kind), whole, rtol=1e-5)

    # Keras 3 reads no such file, and tf-keras leaves what it derives as it was; this is right.
    trained_itself = np.asarray(model.predict(tf.constant(inputs(kind)), verbose=0))
    tf.train.Checkpoint(model).write(str(tmp_path / "ckpt"))
    loaded = load(factory=architecture, checkpoint=str(tmp_path / "ckpt"))
    np.testing.assert_allclose(output(loaded, kind), trained_itself, rtol=1e-5)
