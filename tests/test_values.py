"""Values put together from batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractkit.values import Assembly, Dense, Ragged, digest, from_parts

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
    assert digest([("a", from_parts(found.parts()))]) == digest([("a", found)])


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
    assert len({digest(values) for values in different}) == len(different)
    assert digest([("a", Dense(array.copy()[::1]))]) == digest([("a", Dense(array))])


def test_a_digest_of_texts_is_about_the_texts() -> None:
    forms = [
        np.array(["é", "", "ab"]),
        np.array(["é", "", "ab"], object),
        np.array([text.encode() for text in ("é", "", "ab")], object),
    ]
    assert len({digest([("a", Dense(form))]) for form in forms}) == 1
    assert digest([("a", Dense(np.array(["a", "bc"])))]) != digest(
        [("a", Dense(np.array(["ab", "c"])))]
    )
