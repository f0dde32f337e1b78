"""Texts sorted as people do."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractkit.core.checkpoints import natural


@pytest.mark.parametrize(
    "expected",
    [
        ["a1", "a2", "a10"],
        ["2", "10", "a"],
        ["v1.9", "v1.10", "v2.0"],
        ["e01", "e1", "e2"],
        ["", "a", "a0"],
        ["step_9/w", "step_10/v", "step_10/w"],
    ],
)
def test_numbers_count_by_their_value(expected: list[str]) -> None:
    assert sorted(set(expected), key=natural) == expected


@given(st.lists(st.integers(0, 10**30)))
def test_texts_that_differ_in_one_number_stand_in_its_order(numbers: list[int]) -> None:
    texts = sorted((f"a{n}z" for n in numbers), key=natural)
    assert [int(text[1:-1]) for text in texts] == sorted(numbers)


@given(st.text(), st.text())
def test_different_texts_have_different_keys(one: str, other: str) -> None:
    # Otherwise an order would depend on the directory's.
    assert (natural(one) == natural(other)) == (one == other)


@given(st.text("ab"), st.text("ab"))
def test_without_numbers_it_is_the_order_of_texts(one: str, other: str) -> None:
    assert not re.search(r"\d", one + other)
    assert (natural(one) < natural(other)) == (one < other)
