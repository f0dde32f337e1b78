"""Messages about missing samples, and runs of which all samples are missing."""

import pytest

from extractkit.engine.samples import blamed
from extractkit.errors import JobError
from extractkit.runs.journal import Entry
from extractkit.runs.shards import check_any_values


def entry(start: int, stop: int, *missing: int) -> Entry:
    reasons = {str(index): f"{index} holds 1 NaN value." for index in missing}
    return Entry(f"{start}-{stop}", start, stop, {}, "", {}, reasons, {})


def test_a_sample_is_blamed_by_its_name_with_the_way_out() -> None:
    reported = blamed("cat/1.png", 3, "inputs.path='1.png' is broken. Copy it again.")
    assert reported == (
        "sample 'cat/1.png' (number 3): inputs.path='1.png' is broken. Copy it again. "
        "To leave such samples out: runtime.bad_samples=skip"
    )


def test_a_run_without_any_sample_left_has_failed() -> None:
    with pytest.raises(JobError) as caught:
        check_any_values([entry(0, 0), entry(0, 2, 0, 1), entry(2, 3, 2)], 3)
    assert str(caught.value) == (
        "no sample has a value: all 3 are missing. The first: 0 holds 1 NaN value. "
        "To store values that are not finite: runtime.non_finite=warn. "
        "To see where a model fails: runtime.bad_samples=fail. "
        "That takes a new run, because this one keeps its settings"
    )


def test_one_sample_is_enough_and_constants_need_none() -> None:
    check_any_values([entry(0, 2, 0, 1), entry(2, 4, 3)], 4)
    check_any_values([entry(0, 0)], 0)
    check_any_values([], 0)
