"""Lengths and rows of all samples, before anything is computed."""

from collections.abc import Sequence

import numpy as np
import pytest

from extractkit.engine.samples import SampleRow, longest, survey
from extractkit.errors import InputError
from extractkit.inputs import InputSpec, Signature
from extractkit.inputs.in_memory import LiveArrays
from extractkit.testing.reference import ReferenceModel
from tests.engine.examples import MODEL, TEXTS, source


class Fixed(ReferenceModel):
    """A model whose input has one shape; it must not be asked to encode."""

    signature = Signature("fixed", (InputSpec("x", "float32", (2,), (None,)),))  # type: ignore[assignment]

    def encode(self, samples: Sequence[object]) -> list[object]:  # type: ignore[override]
        raise AssertionError("a sample of fixed shape need not be read to know its length")


def test_every_sample_has_its_length_and_row() -> None:
    rows: list[SampleRow] = []
    texts = ["ab", "", "x" * 70]
    lengths = survey(MODEL, source(texts), rows.extend).lengths
    assert lengths.samples == 3
    assert lengths.axes["token"].tolist() == [2, 0, 64]
    assert lengths.axes["token"].dtype == np.int64
    assert [row["truncated"] for row in rows] == [False, False, True]
    assert rows[0] == {
        "index": 0, "id": "0", "source": "memory", "length": 2, "truncated": False,
        "tokens": ["a", "b"], "text": "ab",
    }  # fmt: skip


def test_many_samples_are_read_in_parts_and_none_twice() -> None:
    parts: list[Sequence[SampleRow]] = []
    lengths = survey(MODEL, source(["ab"] * 1000), parts.append).lengths
    assert [row["index"] for part in parts for row in part] == list(range(1000))
    assert max(map(len, parts)) < 1000
    assert (lengths.samples, set(lengths.axes["token"].tolist())) == (1000, {2})


def test_samples_of_fixed_shape_are_not_encoded() -> None:
    model = Fixed()
    arrays = LiveArrays(np.ones((4, 2), "float32")).bind(model.signature)
    rows: list[SampleRow] = []
    assert survey(model, arrays, rows.extend).lengths.axes == {}
    assert [row["index"] for row in rows] == [0, 1, 2, 3]
    assert "length" not in rows[0]


def test_the_longest_that_a_model_allows_bounds_every_length() -> None:
    bounds = longest(MODEL, source())
    assert bounds is not None
    assert bounds.axes["token"].tolist() == [64] * len(TEXTS)


def test_without_a_limit_there_is_no_bound() -> None:
    class Unlimited(ReferenceModel):
        signature = Signature("m", MODEL.signature.specs, takes_text=True)  # type: ignore[assignment]

    assert longest(Unlimited(), source()) is None


class Refusing(ReferenceModel):
    """A model for which no sample will do."""

    def encode(self, samples: Sequence[object]) -> list[object]:  # type: ignore[override]
        raise InputError("no sample will do")


def test_what_is_wrong_with_all_samples_is_raised_as_it_is() -> None:
    with pytest.raises(InputError, match=r"^no sample will do$") as caught:
        survey(Refusing(), source(["a", "b"]), lambda rows: None)
    assert caught.value.__cause__ is None
