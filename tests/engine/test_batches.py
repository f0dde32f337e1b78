"""From samples to padded arrays."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractkit.engine.batches import collate, read_batch
from extractkit.inputs import InputSpec, Sample, Signature
from extractkit.inputs.in_memory import LiveTextSource
from extractkit.models import Encoded
from tests.engine.examples import MODEL, TEXTS, source, tokens

SIGNATURE = Signature(
    "m",
    (
        InputSpec("ids", "int32", (None,), ("token",), pad=7),
        InputSpec("pictures", "float32", (None, 2), ("picture", None), pad=-1.0),
        InputSpec("age", "int64", (), ()),
    ),
)


def encoded(ids: int, pictures: int) -> Encoded:
    features = {
        "ids": np.arange(ids, dtype="int32"),
        "pictures": np.full((pictures, 2), 0.5, "float32"),
        "age": np.int64(ids * 100).reshape(()),
    }
    return Encoded(features, {"token": ids, "picture": pictures})


def test_shorter_samples_are_filled_up_with_what_each_input_pads_with() -> None:
    batch = collate(SIGNATURE, [encoded(3, 1), encoded(1, 2)])
    assert batch.features["ids"].tolist() == [[0, 1, 2], [0, 7, 7]]
    assert batch.features["pictures"].tolist() == [[[0.5] * 2, [-1.0] * 2], [[0.5] * 2] * 2]
    assert batch.features["age"].tolist() == [300, 100]
    assert [array.dtype.name for array in batch.features.values()] == ["int32", "float32", "int64"]
    assert {axis: sizes.tolist() for axis, sizes in batch.lengths.items()} == {
        "token": [3, 1], "picture": [1, 2],
    }  # fmt: skip
    assert {sizes.dtype.name for sizes in batch.lengths.values()} == {"int32"}


def test_samples_of_one_length_are_not_padded() -> None:
    batch = collate(SIGNATURE, [encoded(2, 1)] * 3)
    assert batch.features["ids"].tolist() == [[0, 1]] * 3


@pytest.mark.parametrize(("size", "padded"), [(1, 8), (8, 8), (9, 16), (60, 64), (64, 64)])
def test_padded_lengths_come_in_steps_as_far_as_the_model_takes_them(
    size: int, padded: int
) -> None:
    features = {"tokens": np.ones(size, "int32")}
    batch = collate(MODEL.signature, [Encoded(features, {"token": size})], length_step=8)
    assert batch.features["tokens"].shape == (1, padded)
    assert (batch.features["tokens"].sum(), batch.lengths["token"].tolist()) == (size, [size])
    limited = replace(MODEL.signature, longest={"token": size})
    short = collate(limited, [Encoded(features, {"token": size})], length_step=8)
    assert short.features["tokens"].shape == (1, size)


class Remembering:
    """A source that remembers which ranges were read."""

    def __init__(self) -> None:
        self.texts = source()
        self.ranges: list[tuple[int, int]] = []
        self.digest, self.notes = "", ()

    def __len__(self) -> int:
        return len(self.texts)

    def read(self, start: int, stop: int) -> list[Sample]:
        self.ranges.append((start, stop))
        assert isinstance(self.texts, LiveTextSource)
        return self.texts.read(start, stop)


@given(st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=8, unique=True))
def test_samples_from_anywhere_come_in_the_order_asked_for(positions: list[int]) -> None:
    remembering = Remembering()
    batch = read_batch(MODEL, remembering, positions)
    for row, size, position in zip(
        batch.features["tokens"], batch.lengths["token"], positions, strict=True
    ):
        np.testing.assert_array_equal(row[:size], tokens(TEXTS[position]))
        assert not row[size:].any()
    # The source is read forwards, each sample once, neighbours together.
    read = [position for a, b in remembering.ranges for position in range(a, b)]
    assert read == sorted(positions)
    assert len(remembering.ranges) == sum(p - 1 not in positions for p in positions)


def test_part_of_a_batch_stays_padded_as_it_is() -> None:
    batch = collate(SIGNATURE, [encoded(3, 1), encoded(1, 2), encoded(2, 1)])
    part = batch.take([2, 0])
    assert (len(batch), len(part)) == (3, 2)
    assert part.features["ids"].tolist() == [[0, 1, 7], [0, 1, 2]]
    assert part.features["age"].tolist() == [200, 300]
    assert part.lengths["token"].tolist() == [2, 3]
