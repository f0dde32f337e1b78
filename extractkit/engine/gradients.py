"""Gradients of targets and rollouts of attention maps: what a model computes of them."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from extractkit.core.attribution import Integrate, Method
from extractkit.core.catalog import Catalog
from extractkit.core.picks import LabelSpec, merged
from extractkit.core.plan import PlannedTensor
from extractkit.core.requests import Bound, BoundGradients, BoundRollout, Gradient, Value, unsuited
from extractkit.core.rollout import sequence_of
from extractkit.core.selectors import Selector
from extractkit.core.spec import TEXT, TensorSpec, numpy_dtype
from extractkit.core.statistics.totals import Total
from extractkit.core.targets import GRADIENT, REAL, Target
from extractkit.core.transforms.pipeline import Pipeline
from extractkit.engine.measure import measure_axes
from extractkit.errors import SelectionError, choices
from extractkit.inputs import Signature, Source
from extractkit.models import (
    CarriesState,
    Compilation,
    Differentiates,
    LacksGradients,
    Model,
)


def offered(
    model: Model | None,
    catalog: Catalog,
    selectors: Iterable[Selector],
    *,
    alone: bool = False,
    totals: bool = True,
) -> dict[str, Bound]:
    """Return what a model computes in place of values, by the names of selectors that ask for it.

    Args:
        model: the model; None if no selector asks for gradients.
        catalog: the tensors that they select from.
        alone: whether each call of the model takes one sample.
        totals: whether the gradients of a batch may be one sum, if only the total is wanted.

    Raises:
        SelectionError: the model computes no gradients, or none of a target.
    """
    found: dict[str, Bound] = {}
    for one in selectors:
        if one.gradient is not None:
            assert model is not None
            only = totals and only_total(one)
            found[one.name] = _offered(model, catalog, one, one.gradient, alone, only)
        elif one.rollout:
            found[one.name] = BoundRollout(sequence_of(catalog, one.matching(catalog)))
    return found


def _offered(
    model: Model,
    catalog: Catalog,
    selector: Selector,
    target: Target,
    alone: bool,
    totals: bool,
) -> BoundGradients:
    if (reason := _no_gradients_reason(model)) is not None:
        raise SelectionError(
            f"selectors.{selector.name}.{GRADIENT}: model {catalog.model!r} computes no gradients, "
            f"because {reason}. Leave {GRADIENT} out to store values"
        )
    assert isinstance(model, Differentiates)
    of = target.bound(catalog)
    matching = [one for one in selector.matching(catalog) if one.extractable]
    method = selector.method
    reasons = {one.address: unsuited(one, alone=alone or totals) for one in matching}
    if method is not None:
        check_method(method, model.signature)
        reasons = {one.address: method.unsuited(one) or reasons[one.address] for one in matching}
    left = [address for address, reason in reasons.items() if reason is None]
    reasons |= model.without_gradient(of, left)
    found = {address: reason for address, reason in reasons.items() if reason is not None}
    bound = BoundGradients(of, found, totals, method)
    if method is None or not method.combines:
        return bound
    maps = sequence_of(catalog, [bound.offered(one) for one in selector.matching(catalog)])
    if not isinstance(maps, str):
        method = replace(method, maps=maps)
    return replace(bound, method=method, maps=maps)


def check_method(method: Method, signature: Signature) -> None:
    """Check that a model has the inputs that a method replaces, and that they take the numbers.

    Raises:
        SelectionError: it does not.
    """
    if not isinstance(method, Integrate):
        return
    specs = {spec.name: spec for spec in signature.specs}
    for name, value in method.baseline.inputs:
        at = f"{method.at}.baseline.inputs"
        if name not in specs:
            raise SelectionError(
                f"{at}: {name!r} is not an input of model {signature.model!r}. "
                f"{choices(name, specs)}"
            )
        spec = specs[name]
        if spec.dtype == TEXT or spec.composite is not None:
            held = "texts" if spec.dtype == TEXT else f"{spec.composite} rows"
            raise SelectionError(f"{at}.{name}: the input takes {held}, which no number replaces")
        if spec.dtype not in REAL and not _is_whole(value, spec.dtype):
            raise SelectionError(f"{at}.{name}={value:g}: the input takes {spec.dtype}")


def _is_whole(value: float, dtype: str) -> bool:
    """Return whether a number is one of a type of whole numbers."""
    if dtype == "bool":
        return value in (0, 1)
    kind = numpy_dtype(dtype)
    limits = np.iinfo(kind) if kind.kind in "iu" else None
    return limits is not None and value.is_integer() and limits.min <= value <= limits.max


def only_total(selector: Selector) -> bool:
    """Return whether a selector asks for nothing but totals of gradients as they are.

    A transform of a sum is not the sum of transforms.
    """
    asked = selector.asked
    only = bool(asked) and all(isinstance(one, Total) for one in asked.single) and not asked.joint
    return only and not selector.pipeline.steps and selector.method is None


def with_measured_targets(
    model: Model,
    source: Source,
    tensors: Sequence[PlannedTensor],
    compilation: Compilation,
    alone: bool,
) -> tuple[tuple[PlannedTensor, ...], str | None]:
    """Return the tensors with the axes of all targets known, and why each call takes one sample.

    Args:
        alone: see `measure_axes`.

    Raises:
        SelectionError: a target is not one number per sample.
    """
    unknown = {
        one.target.tensor: one
        for one in tensors
        if one.target is not None and one.target.layout is None
    }
    if not unknown:
        return tuple(tensors), None
    values = []
    for address, one in unknown.items():
        record = model.catalog[address]
        spec = TensorSpec(record.spec.dtype, None)
        of = (Value(address), record, one.selectors, Pipeline(), None, None, spec)
        values.append(PlannedTensor(address, *of))
    try:
        found = measure_axes(model, source, values, compilation, alone=alone)
    except SelectionError as error:
        at = next(one.target.at for one in unknown.values() if one.target is not None)
        raise SelectionError(f"{at}: the target has no number per sample. {error}") from error
    records = {one.address: one.record for one in found.tensors}

    def known(tensor: PlannedTensor) -> PlannedTensor:
        target = tensor.target
        if target is None or target.layout is not None:
            return tensor
        bound = target.target.of(records[target.tensor])
        assert isinstance(tensor.request, Gradient)
        return replace(tensor, request=replace(tensor.request, of=bound))

    return tuple(map(known, tensors)), found.alone


def label_spec(tensors: Iterable[PlannedTensor]) -> LabelSpec | None:
    """Return the form of the labels that targets take, or None if none takes any.

    Raises:
        SelectionError: targets take labels of different forms.
    """
    return merged(one.target.label for one in tensors if one.target is not None)


def _no_gradients_reason(model: Model) -> str | None:
    """Return why a model computes no gradients at all, or None."""
    if isinstance(model, LacksGradients):
        return model.lacks_gradients
    if not isinstance(model, Differentiates):
        return "its adapter has no method for them"
    if isinstance(model, CarriesState):
        return "its state is carried from call to call (model.state=carry)"
    return None
