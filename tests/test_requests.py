"""Requests: what is asked of a model for one tensor, and the refusal of what it cannot compute."""

from dataclasses import dataclass

import pytest

from extractkit.core.requests import Request, Value, check_values
from extractkit.errors import SelectionError


@dataclass(frozen=True, slots=True)
class Doubled(Request):
    times: int

    what = "doubled value"


def test_requests_of_different_kinds_differ() -> None:
    assert Value("a:b") == Value("a:b") != Value("a:c")
    assert Value("a:b") != Request("a:b")
    assert len({Value("a:b"), Doubled("a:b", 2), Doubled("a:b", 3)}) == 3


def test_values_are_accepted() -> None:
    check_values([Value("a:b"), Value("a:c")], "tiny")


def test_the_refusal_names_model_tensor_and_way_out() -> None:
    with pytest.raises(SelectionError) as refused:
        check_values([Value("a:b"), Doubled("a:c", 2)], "tiny")
    assert str(refused.value) == (
        "model 'tiny' computes values of tensors, not doubled values: those of 'a:c' are selected. "
        "Select values, or choose a format of models that computes doubled values"
    )
