"""A job ready to run."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from extractkit.core.plan import SampleLengths
from extractkit.core.shards import CONSTANTS_SHARD, Shard
from extractkit.core.values import Array
from extractkit.engine.prepare import Prepared, Trial, prepare
from extractkit.engine.samples import Survey, survey
from extractkit.errors import ConfigError, JobError, SelectionError
from extractkit.inputs import Signature
from extractkit.models import Compilation, Fetch, Program
from extractkit.runs.shards import ShardValues
from extractkit.testing.reference import ReferenceModel
from tests.engine.examples import EVERYTHING, MODEL, TEXTS, job, tokens


def lengths(*sizes: int) -> SampleLengths:
    return SampleLengths(len(sizes), {"token": np.array(sizes, np.int64)})


def test_everything_is_known_and_compiled_once() -> None:
    compiled: list[list[str]] = []

    class Watched(ReferenceModel):
        def program(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
            compiled.append([fetch.address for fetch in fetches])
            return super().program(fetches, compilation)

    prepared = prepare(job({"path": "embedding:output"}, model=Watched()))
    assert compiled[-1] == ["embedding:output"]
    assert set(prepared.timings) == {"load", "survey", "compile"}
    assert [tensor.key for tensor in prepared.tensors] == ["embedding:output"]
    assert prepared.program is not None


def constants_of(prepared: Prepared) -> ShardValues:
    """Compute the shard of constants, of a job without other tensors."""
    stream = prepared.stream(Survey(SampleLengths(0, {}), {}))
    (shard,) = stream.shards([CONSTANTS_SHARD])
    return shard


def test_weights_alone_need_neither_program_nor_samples() -> None:
    prepared = prepare(job({"kind": "weight"}, inputs=["never read"]))
    assert prepared.program is None
    assert prepared.varying == ()
    shard = constants_of(prepared)
    assert shard.shard == CONSTANTS_SHARD
    for key, weight in MODEL.weights.items():
        np.testing.assert_array_equal(shard.values[key].values, weight)
        assert shard.stats[key].minimum == weight.min()
        assert shard.stats[key].maximum == weight.max()


class OldInputs:
    """Inputs of a plugin, whose source has a digest under its old name."""

    def bind(self, signature: Signature) -> Any:
        return SimpleNamespace(fingerprint="f00d", notes=())


def test_a_source_with_the_old_name_of_its_digest_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        prepare(job({"path": ":output"}, inputs=OldInputs()))
    assert str(caught.value) == (
        "inputs._target_=extractkit.api.given: its source has `fingerprint`, which is now "
        "`digest`. Rename it"
    )


class Infinite(ReferenceModel):
    """One of its weights is infinite."""

    @property
    def weights(self) -> Mapping[str, Array]:  # type: ignore[override]
        kernel = np.array([[np.inf] * 4] * 4, np.float32)
        return {**MODEL.weights, "attention:kernel": kernel}


def test_weights_that_are_not_finite_follow_the_policy() -> None:
    wanted = {"kind": "weight"}
    counted = constants_of(prepare(job(wanted, model=Infinite())))
    assert counted.stats["attention:kernel"].inf == 16
    failing = prepare(job(wanted, model=Infinite(), non_finite="fail"))
    with pytest.raises(JobError, match="'attention:kernel' holds 16 infinite values"):
        constants_of(failing)


def test_any_shard_can_be_computed_and_is_what_the_model_gives() -> None:
    prepared = prepare(job(EVERYTHING))
    found = survey(prepared.opened.model, prepared.opened.source, lambda rows: None)
    done: list[int] = []
    stream = prepared.stream(found, done.append)
    (shard,) = stream.shards([Shard(5, 7)])
    assert shard.shard == Shard(5, 7)
    assert set(shard.values) == set(MODEL.forward(tokens("a"))) - {"attention:op/Count"}
    for position, text in enumerate(TEXTS[5:7]):
        expected = MODEL.forward(tokens(text))["pool:output"]
        np.testing.assert_array_equal(shard.values["pool:output"].values[position], expected)
    assert sum(done) == 2


def test_a_model_that_cannot_run_says_so() -> None:
    class Broken(ReferenceModel):
        def forward(self, tokens: Array) -> dict[str, Array]:
            raise JobError("the model broke")

    with pytest.raises(JobError, match="the model broke"):
        prepare(job({"path": "embedding:output"}, model=Broken()))


def test_a_slice_for_which_the_first_sample_is_too_short_is_reported() -> None:
    with pytest.raises(SelectionError):
        prepare(job({"path": "embedding:output", "slice": {"token": 2}}))


@pytest.mark.parametrize(
    ("trial", "expected"),
    [
        (Trial(lengths(4), 10), [10, 5, 0, 20]),
        (Trial(lengths(4), 0), [0, 0, 0, 0]),
        (Trial(lengths(0), 3), [12, 6, 0, 24]),
        (Trial(lengths(3), 10), [14, 7, 0, 27]),
    ],
    ids=["in proportion", "nothing unforeseen", "an empty first sample", "rounded up"],
)
def test_bytes_of_the_trial_stand_for_all_samples(trial: Trial, expected: list[int]) -> None:
    scaled = trial.scaled(lengths(4, 2, 0, 8))
    assert scaled.dtype == np.int64
    assert scaled.tolist() == expected


class Longer(ReferenceModel):
    """It returns one row more than the sample has."""

    def program(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
        program = super().program(fetches, compilation)

        def longer(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> Sequence[Array]:
            return [np.pad(one, ((0, 0), (0, 1), (0, 0))) for one in program(features, lengths)]

        return longer


def test_the_first_samples_values_must_have_exactly_its_shape() -> None:
    with pytest.raises(JobError) as error:
        prepare(job({"path": "embedding:output"}, model=Longer(), inputs=TEXTS[:1]))
    assert "'embedding:output' with dims ['sample', 'token', None] cannot be stored" in str(
        error.value
    )
    assert "has shape [2, 4] where [1, 4] was planned" in str(error.value)
