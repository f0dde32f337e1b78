"""Records of a graph's tensors: dims, dependence on the inputs, quantised types."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from extractkit.core.catalog import TensorRecord
from extractkit.core.spec import SAMPLE, SAMPLES, STEP, TAKEN, Dim, TensorSpec
from extractkit.core.values import Array
from extractkit.inputs import InputSpec, Signature
from extractkit.models.axes import (
    NAMING,
    SPATIAL,
    Dims,
    Names,
    Operation,
    RawShape,
    Sizes,
    candidate_sizes,
    infer_dims,
    no_sample_axis_reason,
    of_sizes,
    propagated,
    stepped_sizes,
    with_names,
)
from extractkit.models.graphs import (
    AnyGraph,
    AnyTensor,
    InnerTensor,
    around,
    is_tensor,
    static_value,
)
from extractkit.models.graphs.decisions import Decisions
from extractkit.models.graphs.feeding import given_names, part_specs
from extractkit.models.graphs.purity import dependent_operations, impure_operations
from extractkit.models.graphs.rebuilding import SourceGraph, StaticShapes, static_shape

_RAW = {
    tf.quint8: tf.uint8,
    tf.qint8: tf.int8,
    tf.quint16: tf.uint16,
    tf.qint16: tf.int16,
    tf.qint32: tf.int32,
}


def raw_dtype(dtype: tf.DType) -> tf.DType:
    """Return the integer type with the same bits as a quantised type, or any other type itself."""
    return _RAW.get(dtype.base_dtype, dtype.base_dtype)


def spec_of(value: Any) -> TensorSpec:
    """Return the spec of a tensor or variable, with the names of its axes of steps."""
    spec = TensorSpec.fixed(raw_dtype(value.dtype).name, static_shape(value))
    if not isinstance(value, InnerTensor) or spec.dims is None:
        return spec
    others = len(spec.dims) - len(value.axes)
    return replace(spec, dims=with_names(spec.dims, (*value.axes, *(None,) * others)))


def raw(tensor: tf.Tensor) -> tf.Tensor:
    """Return a quantised tensor bitcast to integers in its graph, or any other tensor itself."""
    if not tensor.dtype.is_quantized:
        return tensor
    return tf.bitcast(tensor, raw_dtype(tensor.dtype))


def raw_array(array: Array) -> Array:
    """Return the integers in a session's value of a quantised type, a record of one field."""
    return array if array.dtype.names is None else array.view(array.dtype[0])


def scales_of(graph: AnyGraph) -> Mapping[str, Sequence[Mapping[str, object]]]:
    """Return the scales of quantised tensors by name (`op:0`).

    The real value is (q - zero_point) · scale, for each Dequantize operation of the tensor with a
    constant range. If the range is computed, the real values are the result of that operation.
    """
    found: dict[str, list[Mapping[str, object]]] = {}
    for operation, mode, low, high in _dequantized(graph):
        scale, zero_point = _affine(operation, mode, low, high)
        one = {"by": operation.name, "mode": mode, "scale": scale, "zero_point": zero_point}
        found.setdefault(operation.inputs[0].name, []).append(one)
    return found


def _dequantized(graph: AnyGraph) -> Iterator[tuple[Any, str, float, float]]:
    for operation in graph.get_operations():
        if operation.type != "Dequantize":
            continue
        low, high = (static_value(tensor) for tensor in operation.inputs[1:])
        # With an axis, each slice has its own range.
        if low is None or high is None or np.ndim(low) or np.ndim(high):
            continue
        yield operation, operation.node_def.attr["mode"].s.decode(), float(low), float(high)


def _affine(operation: Any, mode: str, low: float, high: float) -> tuple[float, float]:
    """Return scale and zero point as TensorFlow's Dequantize defines them."""
    limits = np.iinfo(raw_dtype(operation.inputs[0].dtype).as_numpy_dtype)
    least, most = int(limits.min), int(limits.max)
    if mode == "SCALED":
        least += int(operation.node_def.attr["narrow_range"].b)
        return (max(low / least, high / most) if least < 0 else high / most), 0.0
    scale = (high - low) / (most - least)
    steps = low / scale if scale else 0.0
    return scale, least - (round(steps) if mode == "MIN_FIRST" else steps)


_IMPURE = (
    "a random or assigning operation comes before it: its value depends on more than the sample"
)


@dataclass(frozen=True, eq=False)
class Found:
    """A tensor or variable, and its record before dims are known.

    Attributes:
        record: The record. Axes may have names already.
        value: The tensor or variable.
        like: The name of a tensor with the same axes; None if none is known.
        taken: The tensors and variables of the layer call that it is the result of. None: those
            that its operation consumes.
        again: Whether it is a second name for a tensor that is listed as an operation, too.
    """

    record: TensorRecord
    value: Any
    taken: Sequence[Any] | None = None
    like: str | None = None
    again: bool = False

    @property
    def in_graph(self) -> bool:
        """Whether it is a tensor of the graph rather than a variable."""
        return is_tensor(self.value)

    @property
    def in_front(self) -> int:
        """The number of axes in front of those of one step; see `InnerTensor`."""
        return len(self.value.axes) if isinstance(self.value, InnerTensor) else 0

    def with_names(self, names: Names | None) -> "Found":
        """Return it with these names of its axes in one step, if their number fits."""
        names = None if names is None else (*(None,) * self.in_front, *names)
        spec = replace(self.record.spec, dims=with_names(self.record.spec.dims, names))
        return replace(self, record=replace(self.record, spec=spec))


@dataclass(frozen=True, eq=False)
class Records:
    """A graph's records, in order.

    Attributes:
        records: The complete records.
        whole: Addresses of tensors whose whole value belongs to one sample, if a call takes one
            sample. A sample axis is added in front of them.
        impure: Names of the operations whose tensors are not functions of the sample alone.
        decisions: What the samples of a batch decide together. None for a model without a graph.
    """

    records: tuple[TensorRecord, ...]
    whole: frozenset[str]
    impure: frozenset[str]
    decisions: Decisions | None = None


def complete(
    source: SourceGraph,
    found: Sequence[Found],
    signature: Signature,
    inert: Container[str] = frozenset(),
    impure_advice: str = "",
) -> Records:
    """Return the records with dims, dependence, and the reasons why some cannot be extracted.

    Args:
        inert: Names of operations whose results do not depend on random inputs.
        impure_advice: Advice for random tensors, as a sentence.
    """
    random = f"{_IMPURE}. {impure_advice}" if impure_advice else _IMPURE
    dependent, impure = dependent_operations(source), impure_operations(source, inert)
    fed = {tensor.name for tensor in source.inputs.values()}
    reachable = [one for one in found if one.in_graph and one.record.reason is None]
    inferred = _inferred(source, [one.value for one in reachable], signature)
    named = _named(source.graph, reachable)
    dims_of = {
        id(one): with_names(dims, named.get(one.value.name) or _leading(one, dims))
        for one, dims in zip(reachable, inferred, strict=True)
    }
    rows = [one for one in reachable if (dims := dims_of[id(one)]) and dims[0].samples]
    decisions = Decisions(source, frozenset(one.value.name for one in rows))
    records, whole = [], set()
    for one in found:
        if id(one) not in dims_of:
            records.append(one.record)
            continue
        dims = _decided(dims_of[id(one)], one.value, decisions)
        given = one.value.name in fed
        depends = given or one.value.op.name in dependent
        if depends and signature.batch == 1:
            dims, added = of_one_sample(dims)
            whole |= {one.record.address} if added else set()
        drawn = not given and one.value.op.name in impure
        reason = random if drawn else unextractable_reason(dims, depends)
        records.append(
            replace(
                one.record,
                spec=replace(one.record.spec, dims=dims),
                depends_on_inputs=depends,
                reason=reason,
            )
        )
    return Records(tuple(records), frozenset(whole), frozenset(impure), decisions)


def _decided(dims: Dims, value: Any, decisions: Decisions) -> Dims:
    """Return the dims, with those axes computed whose lengths the inputs decide.

    The values of a sample may decide which branch is taken or when a loop ends, or the size of its
    batch. So a call has to take one sample.
    """
    if dims is None or not isinstance(value, InnerTensor):
        return dims
    computed = {at for at, loop in enumerate(value.loops) if decisions.end(loop)}
    if any(decisions.depends(one) for one in value.deciding):
        computed |= value.varying  # otherwise the same for all samples, which a measurement shows
    return tuple(
        Dim.computed_from().named(value.axes[at]) if at in computed else dim
        for at, dim in enumerate(dims)
    )


def _leading(found: Found, dims: Dims) -> Names | None:
    """Return the names of steps and branches, if only inference has shown the tensor's rank."""
    if dims is None or not isinstance(found.value, InnerTensor):
        return None
    axes = found.value.axes
    return (*axes, *(None,) * (len(dims) - len(axes)))


_MOVING = frozenset({"Transpose"})
_REDUCING = frozenset({"Mean", "Sum", "Max", "Min", "Prod"})


def _named(graph: AnyGraph, found: Sequence[Found]) -> dict[str, Names]:
    """Return the axes' names of each tensor, inferred from records and operations, by its name."""
    known: dict[str, Names] = {}
    for one in found:
        names = tuple(dim.name for dim in one.record.spec.dims or ())
        if any(names):
            # The same tensor may be listed as the result of an operation and of a layer.
            own = known.get(one.value.name, names)
            known[one.value.name] = tuple(a or b for a, b in zip(own, names, strict=True))
    like = {one.value.name: one.like for one in found if one.like is not None}
    return propagated(_operations(graph, like), known)


def _operations(graph: AnyGraph, like: Mapping[str, str]) -> Iterator[Operation[str]]:
    """Yield what the operations do to names of axes, and pairs of tensors with the same axes."""
    for native in graph.get_operations():
        if (operation := _operation(native)) is not None:
            yield operation
        for tensor in native.outputs if like else ():
            if (other := like.get(tensor.name)) is not None:
                rank = _rank(tensor)
                yield Operation("Identity", [(other, rank)], (tensor.name, rank))


def _operation(operation: Any) -> Operation[str] | None:
    """Return what an operation does to the names of axes; None if it keeps none."""
    kind = operation.type
    moves = kind in _MOVING or kind in _REDUCING
    if not operation.outputs or not (moves or kind in NAMING):
        return None
    taken = _taken(operation) if moves else None
    if moves and taken is None:
        return None
    operands = [(tensor.name, _rank(tensor)) for tensor in operation.inputs]
    result = (operation.outputs[0].name, _rank(operation.outputs[0]))
    data_format = None
    if kind in SPATIAL:
        data_format = operation.node_def.attr["data_format"].s.decode() or None
    return Operation(kind, operands, result, data_format, taken)


def _rank(tensor: AnyTensor) -> int | None:
    shape = static_shape(tensor)
    return None if shape is None else len(shape)


def _taken(operation: Any) -> Sequence[int] | None:
    """Return, for each axis of a transposition's or reduction's result, the axis of the operand."""
    rank, axes = _rank(operation.inputs[0]), operation.inputs[1]
    if rank is None or axes.op.type != "Const":
        return None
    numbers = [int(axis) % rank for axis in np.atleast_1d(static_value(axes))] if rank else []
    if operation.type in _MOVING:
        return numbers
    if operation.node_def.attr["keep_dims"].b:
        return range(rank)
    return [axis for axis in range(rank) if axis not in numbers]


def free_axes_are_independent(
    source: SourceGraph, outputs: Sequence[str], separate: Signature, tied: Signature
) -> bool:
    """Return whether each free axis can have its own length. Nothing is executed.

    Args:
        outputs: Names of the tensors to infer.
        separate, tied: The signature with separate free axes per input, and with shared ones.
    """
    # If shared lengths work, the long search for separate ones is not needed.
    for candidates in (candidate_sizes, stepped_sizes):
        for signature in (separate, tied):
            if _trials(source, outputs, signature, candidates) is not None:
                return signature is separate
    return False


def takes(
    source: SourceGraph, wanted: Sequence[str], signature: Signature, at: Mapping[str, int]
) -> bool:
    """Return False if a graph cannot have inputs of these sizes, by its static shapes.

    Args:
        wanted: Names of the tensors to compute.
        at: The size of each free axis.
    """
    shapes = StaticShapes(source, given_names(signature.specs), wanted)
    try:
        shapes.at(_specs_at(signature.specs, at))
    except ValueError:
        return False
    return True


def unextractable_reason(dims: Dims, depends: bool) -> str | None:
    """Return why a tensor with these dims cannot be extracted, or None if it can."""
    unknown = dims is None or any(dim.unknown for dim in dims)
    if depends:
        return None if unknown or dims is None else no_sample_axis_reason(dims)
    return "its shape is not known before it is computed" if unknown else None


def of_one_sample(dims: Dims) -> tuple[Dims, bool]:
    """Return a tensor's dims with an axis of samples, for a model that takes one sample per call.

    Also returns whether the value lacks this axis, so that it has to be added.
    """
    if dims is None:
        return None, True
    if dims and dims[0].size == 1 and dims[0].name not in (STEP, TAKEN):
        return (SAMPLES, *dims[1:]), False
    return (SAMPLES, *dims), True


def _inferred(
    source: SourceGraph, tensors: Sequence[AnyTensor], signature: Signature
) -> list[Dims]:
    """Return the dims of every tensor, from the graph's shapes at several sizes.

    Those in branches are inferred apart, since a branch may not take the sizes at which it does not
    run.
    """
    inner = [getattr(one, "deciding", ()) for one in tensors]
    if not any(inner):
        return _inferred_together(source, tensors, signature)
    groups: dict[object, list[int]] = {}
    for at, deciding in enumerate(inner):
        groups.setdefault(around(tensors[at].name) if deciding else None, []).append(at)
    found: dict[int, Dims] = {}
    for group in groups.values():
        dims = _inferred_together(source, [tensors[at] for at in group], signature)
        found |= dict(zip(group, dims, strict=True))
    return [found[at] for at in range(len(tensors))]


def _inferred_together(
    source: SourceGraph, tensors: Sequence[AnyTensor], signature: Signature
) -> list[Dims]:
    names = [tensor.name for tensor in tensors]
    trials = _trials(source, names, signature, candidate_sizes)
    trials = trials or _trials(source, names, signature, stepped_sizes)
    if trials is None:
        return [of_sizes(static_shape(tensor)) for tensor in tensors]
    sizes, shapes_of = trials
    dims: dict[tuple[RawShape, ...], Dims] = {}
    found = []
    # Most tensors of a large graph share a few shapes.
    for shapes in zip(*shapes_of, strict=True):
        if shapes not in dims:
            dims[shapes] = infer_dims(sizes, shapes)
        found.append(dims[shapes])
    return found


def _trials(
    source: SourceGraph,
    names: Sequence[str],
    signature: Signature,
    candidates: Callable[..., Iterable[Sizes]],
) -> tuple[Sizes, list[list[RawShape]]] | None:
    """Return the tensors' shapes at the first sizes that the model accepts, or None."""
    shapes = StaticShapes(source, given_names(signature.specs), names)
    for sizes in candidates(signature.free_axes, SAMPLE, vary=signature.batch is None):
        try:
            return sizes, [shapes.at(_specs_at(signature.specs, at)) for at in sizes.trials]
        except ValueError:  # sizes too small or too large for the model, or that have to agree
            continue
    return None


def _specs_at(specs: Sequence[InputSpec], sizes: Mapping[str, int]) -> dict[str, tf.TensorSpec]:
    """Return specs of the model's own inputs at these sizes, with their sample axes."""
    specs_at: dict[str, tf.TensorSpec] = {}
    for spec in specs:
        if spec.parts:
            specs_at |= part_specs(spec, sizes.get(SAMPLE, 1))
            continue
        shape = [
            size if dim is None else sizes[dim]
            for dim, size in zip(spec.dims, spec.shape, strict=True)
        ]
        if spec.sample_axis is not None:
            shape.insert(spec.sample_axis, sizes.get(SAMPLE, 1))
        specs_at[spec.name] = tf.TensorSpec(shape, spec.dtype)
    return specs_at
