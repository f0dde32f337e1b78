"""Effects of a batch that the first samples do not show end the job with the sample's name."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from extractkit.core.job import Job
from extractkit.core.plan import Lengths
from extractkit.core.values import Array
from extractkit.engine import Silent
from extractkit.engine.batch_effects import SpotCheck, difference
from extractkit.engine.execute import resume
from extractkit.engine.recompute import recompute
from extractkit.errors import FinalError
from extractkit.models import Compilation, Fetch, Program
from extractkit.runs.checking import Outcome
from extractkit.runs.checking.verification import verify
from extractkit.runs.manifest import Status, read
from extractkit.testing.reference import ReferenceModel
from tests.engine.examples import ALPHABET, executed, job, tokens

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


def test_few_samples_of_a_large_shard_are_run_alone() -> None:
    """At most one part in 64 of the cost, in the batches that show most."""
    signature = ReferenceModel().signature
    check = SpotCheck(signature, (), coarse=False)
    sizes = np.arange(1500) % 25 + 1
    lengths = Lengths(1500, {"token": sizes})
    order = np.argsort(sizes, kind="stable")
    batches = [order[at : at + 32].tolist() for at in range(0, 1500, 32)]
    chosen = check.chosen(lengths, batches)
    assert sum(chosen.values()) == 2
    (longest,) = (number for number, rows in chosen.items() if rows)
    assert sizes[batches[longest]].max() == 25
    check = SpotCheck(signature, (), coarse=False)
    few = [check.chosen(lengths.part(0, 100), [list(range(100))]) for _ in range(8)]
    assert few == [*[{}] * 6, {0: 1}, {}], "what many small shards can afford together"
    assert check.chosen(lengths, [[at] for at in range(1500)]) == {}


def test_differences_are_relative_to_the_values_around() -> None:
    one = np.array([[1.0, -2.0], [4.0, 1e-9]])
    assert difference(one, one) == 0
    assert difference(one, one + np.array([[0, 0], [0, 1e-9]])) == pytest.approx(1e-9 / 4)
    assert difference(one, one * np.array([[1, 1], [1.5, 1]])) == pytest.approx(2 / 6)
    assert difference(one, one[:1]) == np.inf
    assert difference(one, np.full((2, 2), np.nan)) == np.inf
    assert difference(np.array([1, 2]), np.array([1, 3])) == np.inf
