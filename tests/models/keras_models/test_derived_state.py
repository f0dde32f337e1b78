"""State that layers derive from their weights, against Keras itself."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from extractkit.core.catalog import Kind
from extractkit.core.component import Component
from extractkit.core.values import Array
from extractkit.errors import ModelError
from extractkit.models.in_memory import live_model
from extractkit.models.keras_file import load
from extractkit.models.keras_models.layer_state import LayerState
from extractkit.models.keras_models.model import KerasModel
from tests.models import derived_layers
from tests.models.derived_layers import KERASES, KINDS, NUMBERS, build, inputs, trained
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
    """What a program gets that builds the architecture, loads the weights and calls the model."""
    keras.utils.set_random_seed(0)
    model = build(which, kind)
    model.load_weights(str(file))
    return called(model, kind)


def called(model: Any, kind: str) -> Array:
    """The output of Keras's own call, which unlike `predict` traces nothing."""
    return np.asarray(model(tf.constant(inputs(kind)), training=False))


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
    whole = called(read, kind)
    np.testing.assert_allclose(output(load(str(tmp_path / "whole.keras")), kind), whole, rtol=1e-5)

    # Keras 3 reads no such file, and tf-keras leaves what it derives as it was; this is right.
    trained_itself = called(model, kind)
    tf.train.Checkpoint(model).write(str(tmp_path / "ckpt"))
    loaded = load(factory=architecture, checkpoint=str(tmp_path / "ckpt"))
    np.testing.assert_allclose(output(loaded, kind), trained_itself, rtol=1e-5)


@pytest.mark.parametrize("file", ["ckpt", "w.weights.h5"])
@pytest.mark.parametrize("kind", ["lookup", "tf_idf"])
def test_adapted_lookup_layers_of_keras_2_take_their_own_weights(
    kind: str, file: str, tmp_path: Path
) -> None:
    """Against tf-keras. Its files hold, or lack, the counts that only `adapt` uses."""
    layers = KERASES["tf_keras"].layers
    if kind == "lookup":
        words = layers.StringLookup(output_mode="count", name="words")
        words.adapt(["a", "b"])
    else:
        words = layers.TextVectorization(output_mode="tf_idf", name="words")
        words.adapt(["a b", "b", "c"])
    x = KERASES["tf_keras"].Input((1,), dtype="string", name="x")
    model = KERASES["tf_keras"].Model(x, layers.Dense(2, name="out")(words(x)))
    model.save(tmp_path / "m.keras")
    for variable in model.get_layer("out").weights:
        variable.assign(np.random.default_rng(1).normal(size=variable.shape))
    model.save_weights(tmp_path / file)
    given = tf.constant([["a"], ["b"], ["a b"], ["zz"]])
    expected = np.asarray(model.predict(given, verbose=0))
    loaded = load(str(tmp_path / "m.keras"), checkpoint=str(tmp_path / file))
    found = values_of(loaded, [":output"], {"x": given.numpy()})[":output"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_one_trace_serves_where_layers_derive_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (1, 2):
        trained("keras", "rescaling", seed).save_weights(tmp_path / f"step_{seed}.weights.h5")
    axis = load(factory=factory("keras", "rescaling"), checkpoints=f"{tmp_path}/step_*.weights.h5")
    assert axis.checkpoints is not None
    axis.checkpoints.choose("fail")
    calls = []
    call = keras.layers.Dense.call
    monkeypatch.setattr(
        keras.layers.Dense, "call", lambda *given, **named: calls.append(1) or call(*given, **named)
    )
    traced = []
    for position in (0, 1):
        axis.checkpoints.use(position)
        output(axis, "rescaling")
        traced.append(len(calls))
    assert traced[0] == traced[1] > 0


@pytest.mark.parametrize("which", KERASES)
def test_what_is_no_variable_is_no_weight(which: str) -> None:
    k = KERASES[which]
    layer = derived_layers.Odd3() if which == "keras" else derived_layers.Odd2()
    x = k.Input((4,))
    model = live_model(k.Model(x, k.layers.Dense(2)(layer(x))))
    weights = [one.address for one in model.catalog.records if one.kind is Kind.WEIGHT]
    assert weights == ["dense:kernel", "dense:bias"]
    assert LayerState.of(model.keras_model).changed(LayerState.of(model.keras_model)) == []


def test_a_file_is_read_by_the_keras_that_wrote_it(tmp_path: Path) -> None:
    model = trained("tf_keras", "nested", 1)
    expected = np.asarray(model.predict(NUMBERS, verbose=0))
    with pytest.warns(UserWarning, match="legacy"):
        model.save(tmp_path / "whole.h5")
    read = load(str(tmp_path / "whole.h5"))
    assert read.dialect.name == "Keras 2"
    np.testing.assert_allclose(output(read, "nested"), expected, rtol=1e-6)


def test_state_that_keras_loses_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained("keras", "nested", 1).save(tmp_path / "whole.h5")
    plainly = keras.models.load_model(tmp_path / "whole.h5", compile=False)
    read = load(str(tmp_path / "whole.h5"))
    np.testing.assert_allclose(
        output(read, "nested"), plainly.predict(NUMBERS, verbose=0), rtol=1e-6
    )
    (said,) = [one.getMessage() for one in caplog.records if one.name.endswith("layer_state")]
    assert "Keras 3 does not derive the state of layer 'inner/norm'" in said
    assert read.describe()["derived_state"] == {"stale_layers": ["inner/norm"]}


def test_checkpoints_whose_state_would_be_that_of_others_are_refused(tmp_path: Path) -> None:
    trained("keras", "nested", 1).save_weights(tmp_path / "step_1.weights.h5")
    trained("keras", "nested", 2).save(tmp_path / "step_2.h5")
    axis = load(factory=factory("keras", "nested"), checkpoints=f"{tmp_path}/step_*.h5")
    assert axis.checkpoints is not None
    with pytest.raises(ModelError, match="leaves layer 'inner/norm' in the state of the weights"):
        axis.checkpoints.choose("fail")


def test_a_lookup_layer_without_a_vocabulary_is_named(tmp_path: Path) -> None:
    x = keras.Input((1,), dtype="string")
    words = keras.layers.TextVectorization(name="words")
    words.adapt(["a good film", "bad film"])
    keras.Model(x, keras.layers.Embedding(10, 2)(words(x))).save(tmp_path / "text.h5")
    with pytest.raises(ModelError, match=r"layer 'words/string_lookup.*' has no vocabulary.*keras"):
        load(str(tmp_path / "text.h5"))
