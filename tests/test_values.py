"""Values put together from batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractkit.core.digests import PREFERRED, digest
from extractkit.core.values import Assembly, Dense, Ragged, of_samples, without
from extractkit.errors import JobError

FORMS = {
    "dense": (2, 3),
    "rows": (None, 3),
    "rows alone": (None,),
    "two axes": (2, None, None),
    "last axis": (2, None),
}


@pytest.mark.parametrize("known", [True, False], ids=["shapes known", "shapes measured"])
@pytest.mark.parametrize("shape", FORMS.values(), ids=FORMS)
@given(data=st.data())
def test_batches_in_any_order_give_the_samples_in_theirs(
    shape: tuple[int | None, ...], known: bool, data: st.DataObject
) -> None:
    lengths = data.draw(st.lists(st.integers(0, 4), max_size=7))
    random = np.random.default_rng(len(lengths))
    expected = [
        random.random([length if size is None else size for size in shape]).astype("float32")
        for length in lengths
    ]
    order = data.draw(st.permutations(range(len(expected))))
    assembly = Assembly(
        shape, "float32", [value.shape for value in expected] if known else None, len(expected)
    )
    for batch in _batches(order, lengths, padded=known, size=data.draw(st.integers(1, 4))):
        assembly.put(batch, _padded([expected[position] for position in batch]))
    found = assembly.finish()
    assert len(found) == len(expected)
    assert isinstance(found, Dense if None not in shape else Ragged)
    for index, other in enumerate(expected):
        one = found.sample(index)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
        assert one.shape == other.shape
    if expected:
        flat = np.concatenate([value.ravel() for value in expected])
        np.testing.assert_array_equal(found.values.ravel(), flat)


def _batches(order: list[int], lengths: list[int], padded: bool, size: int) -> list[list[int]]:
    """Cut the order into batches; without padding, into batches of one length."""
    batches: list[list[int]] = []
    for position in order:
        last = batches[-1] if batches else []
        if last and len(last) < size and (padded or lengths[last[0]] == lengths[position]):
            last.append(position)
        else:
            batches.append([position])
    return batches


def _padded(values: list[np.ndarray]) -> np.ndarray:
    shape = np.max([value.shape for value in values], axis=0)
    batch = np.full((len(values), *shape), np.nan, values[0].dtype)
    for row, value in zip(batch, values, strict=True):
        row[tuple(map(slice, value.shape))] = value
    return batch


def test_a_digest_tells_key_dtype_shape_and_content_apart() -> None:
    array = np.arange(6, dtype="int32")
    different = [
        [("a", Dense(array))],
        [("b", Dense(array))],
        [("a", Dense(array.astype("uint32")))],
        [("a", Dense(array.reshape(2, 3)))],
        [("a", Dense(array + 1))],
        [("a", Ragged(array, np.array([0, 6])))],
        [("a", Ragged(array, np.array([0, 2, 6])))],
    ]
    assert len({digest(values, PREFERRED) for values in different}) == len(different)
    assert digest([("a", Dense(array.copy()[::1]))], PREFERRED) == digest(
        [("a", Dense(array))], PREFERRED
    )


def test_a_digest_of_texts_is_about_the_texts() -> None:
    forms = [
        np.array(["é", "", "ab"]),
        np.array(["é", "", "ab"], object),
        np.array([text.encode() for text in ("é", "", "ab")], object),
    ]
    assert len({digest([("a", Dense(form))], PREFERRED) for form in forms}) == 1
    assert digest([("a", Dense(np.array(["a", "bc"])))], PREFERRED) != digest(
        [("a", Dense(np.array(["ab", "c"])))], PREFERRED
    )


@pytest.mark.parametrize("later", [False, True], ids=["never put", "taken out"])
@pytest.mark.parametrize("known", [True, False], ids=["shapes known", "shapes measured"])
@pytest.mark.parametrize("shape", FORMS.values(), ids=FORMS)
@given(data=st.data())
def test_absent_samples_keep_their_place_and_the_others_their_values(
    shape: tuple[int | None, ...], known: bool, later: bool, data: st.DataObject
) -> None:
    lengths = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=7))
    random = np.random.default_rng(len(lengths))
    expected = [
        random.random([length if size is None else size for size in shape]).astype("float32")
        for length in lengths
    ]
    absent = data.draw(st.lists(st.sampled_from(range(len(lengths))), unique=True))
    shapes = [value.shape for value in expected] if known else None
    assembly = Assembly(shape, "float32", shapes, len(expected))
    for position, value in enumerate(expected):
        if later or position not in absent:
            assembly.put([position], value[np.newaxis])
    found = without(assembly.finish(), absent, shape) if later else assembly.finish(absent)
    assert found.absent == tuple(sorted(absent))
    for position, other in enumerate(expected):
        one = found.sample(position)
        if position not in absent:
            np.testing.assert_array_equal(one, other)
        elif None in shape:
            assert one.shape == tuple(size or 0 for size in shape)
        else:
            assert np.isnan(one).all()
    if None in shape:
        kept = [other.ravel() for at, other in enumerate(expected) if at not in absent]
        np.testing.assert_array_equal(found.values.ravel(), np.concatenate([[], *kept]))


@pytest.mark.parametrize("shape", FORMS.values(), ids=FORMS)
@given(data=st.data())
def test_some_samples_keep_their_values_and_shapes(
    shape: tuple[int | None, ...], data: st.DataObject
) -> None:
    lengths = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=7))
    every = st.lists(st.sampled_from(range(len(lengths))), unique=True)
    absent, positions = sorted(data.draw(every)), sorted(data.draw(every))
    assembly = Assembly(shape, "float32", None, len(lengths))
    for position, length in enumerate(lengths):
        sizes = [length if size is None else size for size in shape]
        assembly.put([position], np.full((1, *sizes), position, np.float32))
    whole = without(assembly.finish(), absent, shape)
    found = of_samples(whole, np.array(positions, np.int64))
    assert len(found) == len(positions)
    assert found.absent == tuple(at for at, one in enumerate(positions) if one in absent)
    for at, position in enumerate(positions):
        np.testing.assert_array_equal(found.sample(at), whole.sample(position))
        assert found.sample(at).shape == whole.sample(position).shape
    if isinstance(found, Ragged):
        assert len(found.values) == found.offsets[-1]


@pytest.mark.parametrize(
    ("dtype", "fill"),
    [("int32", 0), ("uint8", 0), ("bool", False), ("object", b""), ("<U3", ""), ("S3", b"")],
)
def test_what_has_no_nan_is_filled_with_zeros_or_empty_texts(dtype: str, fill: object) -> None:
    texts = np.dtype(dtype).kind in "OSU"
    given_values = np.array([b"a", b"b"] if texts else [1, 1]).astype(dtype)
    found = without(Dense(given_values), [1], ())
    assert found.values.tolist() == [given_values[0], fill]
    assert given_values[1] != fill  # a copy


def test_complex_numbers_have_a_nan_of_their_own() -> None:
    found = without(Dense(np.ones(2, "complex64")), [0], ()).values
    assert np.isnan(found[0].real)
    assert np.isnan(found[0].imag)


def test_an_empty_text_is_of_the_kind_that_the_others_are() -> None:
    found = without(Dense(np.array([None, "b"], object)), [0], ())
    assert found.values.tolist() == ["", "b"]


def test_without_more_that_are_absent_nothing_is_copied() -> None:
    values = without(Dense(np.zeros(3)), [1], ())
    assert without(values, [1], ()) is values
    assert without(values, [0], ()).absent == (0, 1)


def test_only_padding_is_cut_off() -> None:
    longer = np.ones((1, 5, 3))
    room = Assembly((None, 3), "float64", [(4, 3), (0, 3)], 2)
    room.put([0], longer)
    with pytest.raises(JobError, match=r"shape \[5, 3\] where \[4, 3\] was planned"):
        room.put([0], longer, padded=False)
    room.put([1], longer, padded=False)
    assert room.finish([]).sample(1).shape == (0, 3)


def test_a_batch_of_all_samples_in_order_is_not_copied() -> None:
    whole = np.arange(6, dtype=np.float32).reshape(3, 2)
    for positions, batch, kept in [
        ([0, 1, 2], whole, True),
        ([0, 2, 1], whole, False),
        ([0, 1, 2], whole.astype(">f4"), False),
        ([0, 1, 2], np.asfortranarray(whole), False),
    ]:
        room = Assembly((2,), "float32", None, 3)
        room.put(positions, batch)
        found = room.finish().values
        assert (found is whole) is kept
        np.testing.assert_array_equal(found[positions], whole)
        assert found.dtype == np.float32
        assert found.flags.c_contiguous
