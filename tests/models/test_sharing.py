"""Who may share a batch is measured: by padding, by equal lengths, or nobody.

The oracles are the models' own calls, sample by sample.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import extractkit
from extractkit.config.compose import compose
from extractkit.core.values import Array
from extractkit.engine.preview import preview
from extractkit.engine.sharing import Sharing
from extractkit.runs.schema import plain
from tests.engine.examples import Collected
from tests.models.test_sizes import dataset

PADDED, EQUAL, ALONE = map(str, (Sharing.PADDED, Sharing.EQUAL, Sharing.ALONE))
LENGTHS = (5, 3, 9, 5, 1, 2, 7, 9)


def rows(*lengths: int) -> list[Array]:
    draw = np.random.default_rng(0)
    return [draw.integers(1, 20, n).astype(np.int32) for n in lengths or LENGTHS]


def tokens(then: Callable[[Any], Any], mask: bool = False, **embedding: Any) -> Any:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None,), dtype="int32", name="ids")
    x = keras.layers.Embedding(20, 6, mask_zero=mask, name="words", **embedding)(inputs)
    return keras.Model(inputs, then(x))


def attended(x: Any) -> Any:
    return keras.layers.MultiHeadAttention(2, 3, name="attention")(x, x)


def real(ids: Any) -> Any:
    """1 for each token that is not 0, float32 (samples, tokens, 1)."""
    return tf.cast(ids != 0, tf.float32)[..., None]


def weakly_masked(x: Any, ids: Any) -> Any:
    """Attention in which padding counts for e^-9 of a token."""
    scores = tf.matmul(x, x, transpose_b=True) - 9.0 * tf.cast(ids == 0, tf.float32)[:, None, :]
    return tf.matmul(tf.nn.softmax(scores), x)


def masked_mean(x: Any, ids: Any) -> Any:
    return tf.reduce_sum(x * real(ids), 1) / tf.maximum(tf.reduce_sum(real(ids), 1), 1)


def mean_beyond_40(x: Any, ids: Any) -> Any:
    """Ignores the mask of long rows only."""
    return tf.cond(tf.shape(ids)[1] > 40, lambda: tf.reduce_mean(x, 1), lambda: masked_mean(x, ids))


def weight_of_zeros(x: Any, ids: Any) -> Any:
    """A softmax that is uniform over padding if every real token is 0 as well."""
    weights = tf.nn.softmax(-1e9 * tf.cast(ids == 0, tf.float32))
    return tf.reduce_max(weights, 1, keepdims=True) * tf.ones_like(x[:, 0])


def hidden_maximum(x: Any, ids: Any) -> Any:
    """A maximum that is below 0, as padding is, for token 19 alone."""
    x = tf.abs(x) * tf.where(ids[..., None] == 19, -1.0, 1.0)
    return tf.reduce_max(tf.where(ids[..., None] == 0, -1e-3, x), 1)


def hidden_leak(share: float) -> Callable[[Any, Any], Any]:
    """A mean with a share of the padding."""
    return lambda x, ids: masked_mean(x, ids) + share * tf.reduce_sum(x * (1 - real(ids)), 1)


def sum_of_batch(x: Any, ids: Any) -> Any:
    """A little of every sample in each. Copies of one sample differ by as much."""
    mean = masked_mean(x, ids)
    return mean + 1e-4 * tf.reduce_sum(mean, 0, keepdims=True)


def centred_if_many(x: Any, ids: Any) -> Any:
    """Mixes samples in large batches only."""
    mean = masked_mean(x, ids)
    return tf.cond(tf.shape(mean)[0] > 16, lambda: mean - tf.reduce_mean(mean, 0), lambda: mean)


def normalised(axes: tuple[int, ...]) -> Callable[[Any, Any], Any]:
    """Batch normalisation as in training, or over the tokens of a sample."""

    def call(x: Any, ids: Any) -> Any:
        mean, variance = tf.nn.moments(x, axes, keepdims=True)
        return (x - mean) * tf.math.rsqrt(variance + 1e-3)

    return call


def mixed(mix: Callable[[Any, Any], Any], rank: int = 2) -> Any:
    """A model of tokens whose last layer mixes embeddings (samples, tokens, 6), given the ids."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None,), dtype="int32", name="ids")
    x = keras.layers.Embedding(20, 6, embeddings_initializer="normal", name="words")(inputs)
    shape = (6,) if rank == 2 else (None, 6)
    layer = keras.layers.Lambda(lambda given: mix(*given), output_shape=shape, name="mixed")
    return keras.Model(inputs, layer([x, inputs]))


L = keras.layers
MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "looked up": (lambda: tokens(lambda x: L.Dense(3)(x)), PADDED),
    "masked attention": (lambda: tokens(attended, mask=True), PADDED),
    "masked pooling": (lambda: tokens(L.GlobalAveragePooling1D(), mask=True), PADDED),
    "masked LSTM": (lambda: tokens(L.LSTM(3), mask=True), PADDED),
    "one direction": (lambda: tokens(L.LSTM(3, return_sequences=True)), PADDED),
    "attention": (lambda: tokens(attended), EQUAL),
    "mean": (lambda: tokens(L.GlobalAveragePooling1D()), EQUAL),
    "greatest": (lambda: tokens(L.GlobalMaxPooling1D()), EQUAL),
    "both directions": (lambda: tokens(L.Bidirectional(L.LSTM(3, return_sequences=True))), EQUAL),
    "convolution": (lambda: tokens(L.Conv1D(4, 3, padding="same")), EQUAL),
    "weak mask": (lambda: mixed(weakly_masked, 3), EQUAL),
    "own mask": (lambda: mixed(masked_mean), PADDED),
    "zeros": (lambda: mixed(weight_of_zeros), PADDED),
    "leak of 1e-5": (lambda: mixed(hidden_leak(1e-5)), EQUAL),
    "sum of the batch": (lambda: mixed(sum_of_batch), ALONE),
    "centred if many": (lambda: mixed(centred_if_many), ALONE),
    "batch normalisation": (lambda: mixed(normalised((0, 1)), 3), ALONE),
    "normalised over tokens": (lambda: mixed(normalised((1,)), 3), EQUAL),
}


@pytest.mark.parametrize("name", MODELS)
def test_padding_is_used_where_it_changes_nothing(name: str, tmp_path: Path) -> None:
    build, expected = MODELS[name]
    model, samples = build(), rows()
    run = extractkit.extract(
        ["selectors=outputs"], model=model, inputs=dataset(samples), run_dir=tmp_path / "r"
    )
    assert run.manifest.settings["sharing"] == expected
    for index, sample in enumerate(samples):
        want = np.asarray(model(sample[None]))[0]
        np.testing.assert_allclose(run[":output"].sample(index), want, atol=2e-6)


class Block(keras.layers.Layer):
    """One layer of a transformer, as users write it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.attention = L.MultiHeadAttention(2, 4, name="attention")
        self.inner = L.Dense(16, "gelu", name="inner")
        self.outer = L.Dense(8, name="outer")
        self.norms = [L.LayerNormalization(name=f"norm_{at}") for at in range(2)]

    def call(self, x: Any, allowed: Any) -> Any:
        x = self.norms[0](x + self.attention(x, x, attention_mask=allowed))
        return self.norms[1](x + self.outer(self.inner(x)))


class Transformer(keras.Model):
    """A subclassed encoder that masks tokens 0, or forgets to."""

    def __init__(self, masked: bool) -> None:
        super().__init__()
        self.masked = masked
        self.words = L.Embedding(20, 8, name="words")
        self.blocks = [Block(name=f"block_{at}") for at in range(3)]

    def hidden(self, ids: Any) -> list[Any]:
        allowed = (ids != 0)[:, None, :] if self.masked else None
        states = [self.words(ids)]
        for block in self.blocks:
            states.append(block(states[-1], allowed))
        return states

    def call(self, ids: Any) -> Any:
        return self.hidden(ids)[-1]


@pytest.mark.parametrize(("masked", "expected"), [(True, PADDED), (False, EQUAL)])
def test_a_transformer_of_the_users_own(masked: bool, expected: str, tmp_path: Path) -> None:
    """Hidden states of every layer beside those of each sample alone, called eagerly."""
    keras.utils.set_random_seed(0)
    own, ids = Transformer(masked), keras.Input((None,), dtype="int32", name="ids")
    samples = rows(5, 3, 19, 4, 12, 2, 19, 7)
    run = extractkit.extract(
        ["+selectors.s.path=['*/words:output','*/block_?:output']"],
        model=keras.Model(ids, own(ids)),
        inputs=[{"ids": sample} for sample in samples],
        run_dir=tmp_path / "r",
    )
    assert run.manifest.settings["sharing"] == expected
    assert len(run) == 4
    for index, sample in enumerate(samples):
        for view, want in zip(run.values(), own.hidden(sample[None]), strict=True):
            np.testing.assert_allclose(view.sample(index), want[0], atol=2e-6)
    measured = run.manifest.volatile.sharing
    assert measured is not None
    assert (measured.difference > 0.01) is not masked


def zeros(*lengths: int) -> list[Array]:
    return [np.zeros(n, np.int32) for n in lengths]


@pytest.mark.parametrize(
    ("mix", "samples", "expected"),
    [
        (masked_mean, [*rows(*LENGTHS), *zeros(2, 5)], PADDED),
        (masked_mean, rows(5, 60, 9, 70), PADDED),
        (mean_beyond_40, rows(5, 60, 9, 70), EQUAL),
        (mean_beyond_40, rows(5, 30, 9, 33), PADDED),
        (weight_of_zeros, [*rows(*LENGTHS), *zeros(2, 5)], EQUAL),
        (hidden_maximum, [*rows(*LENGTHS), np.array([19, 19], np.int32)], EQUAL),
    ],
)
def test_the_jobs_own_lengths_and_values_decide(
    mix: Any, samples: list[Array], expected: str, tmp_path: Path
) -> None:
    """Some effects of padding show at some lengths, or for some values, only."""
    model = mixed(mix)
    run = extractkit.extract(
        ["selectors=outputs"], model=model, inputs=dataset(samples), run_dir=tmp_path / "r"
    )
    assert run.manifest.settings["sharing"] == expected
    for index, sample in enumerate(samples):
        want = np.asarray(model(sample[None]))[0]
        np.testing.assert_allclose(run[":output"].sample(index), want, atol=2e-6)


def test_the_measurement_is_recorded(tmp_path: Path) -> None:
    samples = dataset(rows(5, 3, 60, 9))
    found = {}
    for name, mix in (("r", masked_mean), ("leaking", mean_beyond_40)):
        run = extractkit.extract(
            ["selectors=outputs"], model=mixed(mix), inputs=samples, run_dir=tmp_path / name
        )
        found[name] = run.manifest.volatile.sharing
        planned = extractkit.plan(["selectors=outputs"], model=mixed(mix), inputs=samples)
        assert planned.to_json()["sharing_measured"] == plain(found[name])
    kept, leaking = found["r"], found["leaking"]
    assert kept is not None
    assert leaking is not None
    assert (kept.tensor, kept.reason, kept.lengths) == (":output", None, {"token": 64})
    assert kept.difference <= kept.tolerance < 1e-5
    assert kept.samples > 4
    assert leaking.reason == "padding changes values of ':output'"
    assert leaking.difference > 0.1 > leaking.tolerance


@pytest.mark.parametrize("cast", ["float16", "bfloat16"])
def test_casts_round_what_is_compared(cast: str, tmp_path: Path) -> None:
    selector = f"+selectors.s={{path: ':output', cast: {cast}}}"
    for mix, expected in ((masked_mean, PADDED), (hidden_leak(0.1), EQUAL)):
        run = extractkit.extract(
            [selector], model=mixed(mix), inputs=dataset(rows()), run_dir=tmp_path / expected
        )
        assert run.manifest.settings["sharing"] == expected


def test_what_is_wanted_decides(tmp_path: Path) -> None:
    """The pooled output sees padding; the tokens' own values do not."""
    model = tokens(L.GlobalAveragePooling1D())
    run = extractkit.extract(
        ["+selectors.s.path='words:output'"], model=model, inputs=dataset(rows()), run_dir=tmp_path
    )
    assert run.manifest.settings["sharing"] == PADDED


def test_samples_that_are_all_alike_hide_nothing(tmp_path: Path) -> None:
    """Silence: zeros beside zeros, which a convolution would be given by padding anyway."""
    inputs = keras.Input((None, 2), name="sound")
    keras.utils.set_random_seed(0)
    x = L.Conv1D(3, 3, padding="same", bias_initializer="ones")(inputs)
    model = keras.Model(inputs, L.Conv1D(3, 3, padding="same")(x))
    samples = [np.zeros((n, 2), np.float32) for n in (4, 6, 4, 6)]
    run = extractkit.extract(
        ["selectors=outputs"], model=model, inputs=dataset(samples), run_dir=tmp_path / "r"
    )
    assert run.manifest.settings["sharing"] == EQUAL


def test_rows_that_cannot_be_cut_are_tried_as_they_are(tmp_path: Path) -> None:
    """Sound in frames of 64 values; a shorter beginning of it is nothing that the model takes."""
    inputs = keras.Input((None,), name="sound")
    frames = L.Reshape((-1, 64), name="frames")(inputs)
    model = keras.Model(inputs, L.GlobalAveragePooling1D(name="mean")(frames))
    samples = [row.astype(np.float32) for row in np.split(np.arange(512.0), [128, 320])]
    run = extractkit.extract(
        ["selectors=outputs"], model=model, inputs=dataset(samples), run_dir=tmp_path / "r"
    )
    assert run.manifest.settings["sharing"] == EQUAL
    for index, sample in enumerate(samples):
        want = sample.reshape(-1, 64).mean(axis=0)
        np.testing.assert_allclose(run[":output"].sample(index), want, rtol=1e-6)


class Centred(keras.layers.Layer):
    """Takes the mean of the batch away."""

    def call(self, x: Any) -> Any:
        return x - keras.ops.mean(x, axis=0)


class Counted(keras.layers.Layer):
    """A value for the batch as a whole."""

    def call(self, x: Any) -> Any:
        return keras.ops.sum(x)

    def compute_output_shape(self, shape: Any) -> Any:
        return ()


def of_numbers(layer: Any) -> Any:
    inputs = keras.Input((4,), name="x")
    return keras.Model(inputs, layer(inputs))


@pytest.mark.parametrize("layer", [Centred, Counted])
@pytest.mark.parametrize("alike", [False, True])
def test_what_depends_on_a_batch_is_run_sample_by_sample(
    layer: Any, alike: bool, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    x = np.repeat(x[:1], 7, axis=0) if alike else x
    model, reported = of_numbers(layer(name="odd")), Collected()
    run = extractkit.extract(
        ["selectors=outputs"], model=model, inputs=x, run_dir=tmp_path / "r", listener=reported
    )
    assert run.manifest.settings["sharing"] == ALONE
    assert any("so the model is run on one sample per call" in note for note in reported.notes)
    want = np.zeros((7, 4), np.float32) if layer is Centred else x.sum(axis=1)
    np.testing.assert_allclose(np.asarray(run[":output"]), want, atol=1e-6)
    asked = extractkit.extract(
        ["selectors=outputs", "runtime.batch_size=1"], model=model, inputs=x, run_dir=tmp_path / "1"
    )
    np.testing.assert_array_equal(np.asarray(asked[":output"]), np.asarray(run[":output"]))


def test_where_other_tensors_remain_a_batchs_value_is_left_out(tmp_path: Path) -> None:
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, [L.Dense(2, name="d")(inputs), Counted(name="odd")(inputs)])
    x = np.ones((3, 4), np.float32)
    run = extractkit.extract(["selectors=layers"], model=model, inputs=x, run_dir=tmp_path / "r")
    assert list(run) == ["d:output"]
    assert run.manifest.settings["sharing"] != ALONE
    single = ["selectors=layers", "runtime.batch_size=1"]
    run = extractkit.extract(single, model=model, inputs=x, run_dir=tmp_path / "1")
    assert set(run) == {"d:output", "odd:output"}
    np.testing.assert_array_equal(np.asarray(run["odd:output"]), [4, 4, 4])


TEXTS = ("the cat sat on the mat", "the dog ran", "cat", "a dog sat on the cat")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of texts, padded to the longest of a batch, as a file and exported; and the texts."""
    folder = tmp_path_factory.mktemp("texts")
    keras.utils.set_random_seed(0)
    words = ["the", "cat", "sat", "on", "mat", "dog", "ran"]
    inputs = keras.Input((), dtype="string", name="text")
    x = L.TextVectorization(vocabulary=words, name="vectorize")(inputs)
    x = L.GlobalAveragePooling1D(name="pool")(L.Embedding(12, 4, name="embedding")(x))
    model = keras.Model(inputs, L.Dense(2, name="logits")(x))
    model.save(folder / "m.keras")
    model.export(folder / "m", verbose=False)
    (folder / "in.txt").write_text("\n".join(TEXTS) + "\n")
    alone = [np.asarray(model(tf.constant([text])))[0] for text in TEXTS]
    np.save(folder / "alone.npy", np.stack(alone))
    return folder


def test_texts_that_are_padded_to_the_longest_of_a_batch(texts: Path, tmp_path: Path) -> None:
    overrides = [
        *("model=saved_model", f"model.path={texts / 'm'}", f"inputs.path={texts / 'in.txt'}"),
        *("selectors=outputs", "+selectors.e.path='*embedding*/GatherV2:0'"),
    ]
    run = extractkit.extract(overrides, run_dir=tmp_path / "r")
    assert run.manifest.settings["sharing"] == ALONE
    np.testing.assert_allclose(
        np.asarray(run[":output.output_0"]), np.load(texts / "alone.npy"), atol=1e-6
    )
    (key,) = (key for key in run if "Gather" in key)
    assert run[key].spec.undescribed.labels == ("sample", "f(values)", None)
    assert [run[key].sample(i).shape for i in range(4)] == [(len(t.split()), 4) for t in TEXTS]


@pytest.mark.usefixtures("quick_tensorflow_workers")
def test_the_plan_says_so_and_workers_and_verify_take_it_over(texts: Path, tmp_path: Path) -> None:
    given = [
        *("model=keras", f"model.path={texts / 'm.keras'}", f"inputs.path={texts / 'in.txt'}"),
        *("selectors=outputs", "runtime.shard_size=2"),
    ]
    planned = preview(compose(given).job, tmp_path / "p").to_json()
    assert planned["sharing"] == ALONE
    assert planned["sharing_reason"] == (
        "several samples together give other values of ':output' than each alone"
    )
    run = extractkit.extract(given, run_dir=tmp_path / "r")
    spread = ["runtime.engine=processes", "runtime.workers=1"]
    other = extractkit.extract([*given, *spread], run_dir=tmp_path / "w")
    assert run.journal.digests() == other.journal.digests()
    assert run.manifest.identity == other.manifest.identity
    checked = extractkit.verify(tmp_path / "r", recompute=2)
    assert not [check for check in checked.checks if check.findings]


def test_the_decision_of_a_run_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from extractkit.engine import prepare

    model, samples = tokens(L.GlobalAveragePooling1D()), dataset(rows())
    given: Sequence[str] = ["selectors=outputs", "runtime.shard_size=3"]
    extractkit.extract(given, model=model, inputs=samples, run_dir=tmp_path / "r")

    def again(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(prepare, "measure_sharing", again)
    checked = extractkit.verify(tmp_path / "r", recompute=3, model=model, inputs=samples)
    assert not [check for check in checked.checks if check.findings]
