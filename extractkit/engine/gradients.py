"""Gradients of targets and rollouts of attention maps: what a model computes of them."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from extractkit.core.attribution import Integrate, Method, SampleInputs
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
from extractkit.core.values import digest_of_array, digest_of_plain_data
from extractkit.engine.batches import Batch, collate, encode, read_batch
from extractkit.engine.measure import measure_axes
from extractkit.engine.samples import first_usable
from extractkit.errors import SampleError, SelectionError, choices
from extractkit.inputs import Sample, Signature, Source
from extractkit.models import (
    CarriesState,
    Compilation,
    Differentiates,
    Fetch,
    LacksGradients,
    Model,
    Program,
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
    reasons |= model.without_gradient(of, left, method)
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
    if method.baseline.sample is not None:
        at = f"{method.at}.baseline.sample={method.baseline.sample!r}"
        if signature.free_axes:
            raise SelectionError(
                f"{at}: samples of model {signature.model!r} differ in length along "
                f"{', '.join(map(repr, signature.free_axes))}, and only points of one shape are "
                f"joined by a line. Give a number for all elements, or one that replaces an input, "
                f"such as that of the padding token: {method.at}.baseline='{{inputs: "
                f"{{{signature.specs[0].name}: 0}}}}'"
            )
        if rows := [one.name for one in signature.specs if one.composite is not None]:
            raise SelectionError(
                f"{at}: input {rows[0]!r} takes {specs[rows[0]].composite} rows, whose shapes "
                f"differ between samples. Give a number: {method.at}.baseline=0"
            )
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
        if spec.high is not None and not (spec.low or 0) <= value < spec.high:
            taken = f"{spec.low or 0} to {spec.high - 1}"
            raise SelectionError(f"{at}.{name}={value:g}: the input takes {taken}")


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


def with_baseline_samples(
    model: Model, source: Source, tensors: Sequence[PlannedTensor]
) -> tuple[PlannedTensor, ...]:
    """Return the tensors with the inputs of all samples that are baselines.

    Raises:
        SelectionError: there is no such sample.
        InputError: one cannot be read, or does not fit the model.
    """
    known: dict[int | str, SampleInputs] = {}

    def found(tensor: PlannedTensor) -> PlannedTensor:
        request = tensor.request
        if not isinstance(request, Gradient) or not isinstance(request.method, Integrate):
            return tensor
        method = request.method
        if (wanted := method.baseline.sample) is None:
            return tensor
        if wanted not in known:
            sample = _sample(source, wanted, f"{method.at}.baseline.sample={wanted!r}")
            known[wanted] = _inputs_of(model, sample)
        baseline = replace(method.baseline, found=known[wanted])
        return replace(tensor, request=replace(request, method=replace(method, baseline=baseline)))

    return tuple(map(found, tensors))


def check_baselines(
    model: Model, source: Source, tensors: Iterable[PlannedTensor], compilation: Compilation
) -> None:
    """Check that a model which fails on samples does not fail on a baseline instead.

    Raises:
        SelectionError: it takes the first sample, but not the inputs of a baseline.
    """
    for tensor in tensors:
        request = tensor.request
        if not isinstance(request, Gradient) or not isinstance(request.method, Integrate):
            continue
        baseline, at = request.method.baseline, f"{request.method.at}.baseline"
        if baseline.value is not None:
            continue
        program = model.program([Fetch(Value(tensor.address))], compilation)
        first = read_batch(model, first_usable(model, source, most=1), [0])
        if _failure(program, first) is not None:
            continue
        if baseline.sample is not None:
            at = f"{at}.sample={baseline.sample!r}"
            start = collate(model.signature, encode(model, [_sample(source, baseline.sample, at)]))
        else:
            at = ", ".join(f"{at}.inputs.{name}={value:g}" for name, value in baseline.inputs)
            numbers = {
                name: np.full_like(first.features[name], value) for name, value in baseline.inputs
            }
            start = replace(first, features={**first.features, **numbers}, tensors=None)
        if (failure := _failure(program, start)) is not None:
            raise SelectionError(
                f"{at}: the model takes the first sample, but not this baseline: {failure}. Give "
                f"one that it takes"
            ) from failure


def _failure(program: Program, batch: Batch) -> SampleError | None:
    try:
        program(*batch.arguments)
    except SampleError as error:
        return error
    return None


def _sample(source: Source, wanted: int | str, at: str) -> Sample:
    """Return a sample by its number or id. For an id, samples are read until it is found."""
    if isinstance(wanted, int):
        if not 0 <= wanted < len(source):
            raise SelectionError(
                f"{at} does not exist: the inputs have samples 0 to {len(source) - 1}"
            )
        (sample,) = source.read(wanted, wanted + 1)
        return sample
    ids: list[str] = []
    for start in range(0, len(source), _READ):
        for sample in source.read(start, min(start + _READ, len(source))):
            if sample.id == wanted:
                return sample
            ids.append(sample.id)
    raise SelectionError(f"{at} is not the id of a sample. {choices(wanted, ids)}")


_READ = 32
"""Samples that are read at once in search of one."""


def _inputs_of(model: Model, sample: Sample) -> SampleInputs:
    (encoded,) = model.encode([sample])
    arrays = {
        spec.name: array if spec.sample_axis is None else np.expand_dims(array, spec.sample_axis)
        for spec in model.signature.specs
        for array in [np.asarray(encoded.features[spec.name])]
    }
    hashed = {name: digest_of_array(array) for name, array in arrays.items()}
    return SampleInputs(arrays, digest_of_plain_data(hashed))


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
