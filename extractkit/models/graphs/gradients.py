"""Gradients of targets in a TensorFlow graph, which are added to it or to a copy of it.

TensorFlow differentiates a graph by functions that are registered for the types of operations. Some
operations have none. A custom gradient (`tf.custom_gradient`) is a Python function: it exists in
the process and for the graph in which it was traced, and not in a copy of the graph or a file. In a
graph without it, the operation seems to pass its input on or, worse, names the custom gradient of
another model in this process. Both are refused. A SavedModel may hold its custom gradients as
functions of TensorFlow (`saved_gradients`).

Whether there is a gradient is tried in a copy of the graph: functions that are registered for an
operation may give none for one of its inputs, or fail.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

import tensorflow as tf

from extractkit.core.attribution import Method
from extractkit.core.catalog import Layout
from extractkit.core.picks import LABEL_FEATURE
from extractkit.core.requests import Gradient, Rollout, Value
from extractkit.core.targets import BoundTarget
from extractkit.core.transforms import Masked
from extractkit.errors import SelectionError
from extractkit.inputs import InputSpec, Signature
from extractkit.models import Fetch
from extractkit.models.failures import error_summary
from extractkit.models.graphs import AnyGraph, AnyTensor
from extractkit.models.graphs.attribution import (
    Derivative,
    Results,
    Surroundings,
    attributed,
    dense,
    obstacle,
    rollout,
)
from extractkit.models.graphs.definitions import called
from extractkit.models.graphs.loops import is_inner, outermost, return_inner
from extractkit.models.graphs.noise import input_words
from extractkit.models.graphs.rebuilding import SourceGraph, imported, needed_part
from extractkit.models.graphs.recomputation import GRADIENT_TYPE
from extractkit.models.graphs.saved_gradients import SavedGradients
from extractkit.models.graphs.targets import Given, Labels, numbers
from extractkit.models.tensorflow_internals import capturing_graph, has_gradient

INDEPENDENT = "the target does not depend on it through operations with a gradient"
"""Why a tensor on which the target does not depend has no gradient."""

_CUSTOM_REASON = "has a custom gradient, which is Python code that graphs do not contain"
_INSIDE_REASON = "has a custom gradient, which does not apply in loops and branches"
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_FRAME = re.compile(r"^(Ref)?(Enter|Exit|NextIteration|Switch|Merge)$|^LoopCond$")
_HANDLES = (tf.resource, tf.variant)

SAMPLES = "extractkit.samples"
"""Name of an input of graphs with gradients: the number of samples, int32."""

_LENGTHS = "extractkit.lengths"


def lengths_input(axis: str) -> str:
    """Return the name of an input: the lengths of the samples along an axis, int32 (samples,)."""
    return f"{_LENGTHS}.{axis}"


@dataclass(frozen=True, eq=False)
class Differentiability:
    """What TensorFlow can differentiate in a graph.

    Attributes:
        graph: the graph.
        inputs: names of the inputs (`op:0`), which may be inside the graph: nothing before them
            counts.
        custom: whether its custom gradients exist, because it was traced in this process.
        in_place: whether gradients are added to this graph, which a session runs, not to a copy.
        saved: the custom gradients of a SavedModel.
    """

    graph: AnyGraph
    inputs: frozenset[str]
    custom: bool
    in_place: bool = False
    saved: SavedGradients | None = None

    @cached_property
    def is_bound(self) -> bool:
        """Whether the graph has custom gradients or calls, which it does not share with copies."""
        graph_def = self.graph.as_graph_def()
        within = (node for function in graph_def.library.function for node in function.node_def)
        return any(one.op in _CALLS or _custom(one) for one in chain(graph_def.node, within))

    def reasons(self, target: str, tensors: Mapping[str, str]) -> dict[str, str]:
        """Return why tensors have no gradient, by the same keys. Others have one.

        Args:
            target: name of the tensor to differentiate (`op:0`).
            tensors: names of tensors, or of handles of variables, by any keys.
        """
        before: dict[str, AnyTensor] = {}
        obstacles: dict[str, str] = {}
        for tensor in _upstream([self.graph.get_tensor_by_name(target)], self.inputs):
            before[tensor.name] = tensor
            operation = tensor.op
            if tensor.name in self.inputs:
                continue
            if operation.name not in obstacles and (why := self._obstacle(operation)) is not None:
                obstacles[operation.name] = why
        behind: dict[str, str] = {}
        for operation_name, why in obstacles.items():
            operation = self.graph.get_operation_by_name(operation_name)
            for tensor in _upstream(_differentiable_inputs(operation), self.inputs, behind):
                behind.setdefault(tensor.name, why)
        found = {}
        for key, name in tensors.items():
            if name in behind:
                found[key] = behind[name]
            elif name not in before:
                found[key] = INDEPENDENT
        return found

    def _obstacle(self, operation: Any) -> str | None:
        """Return why an operation with a differentiable input has no gradient, or None."""
        if not _differentiable_inputs(operation):
            return None
        kind, name = operation.type, operation.name
        if _custom(operation.node_def) and (why := self._lost(operation)) is not None:
            return f"operation {name!r} ({kind}) {why}"
        if self.in_place and any(one.name in self.inputs for one in operation.outputs):
            # TensorFlow stops at whole operations.
            return f"another result of operation {name!r} ({kind}) is an input (model.input_axes)"
        if _FRAME.search(kind):
            return f"operation {name!r} ({kind}) is part of a loop or branch of TensorFlow 1"
        if functions := called(operation.node_def):
            if self.in_place or (kind in _CALLS and not self.custom):
                return f"operation {name!r} ({kind}) calls a function"
            inner = self._custom_within(functions)
            if inner is not None:
                return (
                    f"operation {inner!r}, in a function that {name!r} ({kind}) calls, "
                    f"{_CUSTOM_REASON if self.saved is None else _INSIDE_REASON}"
                )
            return None
        if _custom(operation.node_def):
            return None
        if has_gradient(kind) is False:
            return f"TensorFlow has no gradient of operation {name!r} ({kind})"
        return None

    def _lost(self, operation: Any) -> str | None:
        """Return why an operation has lost its custom gradient, as a clause, or None."""
        if self.saved is not None:
            return self.saved.reason(operation)
        return None if self.custom else _CUSTOM_REASON

    def _custom_within(self, functions: Sequence[str]) -> str | None:
        """Return the name of an operation with a custom gradient in functions, or None."""
        waiting, seen = list(functions), set()
        while waiting:
            name = waiting.pop()
            if name in seen or name not in self._functions:
                continue
            seen.add(name)
            for node in self._functions[name].node_def:
                if _custom(node):
                    return str(node.name)
                waiting += called(node)
        return None

    @cached_property
    def _functions(self) -> dict[str, Any]:
        library = self.graph.as_graph_def().library
        return {one.signature.name: one for one in library.function}


def _upstream(
    tensors: Iterable[AnyTensor], inputs: Collection[str], known: Collection[str] = ()
) -> Iterator[AnyTensor]:
    """Yield the tensors, and those that they are computed from by differentiable operations.

    Args:
        inputs: names of tensors to end at.
        known: names of tensors to omit, with what is before them.
    """
    waiting = list(tensors)
    seen = set(known)
    while waiting:
        tensor = waiting.pop()
        if tensor.name in seen:
            continue
        seen.add(tensor.name)
        yield tensor
        if tensor.name not in inputs:
            waiting += _differentiable_inputs(tensor.op)


def _custom(node: Any) -> bool:
    return GRADIENT_TYPE in node.attr and node.op not in _CALLS


def _differentiable_inputs(operation: Any) -> list[AnyTensor]:
    """Return the inputs with respect to which TensorFlow differentiates an operation."""
    if not operation.inputs:
        return []
    custom = _custom(operation.node_def) or called(operation.node_def)
    if not custom and has_gradient(operation.type) is None:
        return []
    return [one for one in operation.inputs if _is_differentiable(one.dtype.base_dtype)]


def _is_differentiable(dtype: tf.DType) -> bool:
    return bool(dtype.is_floating or dtype.is_complex or dtype in _HANDLES)


@dataclass(frozen=True, eq=False)
class GradientGraph:
    """A graph to add gradients to, and to rebuild tensors from as from any `SourceGraph`.

    Attributes:
        graph: the graph.
        inputs: the placeholder for each input of the model, and those of `counts`.
        tensor_of: returns the tensor, or the handle of the variable, at an address.
    """

    graph: Any
    inputs: Mapping[str, tf.Tensor]
    tensor_of: Callable[[str], tf.Tensor]

    def with_labels(self, labels: Labels) -> "GradientGraph":
        """Return the graph with a further input, `LABEL_FEATURE`."""
        with self.graph.as_default():
            return replace(self, inputs={**self.inputs, LABEL_FEATURE: labels.placeholder()})

    def answering(
        self, fetches: Sequence[Fetch], arranged: "Arrange", signature: Signature
    ) -> list[str]:
        """Add the gradients among the fetches, and return the name of the tensor of every fetch.

        Args:
            arranged: see `answers`.
            signature: the inputs of the model.
        """
        lengths = {axis: self.inputs[lengths_input(axis)] for axis in signature.free_axes}
        given = Given(self.inputs[SAMPLES], lengths, self.inputs.get(LABEL_FEATURE))
        with self.graph.as_default():
            found = answers(
                *(fetches, self.tensor_of, self.tensor_of, self.inputs),
                *(signature.specs, arranged, given),
            )
        return [tensor.name for tensor in found]

    def without_gradient(
        self, target: str, addresses: Sequence[str], method: Method | None = None
    ) -> dict[str, str]:
        """Return why the tensors at addresses have no gradient of a target, by trying.

        Args:
            target: the address of the target.
            method: what is to be made of the gradients.
        """
        by = {address: self.tensor_of(address) for address in addresses}
        inputs = {tensor.name: tensor for tensor in self.inputs.values()}
        found: dict[str, str] = {}
        waiting = [list(addresses)]
        while waiting:
            part = [address for address in waiting.pop() if address not in found]
            if not part:
                continue
            try:
                with self.graph.as_default():
                    gradients = tf.gradients(
                        self.tensor_of(target),
                        [by[address] for address in part],
                        stop_gradients=list(inputs.values()),
                    )
            except Exception as error:  # noqa: BLE001 - functions of gradients may raise anything
                if len(part) > 1:
                    # The later half is tried first: others are before it.
                    half = len(part) // 2
                    waiting += [part[:half], part[half:]]
                    continue
                # What is before a tensor reaches the target by the same operations.
                before = {tensor.name for tensor in _upstream([by[part[0]]], inputs)}
                reason = f"TensorFlow cannot differentiate the target by it: {error_summary(error)}"
                found |= {one: reason for one in addresses if by[one].name in before}
            else:
                pairs = zip(part, gradients, strict=True)
                found |= {address: INDEPENDENT for address, one in pairs if one is None}
                if method is not None:
                    found |= self._obstacles(method, target, zip(part, gradients, strict=True))
        return found

    def _obstacles(
        self, method: Method, target: str, gradients: Iterable[tuple[str, Any]]
    ) -> dict[str, str]:
        """Return why a method is not defined for tensors with gradients, by address."""
        found = {}
        with self.graph.as_default():
            for address, gradient in gradients:
                if gradient is None:
                    continue
                tensor, number = self.tensor_of(address), self.tensor_of(target)
                why = obstacle(method, tensor, dense(gradient), number, self.inputs)
                if why is not None:
                    found[address] = why
        return found


Arrange = Callable[[tf.Tensor, Fetch, tf.Tensor, Mapping[str, tf.Tensor]], tf.Tensor]
"""Returns a tensor in the layout of a fetch, from the number of samples and their lengths."""


def answers(
    fetches: Sequence[Fetch],
    tensor_of: Callable[[str], tf.Tensor],
    source_of: Callable[[str], tf.Tensor],
    inputs: Mapping[str, tf.Tensor],
    specs: tuple[InputSpec, ...],
    arranged: Arrange,
    given: Given,
) -> list[tf.Tensor]:
    """Return the tensor that answers each request, in the model's layout, in the current graph.

    Args:
        tensor_of: returns the tensor at an address, which is not that of a variable.
        source_of: returns what to differentiate with respect to: the tensor at an address, or the
            handle of the variable.
        inputs: tensors to differentiate up to, the inputs of the model by name among them.
        specs: the inputs of the model.
        arranged: returns a tensor in the layout of a fetch; see `GraphModel`.
        given: what the graph is given beside the inputs.

    Raises:
        SelectionError: TensorFlow cannot differentiate something.
    """
    found: dict[int, tf.Tensor] = {}
    targets: dict[str, list[int]] = {}

    def in_stored_order(tensor: tf.Tensor, address: str, layout: Layout) -> Masked:
        fetch = Fetch(Value(address), layout)
        whole = arranged(tensor, fetch, given.samples, given.lengths)
        return Masked(whole, layout.of_free_axes(given.lengths))

    around = Surroundings(
        *(inputs, in_stored_order),
        lambda: input_words(specs, inputs, given.samples, given.lengths),
    )
    for at, fetch in enumerate(fetches):
        if isinstance(fetch.request, Gradient):
            targets.setdefault(repr(fetch.request.of.written), []).append(at)
        elif isinstance(fetch.request, Rollout):
            found[at] = rollout(fetch.request, tensor_of, in_stored_order)
        else:
            found[at] = tensor_of(fetch.address)
    for positions in targets.values():
        first = fetches[positions[0]].request
        assert isinstance(first, Gradient)
        of = first.of
        assert of.layout is not None, "the axes of a target are measured first"
        target = numbers(of, in_stored_order(tensor_of(of.tensor), of.tensor, of.layout), given)
        requests = [fetches[at].request for at in positions]
        needed = (one for each in requests if isinstance(each, Gradient) for one in each.by)
        by = {address: source_of(address) for address in needed}
        gradients = _differentiated(of, target.values, by, list(inputs.values()))
        results: dict[str, Results] = {}
        for at in positions:
            fetch = fetches[at]
            assert isinstance(fetch.request, Gradient)
            gradient, method = gradients[fetch.address], fetch.request.method
            if method is None:
                found[at] = gradient
                continue
            known = repr((fetch.address, method.written))
            if known not in results:
                of_tensor = (fetch.address, tensor_of(fetch.address), fetch.layout)
                maps = {
                    one.address: (tensor_of(one.address), gradients[one.address])
                    for one in method.maps
                }
                derivative = Derivative(gradient, *of_tensor, target, maps)
                results[known] = attributed(method, derivative, around)
            found[at] = results[known][fetch.result]()
    return [found[at] for at in range(len(fetches))]


def _differentiated(
    of: BoundTarget,
    number: tf.Tensor,
    by: Mapping[str, tf.Tensor],
    inputs: Sequence[tf.Tensor],
) -> dict[str, tf.Tensor]:
    """Return the gradients of the sum of a number over samples, by address of the tensor."""
    try:
        gradients = tf.gradients(number, list(by.values()), stop_gradients=list(inputs))
    except Exception as error:  # functions of gradients may raise anything
        raise SelectionError(
            f"{of.at}: TensorFlow cannot differentiate {of.tensor!r}: {error_summary(error)}. "
            f"Select other tensors"
        ) from error
    found = {}
    for address, gradient in zip(by, gradients, strict=True):
        if gradient is None:
            raise SelectionError(
                f"{of.at}: {of.tensor!r} does not depend on {address!r} through operations "
                f"with a gradient. Select other tensors"
            )
        found[address] = dense(gradient)
    return found


def copied(
    source: SourceGraph,
    names: Mapping[str, str],
    axes: Sequence[str],
    saved: SavedGradients | None = None,
) -> GradientGraph:
    """Copy the part of a graph that some tensors need to a new graph.

    Args:
        source: the graph.
        names: names of the tensors (`op:0`), or of handles of variables, by address.
        axes: the free axes of the inputs.
        saved: custom gradients of the graph.
    """
    wanted_there = [*map(outermost, names.values())]
    if saved is None:
        part = needed_part(source, source.inputs, wanted_there)
    else:
        part = saved.part(wanted_there)
    inner = return_inner(part.graph_def, filter(is_inner, names.values()))
    graph = capturing_graph("gradients")
    with graph.as_default():
        given = {
            name: tf.compat.v1.placeholder(tensor.dtype.base_dtype, tensor.shape)
            for name, tensor in source.inputs.items()
        }
        replaced = part.replaced(given)
        wanted = [name for name in dict.fromkeys(names.values()) if name not in replaced]
        mapped = part.input_map(replaced)
        found = {**replaced, **imported(part.graph_def, mapped, wanted, inner, "copy")}
        tensors = {address: found[name] for address, name in names.items()}
        return GradientGraph(graph, {**given, **counts(axes)}, tensors.__getitem__)


def counts(axes: Sequence[str]) -> dict[str, tf.Tensor]:
    """Return new placeholders in the current graph: `SAMPLES`, and the lengths along axes."""
    lengths = {lengths_input(axis): tf.compat.v1.placeholder(tf.int32, [None]) for axis in axes}
    return {SAMPLES: tf.compat.v1.placeholder(tf.int32, []), **lengths}
