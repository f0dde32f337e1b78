"""Axes that only running the model tells."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import pytest

from extractkit.engine.measure import measure_axes
from extractkit.errors import SelectionError
from extractkit.models.protocol import Compilation, Fetch, Program
from extractkit.plan import PlannedTensor, plan_tensors
from extractkit.selectors import parse_selector
from extractkit.tensors import Catalog
from extractkit.testing.reference import ReferenceModel
from extractkit.values import Array
from tests.engine.examples import MODEL, TEXTS, source


class Altered(ReferenceModel):
    """The reference model, of which one tensor is made in another way."""

    altered: str
    dims: tuple[str | None, ...] | None = None

    def alter(self, value: Array, samples: int) -> Array:
        """Another value in place of what the model would return."""
        raise NotImplementedError

    @cached_property
    def catalog(self) -> Catalog:
        records = {record.address: record for record in MODEL.catalog.records}
        record = records[self.altered]
        shape = record.shape if self.dims else None
        records[self.altered] = replace(record, dims=self.dims, shape=shape)
        return Catalog(records.values(), self.name)

    def program(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
        plain = super().program(fetches, compilation)

        def run(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> list[Array]:
            values = plain(features, lengths)
            return [
                self.alter(value, len(features["tokens"])) if f.address == self.altered else value
                for f, value in zip(fetches, values, strict=True)
            ]

        return run


class TokensFirst(Altered):
    """The flattened axis holds all samples' first tokens, then all their second ones."""

    altered, dims = "attention:op/MatMul", ("sample*token", None)

    def alter(self, value: Array, samples: int) -> Array:
        apart = value.reshape(samples, -1, *value.shape[1:])
        return np.swapaxes(apart, 0, 1).reshape(value.shape)


class WholeBatch(Altered):
    """A value for the whole batch, of which only running tells that it is one."""

    altered, dims = "pool:op/Max", ("?",)

    def alter(self, value: Array, samples: int) -> Array:
        return value.max(axis=0)


class Turned(Altered):
    """Samples stand last, and even the rank is unknown before."""

    altered = "attention:output"

    def alter(self, value: Array, samples: int) -> Array:
        return np.moveaxis(value, 0, -1)


class Restless(Altered):
    """As many axes as there are samples."""

    altered = "pool:op/Max"

    def alter(self, value: Array, samples: int) -> Array:
        return np.zeros((1,) * samples)


def described(address: str, *dims: str | None) -> Altered:
    """The reference model, telling other dims of one tensor than it has."""
    described = dims

    class Described(Altered):
        altered, dims = address, described

        def alter(self, value: Array, samples: int) -> Array:
            return value

    return Described()


def measured(
    path: str, model: ReferenceModel = MODEL, texts: Sequence[str] = TEXTS
) -> PlannedTensor:
    planned = plan_tensors(model.catalog, [parse_selector("mine", {"path": path})])
    return measure_axes(model, source(texts), planned, Compilation()).tensors[0]


def test_unknown_axes_are_known_once_the_model_has_run() -> None:
    tensor = measured("pool:op/Max")
    assert (tensor.dims, tensor.shape) == (("sample", None), (None, 4))


def test_an_unknown_rank_too_and_the_sample_axis_wherever_it_stands() -> None:
    tensor = measured("attention:output", Turned())
    assert tensor.layout is not None
    assert tensor.layout.axis == 2
    assert (tensor.dims, tensor.shape) == (("sample", "token", None), (None, None, 4))


@pytest.mark.parametrize("texts", [["a"], ["", "ab"], ["x" * 64], ["x" * 99, "y"], TEXTS])
def test_it_takes_no_particular_first_sample(texts: list[str]) -> None:
    unknown = described("embedding:output", "?", "?", "?")
    tensor = measured("embedding:output", unknown, texts)
    assert (tensor.dims, tensor.shape) == (("sample", "token", None), (None, None, 4))


def test_a_product_in_which_samples_vary_slowest_is_taken_apart() -> None:
    tensor = measured("attention:op/MatMul")
    assert (tensor.dims, tensor.shape) == (("sample", "token", None), (None, None, 4))


LEAVE_OUT = "Leave it out with '+selectors.mine.not.path=\"{}\"'"


def test_a_product_in_which_tokens_vary_slowest_is_refused() -> None:
    with pytest.raises(SelectionError) as caught:
        measured("attention:op/MatMul", TokensFirst())
    assert str(caught.value) == (
        "selectors.mine selects 'attention:op/MatMul', with dims ['sample*token', None]: in its "
        "flattened axis the samples do not vary slowest, or the first samples cannot tell. "
        + LEAVE_OUT.format("attention:op/MatMul")
    )


def test_so_is_one_of_which_equal_samples_cannot_tell() -> None:
    with pytest.raises(SelectionError, match="the first samples cannot tell"):
        measured("attention:op/MatMul", texts=["aa"] * 3)


def test_different_samples_are_looked_for_beyond_the_first_two() -> None:
    assert measured("attention:op/MatMul", texts=["ab", "ab", "ab", "cd"]).layout is not None


def test_a_single_sample_needs_no_order() -> None:
    assert measured("attention:op/MatMul", texts=["ab"]).layout is not None


def test_a_value_that_belongs_to_a_whole_batch_is_refused() -> None:
    with pytest.raises(SelectionError) as caught:
        measured("pool:op/Max", WholeBatch())
    assert str(caught.value) == (
        "selectors.mine selects 'pool:op/Max', measured as [4]: no axis of it follows the samples: "
        "its value belongs to a whole batch. " + LEAVE_OUT.format("pool:op/Max")
    )


def test_a_rank_that_changes_is_refused() -> None:
    with pytest.raises(SelectionError) as caught:
        measured("pool:op/Max", Restless())
    assert str(caught.value) == (
        "selectors.mine selects 'pool:op/Max', measured as [1, 1, 1]: its number of axes changes "
        "with the inputs. " + LEAVE_OUT.format("pool:op/Max")
    )


def test_a_transform_is_bound_once_the_axes_are_known() -> None:
    chosen = parse_selector("mine", {"path": "pool:op/Max", "slice": {1: 7}})
    planned = plan_tensors(MODEL.catalog, [chosen])
    with pytest.raises(SelectionError, match="takes element 7 of an axis of 'pool:op/Max'"):
        measure_axes(MODEL, source(), planned, Compilation())


def test_what_has_no_value_per_sample_is_left_out_where_others_remain() -> None:
    chosen = parse_selector("mine", {"inside": "pool"})
    model = WholeBatch()
    found = measure_axes(model, source(), plan_tensors(model.catalog, [chosen]), Compilation())
    assert [tensor.address for tensor in found.tensors] == ["pool:output"]
    (skipped,) = found.skipped
    assert (skipped.address, skipped.reason) == (
        "pool:op/Max",
        "measured as [4]: no axis of it follows the samples: its value belongs to a whole batch",
    )


class Sorted(Altered):
    """As many rows as samples, but in the order of their values."""

    altered = "pool:output"

    def alter(self, value: Array, samples: int) -> Array:
        return np.sort(value, axis=0)


def test_rows_that_are_not_the_samples_are_refused() -> None:
    with pytest.raises(SelectionError, match="together give other values of it than each alone"):
        measured("pool:output", Sorted())
