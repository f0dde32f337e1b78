"""Synthetic samples."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractkit.core.values import Array
from extractkit.errors import InputError
from extractkit.inputs import Inputs, InputSpec, Signature
from extractkit.inputs.random import Random
from extractkit.testing.inputs import SourceContract, assert_same

IDS = InputSpec("ids", "int32", (None,), ("token",), low=5, high=9)
MASK = InputSpec("mask", "bool", (None,), ("token",))
PIXELS = InputSpec("pixels", "float16", (2, None, 3), (None, "row", None))
SCALE = InputSpec("scale", "float32", (), ())
MANY = Signature("m", (IDS, MASK, PIXELS, SCALE), longest={"token": 7})


def drawn(name: str, spec: InputSpec, **arguments: int) -> Array:
    source = Random(**arguments).bind(Signature("m", (spec,)))
    return np.stack([sample.data[name] for sample in source.read(0, len(source))])  # type: ignore[index, misc]


class TestRandom(SourceContract):
    def inputs(self, folder: Path) -> Inputs:
        return Random(samples=6)

    def signature(self) -> Signature:
        return MANY


def test_free_axes_have_the_length_asked_for_cut_to_the_longest_possible() -> None:
    data = Random(length=32).bind(MANY).read(0, 1)[0].data
    assert {name: value.shape for name, value in data.items()} == {  # type: ignore[union-attr]
        "ids": (7,),
        "mask": (7,),
        "pixels": (2, 32, 3),
        "scale": (),
    }


def test_real_numbers_are_standard_normal() -> None:
    values = drawn("x", InputSpec("x", "float32", (1000,), (None,)), samples=50)
    assert values.dtype == np.float32
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1) < 0.02


def test_whole_numbers_fill_their_bounds() -> None:
    assert set(drawn("ids", IDS).ravel()) == {5, 6, 7, 8}


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64"])
def test_whole_numbers_without_bounds_are_zero_and_one_which_is_noted(dtype: str) -> None:
    spec = InputSpec("x", dtype, (None,), ("n",))
    assert set(drawn("x", spec).ravel()) == {0, 1}
    assert Random().bind(Signature("m", (spec,))).notes == (
        "x: the model does not declare the range of its numbers; drawn from 0 and 1",
    )


def test_truth_is_drawn_both_ways_and_needs_no_note() -> None:
    assert set(drawn("mask", MASK).ravel()) == {False, True}
    assert Random().bind(MANY).notes == ()


def test_samples_and_seeds_differ() -> None:
    ten = drawn("pixels", PIXELS, samples=10)
    assert len({sample.tobytes() for sample in ten}) == 10
    assert not np.array_equal(ten, drawn("pixels", PIXELS, samples=10, seed=1))


@settings(max_examples=30, deadline=None)
@given(
    fewer=st.integers(1, 20),
    seed=st.integers(0, 2**64 - 1),
    cuts=st.lists(st.integers(0, 20), max_size=4),
)
def test_any_split_of_any_number_of_samples_is_the_same(
    fewer: int, seed: int, cuts: list[int]
) -> None:
    everything = Random(samples=20, seed=seed).bind(MANY)
    edges = [0, *sorted(cuts), 20]
    parts = [s for a, b in pairwise(edges) for s in everything.read(a, b)]
    assert_same(parts, everything.read(0, 20))
    assert_same(Random(fewer, seed).bind(MANY).read(0, fewer), everything.read(0, fewer))


def test_the_first_sample_never_changes() -> None:
    """If NumPy draws otherwise one day, digests say so; this says it to us."""
    values = drawn("ids", IDS, samples=1, length=12)
    assert values.tolist() == [[5, 5, 7, 5, 6, 5, 5, 7, 7, 7, 8, 6]]


def test_the_limit_takes_the_first_samples() -> None:
    assert len(Random(samples=5, limit=2).bind(MANY)) == 2
    assert len(Random(samples=5, limit=9).bind(MANY)) == 5


@pytest.mark.parametrize(
    "other", [Random(samples=4), Random(seed=1), Random(length=31), Random(limit=4)]
)
def test_the_digest_follows_the_settings(other: Random) -> None:
    assert other.bind(MANY).digest != Random().bind(MANY).digest


def test_the_digest_follows_the_model() -> None:
    others = [Signature("m", (IDS, MASK)), Signature("m", MANY.specs, longest={"token": 6})]
    prints = {Random().bind(signature).digest for signature in (MANY, *others)}
    assert len(prints) == 3


@pytest.mark.parametrize("dtype", ["str", "object", "bytes", "complex64"])
def test_what_is_no_number_is_refused(dtype: str) -> None:
    signature = Signature("m", (InputSpec("x", dtype, (), ()),))
    with pytest.raises(InputError) as caught:
        Random().bind(signature)
    assert str(caught.value) == (
        f"inputs=random makes numbers, and input 'x' of model 'm' is {dtype} (it takes "
        f"x: {dtype} (samples)). Try "
        f"{'' if dtype == 'complex64' else 'inputs=texts inputs.path=FILE.jsonl (JSON lines) or '}"
        f"inputs=arrays"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 0}, "inputs.samples=0 is not a whole number of 1 to 1099511627775"),
        ({"length": 0}, "inputs.length=0 is not a whole number of 1 or more"),
        ({"limit": 0}, "inputs.limit=0 is not a whole number of 1 or more"),
        ({"seed": -1}, f"inputs.seed=-1 is not a whole number of 0 to {2**64 - 1}"),
        ({"seed": 2**64}, f"inputs.seed={2**64} is not a whole number of 0 to {2**64 - 1}"),
        ({"samples": 2.5}, "inputs.samples=2.5 is not a whole number of 1 to 1099511627775"),
    ],
)
def test_settings_out_of_range_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Random(**arguments)
    assert str(caught.value) == message
