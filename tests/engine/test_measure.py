"""Axes that only running the model tells."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import pytest

from extractkit.core.catalog import Catalog
from extractkit.core.plan import PlannedTensor, plan_tensors
from extractkit.core.requests import BoundGradients, Value
from extractkit.core.selectors import parse_selector
from extractkit.core.spec import TensorSpec
from extractkit.core.targets import BoundTarget, Largest, Target
from extractkit.core.values import Array
from extractkit.engine.measure import Measured, measure_axes
from extractkit.errors import SelectionError
from extractkit.models import Compilation, Fetch, Program
from extractkit.testing.reference import ReferenceModel
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
        shape = record.spec.shape if record.spec.dims and self.dims else ()
        sizes = shape if len(shape) == len(self.dims or ()) else (None,) * len(self.dims or ())
        spec = TensorSpec.of(record.spec.dtype, self.dims, sizes)
        records[self.altered] = replace(record, spec=spec)
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
    assert (tensor.spec.labels, tensor.spec.shape) == (("sample", None), (None, 4))


def test_an_unknown_rank_too_and_the_sample_axis_wherever_it_stands() -> None:
    tensor = measured("attention:output", Turned())
    assert tensor.layout is not None
    assert tensor.layout.axis == 2
    assert (tensor.spec.labels, tensor.spec.shape) == (("sample", "token", None), (None, None, 4))


@pytest.mark.parametrize("texts", [["a"], ["", "ab"], ["x" * 64], ["x" * 99, "y"], TEXTS])
def test_it_takes_no_particular_first_sample(texts: list[str]) -> None:
    unknown = described("embedding:output", "?", "?", "?")
    tensor = measured("embedding:output", unknown, texts)
    assert (tensor.spec.labels, tensor.spec.shape) == (("sample", "token", None), (None, None, 4))


def test_a_product_in_which_samples_vary_slowest_is_taken_apart() -> None:
    tensor = measured("attention:op/MatMul")
    assert (tensor.spec.labels, tensor.spec.shape) == (("sample", "token", None), (None, None, 4))


def alone(path: str, model: ReferenceModel, texts: Sequence[str] = TEXTS) -> Measured:
    """What is measured where no value belongs to a sample of a batch."""
    planned = plan_tensors(model.catalog, [parse_selector("mine", {"path": path})])
    found = measure_axes(model, source(texts), planned, Compilation())
    assert found.alone == f"{path!r} has no value per sample in a batch"
    return found


class ZeroGradients(ReferenceModel):
    """The reference model with gradients that are zero, so that they do not show an order."""

    def program(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
        of_values = [Fetch(Value(fetch.address)) for fetch in fetches]
        plain = super().program(of_values, compilation)

        def run(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> list[Array]:
            values = plain(features, lengths)
            return [
                value if isinstance(fetch.request, Value) else np.zeros_like(value)
                for fetch, value in zip(fetches, values, strict=True)
            ]

        return run


def test_a_gradient_without_a_known_order_leaves_the_value_of_its_tensor() -> None:
    path = "attention:op/MatMul"
    gradients = parse_selector(
        "g", {"path": [path, "attention:output"], "gradient": {"of": ":output"}}
    )
    target = BoundTarget(":output", Target(":output", Largest(), None, "g.of"), None, ())
    selectors = [parse_selector("v", {"path": path}), gradients]
    model = ZeroGradients()
    planned = plan_tensors(model.catalog, selectors, {"g": BoundGradients(target, {})})
    found = measure_axes(model, source(TEXTS), planned, Compilation())
    assert [one.key for one in found.tensors] == [path, "attention:output@grad"]
    (lost,) = found.unextractable
    assert (lost.address, found.lost, found.alone) == (path, {"g": 1}, None)
    assert (lost.reason or "").startswith("its gradient: with dims ['sample*token', None]: in its ")


def test_a_product_in_which_tokens_vary_slowest_takes_calls_on_one_sample() -> None:
    (tensor,) = alone("attention:op/MatMul", TokensFirst()).tensors
    assert (tensor.spec.labels, tensor.spec.shape) == (("sample", "token", None), (None, None, 4))


def test_so_does_one_of_which_equal_samples_cannot_tell() -> None:
    assert alone("attention:op/MatMul", MODEL, ["aa"] * 3).tensors[0].layout is not None


def test_different_samples_are_looked_for_beyond_the_first_two() -> None:
    assert measured("attention:op/MatMul", texts=["ab", "ab", "ab", "cd"]).layout is not None


def test_a_single_sample_needs_no_order() -> None:
    assert measured("attention:op/MatMul", texts=["ab"]).layout is not None


def test_a_value_that_belongs_to_a_whole_batch_is_that_of_its_only_sample() -> None:
    (tensor,) = alone("pool:op/Max", WholeBatch()).tensors
    assert (tensor.spec.labels, tensor.spec.shape) == (("sample", None), (None, 4))
    assert tensor.layout is not None
    assert tensor.layout.whole


def test_so_is_one_whose_rank_changes() -> None:
    (tensor,) = alone("pool:op/Max", Restless()).tensors
    assert (tensor.spec.labels, tensor.spec.shape) == (("sample", None), (None, 1))


class Fickle(Altered):
    """Another number of axes with each call."""

    altered = "pool:op/Max"
    calls = 0

    def alter(self, value: Array, samples: int) -> Array:
        self.calls += 1
        return np.zeros((1,) * (1 + self.calls % 3))


def test_a_selector_of_nothing_that_can_be_extracted_is_to_be_left_out() -> None:
    model = Fickle()
    chosen = [
        parse_selector("mine", {"path": "pool:op/Max"}),
        parse_selector("other", {"path": "pool:output"}),
    ]
    with pytest.raises(SelectionError) as refused:
        measure_axes(model, source(), plan_tensors(model.catalog, chosen), Compilation())
    assert str(refused.value).startswith(
        "selectors.mine selects nothing that can be extracted: 'pool:op/Max' is measured as [1"
    )
    assert str(refused.value).endswith(
        ": its number of axes changes with the inputs. Leave selectors.mine out, or have it select "
        "other tensors"
    )
    planned = plan_tensors(model.catalog, chosen[1:])
    assert measure_axes(model, source(), planned, Compilation()).tensors[0].layout is not None


def test_a_transform_is_bound_once_the_axes_are_known() -> None:
    chosen = parse_selector("mine", {"path": "pool:op/Max", "slice": {1: 7}})
    planned = plan_tensors(MODEL.catalog, [chosen])
    with pytest.raises(SelectionError, match="takes element 7 of an axis of 'pool:op/Max'"):
        measure_axes(MODEL, source(), planned, Compilation())


def chosen_by_dims(model: ReferenceModel, *mappings: object) -> Measured:
    """What selectors store of tensors that their predicates may match before measuring."""
    catalog = model.catalog
    chosen = {f"s{at}": parse_selector(f"s{at}", one) for at, one in enumerate(mappings)}
    planned = plan_tensors(catalog, list(chosen.values()))
    return measure_axes(
        *(model, source(), planned, Compilation()),
        selectors={name: one.within(catalog) for name, one in chosen.items()},
    )


def test_dims_are_matched_again_once_they_are_measured() -> None:
    model = described("attention:output", "?", "?", "?")
    tokens, others = {"dims": "sample,token,4"}, {"dims": "sample,token,token"}
    found = chosen_by_dims(model, tokens, others)
    (tensor,) = (one for one in found.tensors if one.address == "attention:output")
    assert tensor.selectors == ("s0",)
    assert (tensor.spec.labels, tensor.spec.shape) == (("sample", "token", None), (None, None, 4))
    assert found.lost == {"s0": 1, "s1": 2}  # pool:op/Max is unknown, too


def test_keys_are_unique_after_measuring_too() -> None:
    """Of two ways to store a gradient, one is left, so that its key names no selector any more."""
    path = "attention:output"

    class Model(ZeroGradients, type(described(path, "?", "?", "?"))):  # type: ignore[misc]
        pass

    model = Model()
    gradient = {"gradient": {"of": ":output"}}
    chosen = [
        parse_selector("grad", {"path": path}),
        parse_selector("other", {"path": path, "do": ["abs"]}),
        parse_selector("g1", {"path": path, **gradient}),
        parse_selector("g2", {"dims": "sample,token,token", "do": ["abs"], **gradient}),
    ]
    target = BoundTarget(":output", Target(":output", Largest(), None, "g.of"), None, ())
    bound = BoundGradients(target, {})
    planned = plan_tensors(model.catalog, chosen, {"g1": bound, "g2": bound})
    assert {f"{path}@grad", f"{path}@grad@g1", f"{path}@grad@g2"} < {one.key for one in planned}
    with pytest.raises(SelectionError) as refused:
        measure_axes(
            *(model, source(), planned, Compilation()),
            selectors={one.name: one.within(model.catalog) for one in chosen},
        )
    assert str(refused.value) == (
        f"selectors.grad and selectors.g1 would both store {path + '@grad'!r}. Give one of these "
        "selectors another name"
    )


def test_transforms_are_bound_to_tensors_that_match_when_measured_alone() -> None:
    model = described("pool:op/Max", "?", "?")
    found = chosen_by_dims(model, {"dims": "sample,~,*", "slice": {1: -1}})
    assert {one.address for one in found.tensors} == {
        *("embedding:output", "attention:op/Softmax", "attention:op/MatMul", "attention:output")
    }


def test_a_selector_that_matches_nothing_when_measured_is_reported() -> None:
    model = described("pool:op/Max", "?", "?")
    with pytest.raises(SelectionError) as refused:
        chosen_by_dims(model, {"op_type": "Max", "dims": "sample,token"})
    assert str(refused.value) == (
        "selectors.s0.op_type='Max', dims='sample,token' matches nothing: the axes of "
        "'pool:op/Max' were measured as 'sample,4'. Each of these predicates "
        "matches some tensors, but none matches all of them. Without op_type, 1 tensor matches: "
        "':input.tokens'. Without dims, 1 tensor matches: 'sample,4'. "
        "List them: extractkit tensors model=reference"
    )


def test_a_slice_of_matches_that_measuring_changes_is_refused() -> None:
    model = described("pool:op/Max", "?", "?")
    with pytest.raises(SelectionError) as refused:
        chosen_by_dims(model, {"dims": "sample,token,*", "take": "-1:"})
    assert str(refused.value) == (
        "selectors.s0.take has counted 'pool:op/Max', whose axes were unknown. They were measured "
        "as 'sample,4', so that it does not match. Select by path, op_type or kind in place of dims"
    )


def test_what_has_no_value_per_sample_is_left_out_where_others_remain() -> None:
    chosen = parse_selector("mine", {"inside": "pool"})
    model = WholeBatch()
    found = measure_axes(model, source(), plan_tensors(model.catalog, [chosen]), Compilation())
    assert [tensor.address for tensor in found.tensors] == ["pool:output"]
    (unextractable,) = found.unextractable
    assert (unextractable.address, unextractable.reason) == (
        "pool:op/Max",
        "measured as [4]: no axis of it follows the samples: its value belongs to a whole batch; "
        "with runtime.batch_size=1 it is that of a sample",
    )


class Masked(Altered):
    """Rows of all samples' tokens, of which the values decide some to be lost."""

    altered, dims = "attention:op/MatMul", ("?", None)

    def alter(self, value: Array, samples: int) -> Array:
        rows = value.reshape(-1, value.shape[-1])
        return rows[rows[:, 0] > 0]


def test_rows_that_the_values_decide_belong_to_the_only_sample() -> None:
    (tensor,) = alone("attention:op/MatMul", Masked(), ["abcdefgh", "aaaaaaaa"]).tensors
    assert (tensor.spec.labels, tensor.spec.shape) == (
        ("sample", "f(values)", None),
        (None, None, 4),
    )


class Early(Altered):
    """As long as its values decide, padded to the longest in the batch."""

    altered, dims = "embedding:output", ("?", "?", "?")

    def alter(self, value: Array, samples: int) -> Array:
        longest = max(len(np.unique(row, axis=0)) for row in value)
        return value[:, :longest]


def test_lengths_that_the_values_decide_are_measured_on_several_samples() -> None:
    tensor = measured("embedding:output", Early(), ["abcdefgh", "aaaabbbb"])
    assert (tensor.spec.labels, tensor.spec.shape) == (
        ("sample", "f(values)", None),
        (None, None, 4),
    )
