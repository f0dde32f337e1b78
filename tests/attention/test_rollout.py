"""Attention rollout and relevance: NumPy in float64 on the maps and gradients that are stored."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import extractkit
from extractkit import Run
from extractkit.core.rollout import sequence_of
from extractkit.core.selectors import parse_selector
from extractkit.core.values import Array
from extractkit.engine import Silent
from extractkit.errors import ConfigError, SelectionError
from extractkit.models.in_memory import live_model
from tests.attention.chosen import chosen
from tests.gradients.test_methods import frozen_keras

MAPS = "att*:op/Softmax"
READY = [
    "selectors=[attention,attention_rollout,attention_gradient]",
    f"+selectors.slope={{path: '{MAPS}', gradient: {{of: argmax}}}}",
]
ROLLOUT, RELEVANCE = "@rollout", "@grad@attention_gradient"
Build = Callable[..., Any]


def encoder(attention: Build, dtype: str | None = None, axis: int | None = None) -> keras.Model:
    """Return a classifier of tokens, of which 0 is masked, with three layers of attention."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((axis,), dtype="int32", name="ids")
    seen = keras.ops.not_equal(ids, 0)[:, None, :]
    x = layers.Embedding(20, 8, name="words", dtype=dtype)(ids)
    for number in range(3):
        own = attention(name=f"att{number}", dtype=dtype)
        x = layers.LayerNormalization(dtype=dtype)(x + own(x, x, attention_mask=seen))
    return keras.Model(ids, layers.Dense(3, name="head", dtype=dtype)(x[:, 0]))


def multi_head(**named: Any) -> layers.Layer:
    return layers.MultiHeadAttention(2, 4, **named)


def grouped(**named: Any) -> layers.Layer:
    return layers.GroupQueryAttention(4, 4, 2, **named)


def texts(*lengths: int) -> list[dict[str, Array]]:
    """Return samples of these lengths."""
    draw = np.random.default_rng(0)
    return [{"ids": draw.integers(1, 20, size).astype("int32")} for size in lengths]


def rollout_of(maps: Sequence[Array]) -> Array:
    """Return the rollout of one sample's maps (heads, tokens, tokens)."""
    total = np.eye(maps[0].shape[-1])
    for one in maps:
        own = one.astype(np.float64).mean(0) + np.eye(len(total))
        total = own / own.sum(-1, keepdims=True) @ total
    return total


def relevance_of(maps: Sequence[Array], gradients: Sequence[Array]) -> Array:
    """Return the relevance of one sample, from maps and gradients."""
    total = np.eye(maps[0].shape[-1])
    for one, gradient in zip(maps, gradients, strict=True):
        weights = np.maximum(one.astype(np.float64) * gradient.astype(np.float64), 0).mean(0)
        total = total + weights @ total
    return total


def check(run: Run, maps: Mapping[str, str], rtol: float) -> None:
    """Check every sample of a run.

    Args:
        maps: the key of the gradient of each map.
    """
    *_, last = maps
    for at in range(len(run.samples)):
        values = [run[key].sample(at) for key in maps]
        wanted = rollout_of(values)
        np.testing.assert_allclose(run[last + ROLLOUT].sample(at), wanted, rtol, rtol)
        gradients = [run[key].sample(at) for key in maps.values()]
        wanted = relevance_of(values, gradients)
        np.testing.assert_allclose(run[last + RELEVANCE].sample(at), wanted, rtol, rtol)


def own_maps(run: Run) -> dict[str, str]:
    """Return the maps of a run of `READY` in order, with the keys of their gradients."""
    of = [one for one in run.manifest.tensors if "slope" in one.selectors]
    return {one.record.address: one.key for one in of}


@pytest.mark.parametrize(
    ("attention", "dtype", "rtol"),
    [(multi_head, None, 1e-6), (grouped, None, 1e-6), (multi_head, "float16", 2e-3)],
    ids=["heads", "grouped", "float16"],
)
def test_maps_of_all_layers_are_combined(
    attention: Build, dtype: str | None, rtol: float, tmp_path: Path
) -> None:
    model, samples = encoder(attention, dtype), texts(5, 4, 7, 1, 6)
    run = extractkit.extract(
        [*READY, "runtime.batch_size=3"], model=model, inputs=samples, run_dir=tmp_path / "run"
    )
    maps = own_maps(run)
    assert len(maps) == 3
    check(run, maps, rtol)
    last = "att2:op/Softmax"
    view = run[last + ROLLOUT]
    assert view.dims == ("sample", "query", "key")
    assert view.dtype == run[last].dtype
    assert view.request == {"rollout": list(maps)}
    assert view.gradient is None
    assert run[last + RELEVANCE].gradient == {
        "tensor": ":output", "index": "argmax", "relevance": list(maps),
    }  # fmt: skip
    rows = np.concatenate([view.sample(at).sum(-1) for at in range(5)])
    np.testing.assert_allclose(rows, 1, atol=10 * rtol)
    if dtype is None:
        assert run.manifest.settings["sharing"] == "samples of any lengths"
    alone = extractkit.extract(
        [*READY, "runtime.batch_size=1"], model=model, inputs=samples, run_dir=tmp_path / "alone"
    )
    for key in (last + ROLLOUT, last + RELEVANCE):
        for at in range(5):
            one, other = run[key].sample(at), alone[key].sample(at)
            np.testing.assert_allclose(one, other, rtol, rtol)
    assert not extractkit.verify(tmp_path / "run").failed


class Impatient(Silent):
    """Interrupts a job once a shard is committed."""

    def advanced(self, samples: int, stored: int) -> None:
        if stored:
            raise KeyboardInterrupt


def job_on(model: Any, kind: str, folder: Path) -> list[str]:
    """Save a model in a format, and five samples with a masked token, and return a job on them."""
    if kind == "tflite":
        content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
        (folder / "net.tflite").write_bytes(content)
    elif kind == "keras":
        model.save(folder / "net.keras")
    elif kind == "frozen_graph":
        frozen_keras(model, folder / "net.pb")
    else:
        model.export(folder / "saved_model", verbose=False)
    names = {"keras": "net.keras", "tflite": "net.tflite", "frozen_graph": "net.pb"}
    path = folder / names.get(kind, "saved_model")
    ids = np.random.default_rng(0).integers(1, 20, (5, 6), "int32")
    ids[:, 3] = 0
    np.save(folder / "ids.npy", ids)
    given = ["inputs=arrays", f"inputs.path={folder / 'ids.npy'}", "runtime.shard_size=2"]
    return [f"model={kind}", f"model.path={path}", *given]


def test_a_resumed_run_is_that_of_one_go(tmp_path: Path) -> None:
    job = [*job_on(encoder(multi_head), "keras", tmp_path), *READY]
    whole = extractkit.extract(job, run_dir=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        extractkit.extract(job, run_dir=tmp_path / "stopped", listener=Impatient())
    resumed = extractkit.resume(tmp_path / "stopped")
    assert resumed.journal.digests() == whole.journal.digests()
    same = extractkit.diff(tmp_path / "whole", tmp_path / "stopped")
    assert {one.verdict.value for one in same.tensors} == {"equal"}


@pytest.mark.parametrize("kind", ["saved_model", "frozen_graph", "tflite"])
def test_other_formats(kind: str, tmp_path: Path) -> None:
    job = job_on(encoder(multi_head, axis=6), kind, tmp_path)
    if kind == "tflite":
        wanted = ["selectors=[attention,attention_rollout]"]
    else:
        softmax = "*att*/Softmax:0"
        wanted = [READY[0], READY[1].replace(MAPS, softmax)]
    run = extractkit.extract([*job, *wanted], run_dir=tmp_path / "run")
    maps = [key for key, view in run.items() if not view.request]
    assert len(maps) == 3
    key = maps[-1] + ROLLOUT
    for at in range(5):
        values = [run[one].sample(at) for one in maps]
        np.testing.assert_allclose(run[key].sample(at), rollout_of(values), 1e-6, 1e-6)
    if kind != "tflite":
        check(run, own_maps(run), 1e-6)
    of_masked = np.delete(np.asarray(run[key])[..., 3], 3, axis=1)
    np.testing.assert_array_equal(of_masked, 0)
    assert not extractkit.verify(tmp_path / "run", recompute=2).failed


class Eager(tf.Module):
    def __init__(self) -> None:
        self.model = encoder(multi_head, axis=6)

    def __call__(self, ids: tf.Tensor) -> tf.Tensor:
        return self.model(ids)


def test_what_runs_operation_by_operation_has_no_order() -> None:
    how = [
        "model=module",
        f"model.factory._target_={__name__}.Eager",
        "model.eager=true",
        "model.input_axes={ids: {dims: [sample, 6], dtype: int32}}",
        "inputs=random",
    ]
    selector = "+selectors.r={op_type: Softmax, rollout: true}"
    with pytest.raises(SelectionError, match="the model's format does not record which tensors"):
        extractkit.plan([*how, "selectors=none", selector])
    with pytest.raises(SelectionError, match="computes no gradients, because it runs operation by"):
        extractkit.plan([*how, "selectors=none", selector.replace("rollout: true", _RELEVANT)])


_RELEVANT = "gradient: {of: argmax, relevance: true}"


def test_encoder_and_decoder_of_whisper(tmp_path: Path) -> None:
    """Each stack of self-attention has a rollout, for frames of a fixed number."""
    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.WhisperBackbone(20, 2, 2, 8, 16, 80, 0.0, 16, 6)
    frames, ids = keras.Input((16, 80), name="frames"), keras.Input((6,), dtype="int32", name="ids")
    mask = keras.ops.cast(keras.ops.not_equal(ids, 0), "int32")
    found = backbone(
        {"encoder_features": frames, "decoder_token_ids": ids, "decoder_padding_mask": mask}
    )
    model = keras.Model([frames, ids], layers.Dense(3)(found["decoder_sequence_output"][:, 0]))
    draw = np.random.default_rng(0)
    samples = {
        "frames": draw.normal(size=(3, 16, 80)).astype("float32"),
        "ids": draw.integers(1, 20, (3, 6)).astype("int32"),
    }
    rollouts = {
        "encoder": {"path": "*encoder*Softmax", "rollout": True},
        "decoder": {"path": "*decoder*/self_attention:op/Softmax", "rollout": True},
    }
    run = extractkit.extract(
        ["selectors=attention"],
        model=model,
        inputs=samples,
        selectors=rollouts,
        run_dir=tmp_path / "run",
    )
    for part, size in (("encoder", 8), ("decoder", 6)):
        maps = [one for one in run if part in one and "@" not in one and "cross" not in one]
        assert [run[one].shape for one in maps] == [(3, 2, size, size)] * 2
        for at in range(3):
            wanted = rollout_of([run[one].sample(at) for one in maps])
            np.testing.assert_allclose(run[maps[-1] + ROLLOUT].sample(at), wanted, 1e-6, 1e-6)
    with pytest.raises(SelectionError, match="has 6 queries and 8 keys, and only self-attention"):
        extractkit.plan(
            ["selectors=none"],
            model=model,
            inputs=samples,
            selectors={"r": {"path": "*cross*Softmax", "rollout": True}},
        )


def decoder(x: Any, memory: Any, number: int) -> Any:
    """Return a layer of a decoder, with self-attention and cross-attention."""
    own = layers.MultiHeadAttention(2, 4, name=f"own{number}")
    x = x + own(x, x, use_causal_mask=True)
    return x + layers.MultiHeadAttention(2, 4, name=f"cross{number}")(x, memory)


def translator(words: int | None, written: int | None) -> keras.Model:
    """Return a model with an encoder and a decoder of two layers each."""
    keras.utils.set_random_seed(0)
    source, target = (
        keras.Input((words, 8), name="source"),
        keras.Input((written, 8), name="target"),
    )
    memory, x = source, target
    for number in range(2):
        memory = memory + layers.MultiHeadAttention(2, 4, name=f"enc{number}")(memory, memory)
    for number in range(2):
        x = decoder(x, memory, number)
    return keras.Model([source, target], layers.Dense(3)(x))


def combined(model: Any, *paths: str) -> Any:
    """Return the maps of a model whose layers match, or why they are not combined."""
    live = live_model(model)
    records = [one for one in chosen(live) if any(one.layer.startswith(path) for path in paths)]
    return sequence_of(live.catalog, records)


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        (["enc", "own"], "'own0:op/Softmax' does not depend on 'enc1:op/Softmax', the map before"),
        (["cross1"], "the queries and keys of 'cross1:op/Softmax' come from different tensors"),
        (["cross0"], "the queries and keys of 'cross0:op/Softmax' come from different tensors"),
        (["own", "cross"], "the queries and keys of 'cross0:op/Softmax' come from different"),
        (["own"], None),
        (["enc"], None),
    ],
)
def test_maps_of_one_size_may_belong_to_different_stacks(
    paths: list[str], reason: str | None
) -> None:
    found = combined(translator(5, 5), *paths)
    if reason is None:
        assert [one.address for one in found] == [f"{paths[0]}{n}:op/Softmax" for n in range(2)]
    else:
        assert found.startswith(reason)
        assert found.endswith("Select the self-attention of one stack of layers")


class Additive(layers.Layer):
    """Attention without a product of queries and keys."""

    def call(self, x: Any) -> Any:
        scores = keras.ops.softmax(keras.ops.sum(x[:, None] + x[:, :, None], -1))
        return x + keras.ops.matmul(scores, x)


def test_sizes_and_axes_that_are_no_maps() -> None:
    assert combined(translator(5, 7), "enc", "own") == (
        "'enc0:op/Softmax' has 5 queries and keys, and 'own0:op/Softmax' has 7: only maps of one "
        "size can be multiplied. Select the self-attention of one stack of layers"
    )
    assert combined(translator(None, None), "cross0") == (
        "'cross0:op/Softmax' cannot be combined: it has target.axis1 queries and source.axis1 "
        "keys, and only self-attention can be combined. Select the self-attention of one stack of "
        "layers"
    )
    pictures = keras.Input((3, 4, 6))
    along = layers.MultiHeadAttention(2, 3, attention_axes=2, name="along")(pictures, pictures)
    assert combined(keras.Model(pictures, along), "along") == (
        "'along/softmax:output' cannot be combined: it has dims ['sample', '3', 'head', 'query', "
        "'key'], of which '3' are not heads"
    )
    x = keras.Input((4, 6))
    assert combined(keras.Model(x, Additive(name="sum")(x)), "sum") == (
        "no product of queries and keys is found before 'sum:op/Softmax'. Attention without one "
        "cannot be combined"
    )


def test_the_reason_is_part_of_the_message(tmp_path: Path) -> None:
    translator(5, 5).save(tmp_path / "net.keras")
    job = ["model=keras", f"model.path={tmp_path / 'net.keras'}", "inputs=random"]
    run = tmp_path / "run"
    with pytest.raises(SelectionError) as caught:
        extractkit.extract([*job, "selectors=attention_rollout"], run_dir=run)
    assert str(caught.value).startswith("selectors.attention_rollout.")
    assert "'own0:op/Softmax' does not depend on 'enc1:op/Softmax'" in str(caught.value)
    assert not run.exists()
    extractkit.extract(
        [*job, "selectors=attention_rollout", "+selectors.attention_rollout.path='enc*'"],
        run_dir=run,
    )
    assert [*extractkit.open(run)] == ["enc1:op/Softmax@rollout"]


@pytest.mark.real_model
@pytest.mark.thorough
def test_words_of_the_minilm(tmp_path: Path) -> None:
    slope = {"tensor": "transformer_layer_5:output", "index": [0, 7]}
    run = extractkit.extract(
        ["model=bert", "selectors=[attention,attention_rollout,attention_gradient]"],
        inputs=["Attention is rolled out.", "a"],
        selectors={
            "attention_gradient": {"gradient": {"of": slope}},
            "slope": {
                "inside": "*Attention",
                "layer_type": "Softmax",
                "kind": "layer_output",
                "gradient": {"of": slope},
            },
        },
        run_dir=tmp_path / "run",
    )
    maps = own_maps(run)
    assert len(maps) == 6
    check(run, maps, 1e-5)


def test_patches_of_a_vision_transformer(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    pictures = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype("float32")
    backbone = keras_hub.models.ViTBackbone((32, 32, 3), 8, 2, 2, 16, 32)
    head = layers.Dense(3, name="head")(backbone.output[:, 0])
    run = extractkit.extract(
        ["selectors=[attention,attention_rollout,attention_gradient]"],
        model=keras.Model(backbone.input, head),
        inputs=pictures,
        selectors={"slope": {"op_type": "Softmax", "gradient": {"of": "argmax"}}},
        run_dir=tmp_path / "run",
    )
    maps = own_maps(run)
    assert [run[key].shape for key in maps] == [(3, 2, 17, 17)] * 2
    check(run, maps, 1e-5)


def test_a_model_without_attention(tmp_path: Path) -> None:
    x = keras.Input((4,))
    with pytest.raises(SelectionError, match=r"attention_rollout.* matched 0 of"):
        extractkit.extract(
            ["selectors=attention_rollout"],
            model=keras.Model(x, layers.Dense(2)(x)),
            inputs=np.ones((2, 4)),
            run_dir=tmp_path / "run",
        )


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ({"rollout": 1}, "selectors.r.rollout=1 is neither true nor false"),
        (
            {"rollout": True, "gradient": {"of": "argmax"}},
            "selectors.r.gradient and selectors.r.rollout exclude each other",
        ),
        (
            {"gradient": {"of": "argmax", "relevance": "yes"}},
            "selectors.r.gradient.relevance='yes' is not true, which is all that it takes",
        ),
    ],
)
def test_mistakes(selector: Mapping[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_selector("r", {"path": "*", **selector})
