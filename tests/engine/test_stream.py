"""Shards are a pure function of the job and their range, whatever the threads do."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractkit.core.digests import PREFERRED, digest
from extractkit.core.plan import PlannedTensor, plan_tensors
from extractkit.core.selectors import parse_selector
from extractkit.core.shards import Shard
from extractkit.core.values import Array, Values
from extractkit.engine.batches import BatchRules
from extractkit.engine.measure import measure_axes
from extractkit.engine.samples import survey
from extractkit.engine.stream import Stream, fetches
from extractkit.errors import InputError, JobError
from extractkit.inputs import Sample
from extractkit.models import Compilation, Model, Program
from tests.engine.examples import MODEL, TEXTS, source, tokens

RULES = BatchRules(batch_size=4, batch_tokens=None, padded=True)
WHOLE = Shard(0, len(TEXTS))


def planned(model: Model = MODEL, **selector: object) -> tuple[PlannedTensor, ...]:
    chosen = parse_selector("mine", selector or {"not": {"kind": "weight"}})
    wanted = plan_tensors(model.catalog, [chosen])
    return measure_axes(model, source(), wanted, Compilation()).tensors


TENSORS = planned()


def stream(
    program: Program | None = None,
    texts: object = None,
    rules: BatchRules = RULES,
    tensors: Sequence[PlannedTensor] = TENSORS,
) -> Stream:
    compiled = program or MODEL.program(fetches(tensors), Compilation())
    reading = texts or source()
    lengths = survey(MODEL, source(), lambda rows: None).lengths
    return Stream(MODEL, reading, compiled, tensors, lengths, rules)  # type: ignore[arg-type]


def values(stream: Stream, *shards: Shard) -> list[dict[str, Values]]:
    return [one.values for one in stream.shards(shards)]


def digests(stream: Stream, *shards: Shard) -> list[str]:
    return [digest(one.items(), PREFERRED) for one in values(stream, *shards)]


@settings(max_examples=25)
@given(st.integers(1, 25), st.integers(1, 9), st.none() | st.integers(1, 200), st.booleans())
def test_every_sample_has_the_value_that_it_has_alone(
    shard_size: int, batch_size: int, batch_tokens: int | None, padded: bool
) -> None:
    shards = [
        Shard(at, min(at + shard_size, len(TEXTS))) for at in range(0, len(TEXTS), shard_size)
    ]
    rules = BatchRules(batch_size, batch_tokens, padded)
    for shard, found in zip(shards, values(stream(rules=rules), *shards), strict=True):
        assert list(found) == [tensor.key for tensor in TENSORS]
        for position in range(len(shard)):
            expected = MODEL.forward(tokens(TEXTS[shard.start + position]))
            for key, stored in found.items():
                np.testing.assert_array_equal(stored.sample(position), expected[key])


def test_a_shard_does_not_depend_on_what_other_shards_there_are() -> None:
    shards = [Shard(at, at + 5) for at in range(0, 20, 5)]
    together = digests(stream(), *shards)
    assert [digests(stream(), shard)[0] for shard in shards] == together
    assert digests(stream(), *reversed(shards)) == together[::-1]


class Slow:
    """A source that takes its time now and then."""

    def __init__(self, seconds: Sequence[float]) -> None:
        self.texts, self.seconds, self.calls = source(), seconds, 0

    def read(self, start: int, stop: int) -> Sequence[Sample]:
        self.calls += 1
        time.sleep(self.seconds[self.calls % len(self.seconds)])
        return self.texts.read(start, stop)


def slowed(seconds: float) -> Program:
    program = MODEL.program(fetches(TENSORS), Compilation())

    def run(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> Sequence[Array]:
        time.sleep(seconds)
        return program(features, lengths)

    return run


@pytest.mark.parametrize(
    ("reading", "computing", "storing"),
    [((0.0, 0.01), 0.0, 0.0), ((0.0,), 0.01, 0.0), ((0.0,), 0.0, 0.03), ((0.01, 0.0), 0.005, 0.01)],
)
def test_which_stage_is_slowest_does_not_show(
    reading: tuple[float, ...], computing: float, storing: float
) -> None:
    shards = [Shard(0, 7), Shard(7, 14), Shard(14, 20)]
    found = []
    for one in stream(slowed(computing), Slow(reading)).shards(shards):
        time.sleep(storing)
        found.append(digest(one.values.items(), PREFERRED))
    assert found == digests(stream(), *shards)


def test_closing_early_stops_reading() -> None:
    slow = Slow([0.0])
    shards = stream(texts=slow).shards([Shard(at, at + 1) for at in range(20)])
    next(shards)
    shards.close()
    calls = slow.calls
    time.sleep(0.05)
    assert slow.calls == calls < 20


def test_an_error_of_the_model_is_raised_where_shards_are_used() -> None:
    def broken(features: object, lengths: object) -> list[Array]:
        raise OSError("the model broke")

    with pytest.raises(OSError, match="the model broke"):
        values(stream(broken), WHOLE)


def test_a_sample_that_can_no_longer_be_read_is_no_mistake_of_the_user() -> None:
    class Gone:
        def read(self, start: int, stop: int) -> Sequence[Sample]:
            raise InputError("it is gone")

    with pytest.raises(JobError, match="a sample can no longer be read: it is gone"):
        values(stream(texts=Gone()), WHOLE)


def test_every_sample_is_counted_once() -> None:
    counted: list[int] = []
    counting = replace(stream(), on_batch=counted.append, missing={3: "no good", 11: "no good"})
    for _ in counting.shards([Shard(0, 7), Shard(7, 20)]):
        pass
    assert sum(counted) == len(TEXTS)
