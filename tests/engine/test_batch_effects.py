"""Effects of a batch that the first samples do not show end the job with the sample's name."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from extractkit.core.job import Job
from extractkit.core.plan import SampleLengths
from extractkit.core.values import Array
from extractkit.engine import Silent
from extractkit.engine.batch_effects import SpotCheck, difference
from extractkit.engine.batches import CALL_COST, Batch
from extractkit.engine.execute import resume
from extractkit.engine.prepare import prepare
from extractkit.engine.recompute import recompute
from extractkit.errors import FinalError
from extractkit.models import Compilation, Fetch, Program
from extractkit.runs.checking import Outcome
from extractkit.runs.checking.verification import verify
from extractkit.runs.manifest import Status, read
from extractkit.testing.reference import ReferenceModel
from tests.engine.examples import ALPHABET, MODEL, executed, job, tokens

POOLED: Mapping[str, object] = {"path": "pool:output"}
LETTERS = ALPHABET.replace("d", "")
TEXTS = tuple(LETTERS[: 1 + at % 25] for at in range(1500))
"""1 to 25 tokens, none of which is 0. No batch of them is padded to more than 32."""

ZEROS = "d" * 3
"""A text whose tokens are 0, as padding is."""


class Leaking(ReferenceModel):
    """Its pooled values are off by `by` in some rows."""

    def __init__(self, how: str, by: float = 1.0) -> None:
        super().__init__()
        object.__setattr__(self, "how", how)
        object.__setattr__(self, "by", by)

    def program(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
        right = super().program(fetches, compilation)

        def run(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> list[Array]:
            rows, own = features["tokens"], lengths["token"]
            padded = own < rows.shape[1]
            off = {
                "never": padded & False,
                "beyond 40 tokens": padded & (rows.shape[1] > 40),
                "zeros": padded & (rows == 0).all(axis=1),
                "more than 40 samples": np.full(len(rows), len(rows) > 40),
            }[self.how]
            changed = np.asarray(off * self.by, np.float32)[:, None]
            return [
                value + changed if fetch.address == "pool:output" else value
                for fetch, value in zip(fetches, right(features, lengths), strict=True)
            ]

        return run


def wanted(how: str, texts: Sequence[str], by: float = 1.0, **runtime: object) -> Job:
    return job(POOLED, model=Leaking(how, by), inputs=texts, **runtime)


CASES = {
    "beyond 40 tokens": ((*TEXTS, LETTERS * 2, LETTERS + "abc"), {}),
    "zeros": ((*TEXTS[:1200], ZEROS, *TEXTS[1200:]), {}),
    "more than 40 samples": (TEXTS, {"batch_size": 64}),
}


@pytest.mark.parametrize("how", CASES)
def test_a_sample_that_its_batch_changes_ends_the_job(how: str, tmp_path: Path) -> None:
    texts, runtime = CASES[how]
    with pytest.raises(FinalError) as error:
        executed(tmp_path / "run", wanted(how, texts, **runtime))
    text = str(error.value)
    assert text.startswith("runtime.self_check: sample '")
    assert "'pool:output' has other values in its batch than alone: they differ by " in text
    assert text.endswith(
        "more than the tolerance of 0.0001. Other samples or padding change them. Shards that are "
        "committed may hold such values, too. To compute each sample alone: runtime.batch_size=1, "
        "in a new run, as this one keeps its settings. To store the values all the same, resume it "
        "with runtime.self_check=false"
    )
    if how == "zeros":
        assert "sample '1200' (number 1200)" in text
    assert read(tmp_path / "run").status is Status.FAILED

    single = executed(tmp_path / "single", wanted(how, texts, batch_size=1))
    for at in (0, 700, len(texts) - 1, 1200):
        right = ReferenceModel().forward(tokens(texts[at]))["pool:output"]
        np.testing.assert_array_equal(single["pool:output"].sample(at), right)


def test_the_run_goes_on_without_the_check_as_advised(tmp_path: Path) -> None:
    texts, _ = CASES["zeros"]
    with pytest.raises(FinalError):
        executed(tmp_path / "run", wanted("zeros", texts))
    resume(wanted("zeros", texts, self_check=False), tmp_path / "run", listener=Silent())
    assert read(tmp_path / "run").status is Status.FINISHED
    of = wanted("zeros", texts)  # the manifest does not record runtime.self_check
    checked = verify(tmp_path / "run", recompute=lambda sound: recompute(of, sound, 9, 0))
    assert [one.outcome for one in checked.checks if one.name == "recomputed"] == [Outcome.OK]


@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_rounding_is_no_effect(scale: float, tmp_path: Path) -> None:
    """Nor is the rounding of values near zero, which may be all that there is of them."""
    texts, _ = CASES["zeros"]
    model = Leaking("zeros", by=1e-7)
    kernel = model.weights["attention:kernel"]
    vars(model)["weights"] = {**model.weights, "attention:kernel": kernel * np.float32(scale)}
    run = executed(tmp_path / "run", job(POOLED, model=model, inputs=texts))
    assert run.manifest.status is Status.FINISHED


class Pooled:
    """Means of random vectors over tokens, with rounding that depends on the batch.

    Args:
        step: values are rounded to multiples of it; 0: not at all.
        varies: what changes the rounding.
        by: size of the rounding.
        of: number of tokens that count.
    """

    def __init__(
        self,
        step: float = 0.0,
        varies: str = "nothing",
        by: float = 2e-5,
        of: int | None = None,
    ) -> None:
        self.step, self.varies, self.by, self.of = step, varies, by, of
        self.vectors = np.random.default_rng(0).normal(size=(50, 4))

    def __call__(
        self, features: Mapping[str, Array], lengths: Mapping[str, Array]
    ) -> Sequence[Array]:
        rows = features["tokens"]
        own = lengths["token"].tolist()
        found = np.array(
            [self.value(row[:n], *rows.shape) for row, n in zip(rows, own, strict=True)]
        )
        return [found.astype(np.float32)]

    def value(self, tokens: Array, samples: int, padded: int) -> Array:
        seed = {
            "nothing": [],
            "the size of the batch": [int(samples > 1)],
            "the number of samples": [samples],
            "padding": [int(padded > len(tokens))],
            "the padded length": [padded],
            "both": [samples, padded],
        }[self.varies]
        tokens = tokens[: self.of]
        noise = np.random.default_rng([*seed, *tokens.tolist()]).normal(size=4)
        found = self.vectors[tokens].mean(axis=0) + self.by * noise
        return found if not self.step else np.round(found / self.step) * self.step


PLANNED = prepare(job(POOLED))


def checked_by() -> SpotCheck:
    return SpotCheck(MODEL.signature, PLANNED.varying, coarse=False)


def batch_of(draw: np.random.Generator, samples: int = 8) -> Batch:
    """Random samples of 1 to 20 tokens, padded to 24."""
    lengths = draw.integers(1, 21, samples).astype(np.int32)
    tokens = draw.integers(1, 50, (samples, 24)).astype(np.int32)
    return Batch({"tokens": tokens * (np.arange(24) < lengths[:, None])}, {"token": lengths})


@pytest.mark.parametrize(
    "model",
    [
        Pooled(1e-3, "the size of the batch"),
        Pooled(1e-3, "the number of samples"),
        Pooled(1e-3, "padding"),
        Pooled(1e-3, "the padded length"),
        Pooled(1e-3, "both"),
        Pooled(1e-3, "the size of the batch", of=1),  # the same at all lengths
        Pooled(1e-3, "the size of the batch", by=1e-3),  # in most samples
    ],
    ids=lambda model: f"{model.varies} {model.by} {model.of}",
)
def test_rounding_that_values_jump_by_is_no_effect(model: Pooled) -> None:
    """A model that rounds to thousandths moves every sixth sample by one."""
    draw = np.random.default_rng(1)
    jumps = 0
    for _ in range(100):
        batch = batch_of(draw)
        values = model(batch.features, batch.lengths)
        alone = [batch.take([row]).trimmed(MODEL.signature) for row in range(8)]
        expected = np.concatenate([model(one.features, one.lengths)[0] for one in alone])
        jumps += int((np.abs(values[0] - expected) > 5e-4).any(axis=1).sum())
        assert checked_by().effect(model, model, batch, values, range(8)) is None
    assert jumps > 30


def test_a_tensor_that_jumps_is_not_compared_again() -> None:
    draw, check, model = np.random.default_rng(1), checked_by(), Pooled(1e-3, "both")
    calls = 0

    def counted(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> Sequence[Array]:
        nonlocal calls
        calls += 1
        return model(features, lengths)

    for _ in range(50):
        batch = batch_of(draw)
        values = model(batch.features, batch.lengths)
        assert check.effect(counted, model, batch, values, [0, 1]) is None
    assert 1 <= calls <= 8


def test_other_kernels_in_batches_are_no_effect() -> None:
    """As with `runtime.compile=xla`, where samples alone are computed by a graph."""
    batch, graph = batch_of(np.random.default_rng(2)), Pooled()
    values = [graph(batch.features, batch.lengths)[0] * np.float32(1.001)]
    assert checked_by().effect(graph, graph, batch, values, range(8)) is None


@pytest.mark.parametrize(
    ("own", "many", "found"),
    [
        ([-np.inf, 1, 2, 3], [-np.inf, 1, 2, 3], False),
        ([-np.inf, 1, 2, 3], [-np.inf, 1, 2, 3.1], True),
        ([-np.inf, 1, 2, 3], [-3e38, 1, 2, 3], False),  # the logarithm of what rounds to 0
        ([1, 1, 2, 3], [np.nan, 1, 2, 3], True),
        ([np.nan, 1, 2, 3], [0, 1, 2, 3.1], False),  # fused kernels turn NaN into numbers
        ([-np.inf] * 4, [-np.inf] * 4, False),
    ],
)
def test_what_is_finite_is_compared(
    own: Sequence[float], many: Sequence[float], found: bool
) -> None:
    """Values of samples alone, and of all samples that are padded."""

    def run(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> Sequence[Array]:
        padded = lengths["token"] < features["tokens"].shape[1]
        return [np.where(padded[:, None], many, own).astype(np.float32)]

    batch = batch_of(np.random.default_rng(3))
    effect = checked_by().effect(run, run, batch, run(batch.features, batch.lengths), [0])
    assert (effect is not None) is found


def test_few_samples_of_a_large_shard_are_run_alone() -> None:
    """At most one part in 64 of the cost, in the batches that show most."""
    signature = ReferenceModel().signature
    check = SpotCheck(signature, (), coarse=False)
    sizes = np.arange(1500) % 25 + 1
    lengths = SampleLengths(1500, {"token": sizes})
    order = np.argsort(sizes, kind="stable")
    batches = [order[at : at + 32].tolist() for at in range(0, 1500, 32)]
    chosen = check.chosen(lengths, batches)
    assert sum(chosen.values()) == 2
    (longest,) = (number for number, rows in chosen.items() if rows)
    assert sizes[batches[longest]].max() == 25
    check = SpotCheck(signature, (), coarse=False)
    few = [check.chosen(lengths.part(0, 100), [list(range(100))]) for _ in range(8)]
    # The last is searched for a sample that looks like padding.
    assert few == [*[{}] * 6, {0: 1}, {0: 0}], "what many small shards can afford together"
    assert check.chosen(lengths, [[at] for at in range(1500)]) == {}


def test_samples_that_look_like_padding_cost_one_part_in_64_more() -> None:
    """Even if each batch of a shard holds one with more zeros than all before it."""
    check = SpotCheck(ReferenceModel().signature, (), coarse=False)
    batches = [
        Batch(
            {"tokens": np.repeat([[0] * at + [7] * (60 - at) + [0] * 4], 32, axis=0)},
            {"token": np.full(32, 60, np.int32)},
        )
        for at in range(1, 57)
    ]
    numbers = np.arange(32 * len(batches)).reshape(-1, 32).tolist()
    chosen = check.chosen(SampleLengths(32 * len(batches), {"token": np.full(1792, 60)}), numbers)
    rows = sum(len(check.rows(batch, chosen[at])) for at, batch in enumerate(batches))
    most = 1792 * 60 / 64 / (60 + CALL_COST)  # 8.9
    assert sum(chosen.values()) == 2, "one batch is the longest and the most padded"
    assert rows == 2 + int(most)


def test_differences_are_relative_to_the_values_around() -> None:
    one = np.array([[1.0, -2.0], [4.0, 1e-9]])
    assert difference(one, one) == 0
    assert difference(one, one + np.array([[0, 0], [0, 1e-9]])) == pytest.approx(1e-9 / 4)
    assert difference(one, one * np.array([[1, 1], [1.5, 1]])) == pytest.approx(2 / 6)
    assert difference(one, one[:1]) == np.inf
    assert difference(one, np.full((2, 2), np.nan)) == np.inf
    assert difference(np.array([1, 2]), np.array([1, 3])) == np.inf


def far_apart(one: Array, other: Array) -> float:
    """The definition, for finite values."""
    sizes = np.maximum(np.abs(one), np.abs(other))
    usual = np.quantile(sizes[sizes > 0], 0.25)
    around = max(size for size in sizes if size <= 1e5 * usual)
    return max(abs(x - y) / max(size, around) for x, y, size in zip(one, other, sizes, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_values_that_represent_infinity_are_not_around_others(seed: int) -> None:
    draw = np.random.default_rng(seed)
    for size in range(2, 40):
        one = draw.normal(size=size) * draw.choice([0, 1e-6, 1, 10**4.9, 1.1e5, 1e9], size)
        one[0] = 1.0
        other = one * (1 + 1e-3 * draw.normal(size=size))
        assert difference(one, other) == far_apart(one, other)


def test_samples_without_elements_need_no_measurement(tmp_path: Path) -> None:
    run = executed(tmp_path / "run", job({"path": "embedding:output"}, inputs=("", "", "")))
    assert [run["embedding:output"].sample(at).shape for at in range(3)] == [(0, 4)] * 3
