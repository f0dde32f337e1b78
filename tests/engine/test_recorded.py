"""A survey, read back from the rows that it left."""

import numpy as np
import pytest

from extractkit.engine.samples import SampleRow, recorded_survey, survey
from extractkit.errors import RunDirectoryError
from extractkit.inputs import InputSpec, Signature
from tests.engine.examples import MODEL, TEXTS, source

TWO_AXES = Signature("two", (InputSpec("x", "float32", (None, None), ("token", "time")),))
FIXED = Signature("fixed", (InputSpec("x", "float32", (2,), (None,)),))


def test_lengths_are_those_of_the_survey() -> None:
    rows: list[SampleRow] = []
    found = survey(MODEL, source(), rows.extend)
    again = recorded_survey(MODEL.signature, iter(rows), len(TEXTS))
    assert again.lengths.samples == len(TEXTS)
    assert set(again.lengths.axes) == {"token"}
    np.testing.assert_array_equal(again.lengths.axes["token"], found.lengths.axes["token"])
    assert again.lengths.axes["token"].dtype == found.lengths.axes["token"].dtype == np.int64
    assert again.missing == found.missing == {}


def test_missing_samples_are_found_with_their_reasons() -> None:
    rows = [{"length": 2}, {"length": 0, "missing": "no good"}, {"length": 1}]
    found = recorded_survey(MODEL.signature, rows, 3)
    assert found.missing == {1: "no good"}
    assert found.lengths.axes["token"].tolist() == [2, 0, 1]


def test_of_several_axes_each_has_its_lengths() -> None:
    rows = [{"length": {"token": 1, "time": 2}}, {"length": {"token": 3, "time": 4}}]
    found = recorded_survey(TWO_AXES, rows, 2)
    assert {axis: sizes.tolist() for axis, sizes in found.lengths.axes.items()} == {
        "token": [1, 3],
        "time": [2, 4],
    }


def test_samples_of_one_shape_are_counted() -> None:
    assert recorded_survey(FIXED, [{}, {}], 2).lengths.samples == 2
    assert recorded_survey(FIXED, [], 0).lengths.samples == 0


def test_rows_that_are_missing_are_reported() -> None:
    with pytest.raises(RunDirectoryError, match=r"^2 samples have a row, 3 were recorded$"):
        recorded_survey(FIXED, [{}, {}], 3)


@pytest.mark.parametrize("length", [None, "3", -1, True, 2**62, 1.0, {"time": 3}], ids=repr)
def test_a_row_without_a_length_is_named(length: object) -> None:
    row = {"length": length}
    with pytest.raises(RunDirectoryError, match=r"^sample 1 has no length along 'token'$"):
        recorded_survey(MODEL.signature, [{"length": 1}, row], 2)
