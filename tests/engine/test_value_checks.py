"""NaN and infinite values: stored and counted, refused, or their samples left out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractkit.core.digests import PREFERRED, digest
from extractkit.core.plan import plan_tensors
from extractkit.core.selectors import parse_selector
from extractkit.core.shards import Shard
from extractkit.core.value_checks import EXAMINATION, ValueChecks
from extractkit.core.values import Array, Dense
from extractkit.engine.batches import BatchRules
from extractkit.engine.failing_samples import refuse_non_finite
from extractkit.engine.measure import measure_axes
from extractkit.engine.samples import survey
from extractkit.engine.stream import Stream, fetches
from extractkit.errors import FinalError, JobError
from extractkit.models import Compilation, Program
from extractkit.runs.shards import ShardValues
from tests.engine.examples import MODEL, TEXTS, source, tokens

KEYS = ("embedding:output", "attention:op/Softmax", "pool:output")
TENSORS = measure_axes(
    MODEL,
    source(),
    plan_tensors(MODEL.catalog, [parse_selector("mine", {"path": list(KEYS)})]),
    Compilation(),
).tensors

NAN, INFINITE = "qq", "zzz"
"""Texts of which the first tensor holds a NaN, and the last two infinities."""


def sick() -> Program:
    """The reference model with NaN and infinities for two texts."""
    program = MODEL.program(fetches(TENSORS), Compilation())

    def run(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> Sequence[Array]:
        embedded, softmax, pooled = program(features, lengths)
        for row, size in enumerate(lengths["token"]):
            own = features["tokens"][row, :size]
            if np.array_equal(own, tokens(NAN)):
                embedded[row, 1, 2] = np.nan
                pooled[row, 0] = np.nan
            elif np.array_equal(own, tokens(INFINITE)):
                pooled[row, :2] = (np.inf, -np.inf)
        return embedded, softmax, pooled

    return run


def stream(texts: Sequence[str], policy: str, batch_size: int = 4) -> Stream:
    lengths = survey(MODEL, source(texts), lambda rows: None).lengths
    return Stream(
        MODEL, source(texts), sick(), TENSORS, lengths, BatchRules(batch_size, None, True),
        non_finite=policy,
    )  # fmt: skip


def shards(stream: Stream, size: int) -> list[ShardValues]:
    count = stream.lengths.samples
    return list(stream.shards([Shard(at, min(at + size, count)) for at in range(0, count, size)]))


def test_with_warn_they_are_stored_and_counted() -> None:
    (one,) = shards(stream(["a", NAN, "b", INFINITE, NAN], "warn"), 5)
    assert one.missing == {}
    assert np.isnan(one.values["embedding:output"].sample(1)[1, 2])
    embedded, softmax, pooled = one.stats.values()
    assert (embedded.nan, embedded.inf, embedded.first) == (2, 0, {"1": (1, 0), "4": (1, 0)})
    assert softmax.finite
    assert pooled.first == {"1": (1, 0), "3": (0, 2), "4": (1, 0)}


def test_with_fail_tensor_and_sample_are_named_with_the_way_out() -> None:
    with pytest.raises(JobError) as caught:
        shards(stream(["a", "b", NAN, NAN, "c"], "fail"), 2)
    assert str(caught.value) == (
        "'embedding:output' holds 1 NaN value for sample '2' (number 2), and 1 more of its shard "
        "has some. To store them: runtime.non_finite=warn. "
        "To skip samples that have some: runtime.non_finite=skip. "
        "That takes a new run, as this one keeps its settings"
    )
    assert len(shards(stream(TEXTS, "fail"), 7)) == 3


def test_with_skip_a_sample_is_left_out_of_every_tensor() -> None:
    (one,) = shards(stream(["a", NAN, "b", INFINITE], "skip"), 4)
    assert one.missing == {
        1: "'embedding:output' holds 1 NaN value (and 1 more tensor)",
        3: "'pool:output' holds 2 infinite values",
    }
    for values in one.values.values():
        assert values.absent == (1, 3)
    assert one.values["attention:op/Softmax"].sample(1).size == 0
    assert np.isnan(one.values["pool:output"].sample(3)).all()
    assert all(found.finite and found.examined == 2 for found in one.stats.values())


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from(["a", "abc", "b" * 12, NAN, INFINITE]), min_size=1, max_size=15),
    st.integers(1, 15),
    st.integers(1, 5),
)
def test_what_is_left_is_what_it_was_and_a_function_of_the_range(
    texts: list[str], size: int, batch_size: int
) -> None:
    skipping = stream(texts, "skip", batch_size)
    for one in shards(skipping, size):
        start, stop = one.shard.start, one.shard.stop
        bad = [at for at in range(start, stop) if texts[at] in (NAN, INFINITE)]
        assert list(one.missing) == bad
        for key, values in one.values.items():
            for at in set(range(start, stop)) - set(bad):
                expected = MODEL.forward(tokens(texts[at]))[key]
                np.testing.assert_array_equal(values.sample(at - start), expected)
        (alone,) = skipping.shards([one.shard])
        assert digest(alone.values.items(), PREFERRED) == digest(one.values.items(), PREFERRED)
        assert alone.stats == one.stats


def test_samples_missing_before_are_not_taken_for_sick() -> None:
    early = replace(stream(["a", "b", NAN], "fail"), missing={2: "no good"})
    (one,) = shards(early, 3)
    assert one.missing == {2: "no good"}
    late = replace(stream([NAN, "b", "c"], "skip"), missing={2: "no good"})
    (one,) = shards(late, 3)
    assert list(one.missing) == [0, 2]


def test_a_weight_is_no_sample() -> None:
    stats = {"kernel": EXAMINATION.of((Dense(np.array([1, np.nan, np.inf])), None))}
    with pytest.raises(FinalError) as caught:
        refuse_non_finite(stats, str)
    assert str(caught.value) == (
        "'kernel' holds 1 NaN and 1 infinite values. To store them: runtime.non_finite=warn. "
        "That takes a new run, as this one keeps its settings"
    )
    refuse_non_finite({"kernel": ValueChecks()}, str)
