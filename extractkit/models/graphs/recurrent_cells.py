"""Recurrent cells in the loops of graphs, recognized by their equations.

A graph has no names for gates, and libraries order them differently. So cells are found by what
they compute. Here c and h are variables of a loop, c' and h' their next values:

- LSTM: c' = f · c + i · g, and h' is o times a function of c' alone. The gates i, f and o have one
  activation. If g has the same, i comes before g in the split that both are from.
- GRU: h' = z · h + (1 - z) · n. The candidate n contains a product of r, which has the activation
  of z, with something that depends on h.

All gates depend on h. Keras computes its fused layers so on CPUs, as other libraries do. On GPUs,
one operation computes all steps, and gives no gates.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from extractkit.models.graphs import AnyGraph, AnyOperation, AnyTensor

_LSTM = ("hidden", "cell", "gate.i", "gate.f", "gate.c", "gate.o")
_GRU = ("hidden", "gate.z", "gate.r", "gate.h")
_SIMPLE = ("hidden",)

_SUMS = ("AddV2", "Add")
_SAME = ("Identity", "StopGradient", "EnsureShape")
_SPLITS = {"Split": 1, "SplitV": 0, "Unpack": 0}
"""Operations that divide a tensor, and the position of the tensor among their inputs."""

# A loop may carry the states of several layers as one tensor.
_PART_OF = {**dict.fromkeys((*_SAME, "Slice", "StridedSlice", "Reshape", "Squeeze"), 0), **_SPLITS}
_MADE_OF = (*_SAME, "ConcatV2", "Pack", "Reshape", "ExpandDims")
# With a mask, the state of the step before is kept.
_CHOICES = ("Select", "SelectV2")


@dataclass(frozen=True, eq=False)
class RecurrentCell:
    """A recurrent cell in a loop.

    Attributes:
        tensors: Its states and gates by port: `hidden`, `gate.i`.
    """

    tensors: Mapping[str, AnyTensor]

    @property
    def scope(self) -> str:
        """The scope that the names of their operations have in common. It may be empty."""
        parts = [tensor.op.name.split("/")[:-1] for tensor in self.tensors.values()]
        alike = 0
        while all(len(one) > alike and one[alike] == parts[0][alike] for one in parts):
            alike += 1
        return "/".join(parts[0][:alike])


def cells_of_body(body: Any) -> list[RecurrentCell]:
    """Return the cells in the graph of a loop's body, in the order of their operations."""
    return _Loop(body.get_operations(), list(zip(body.inputs, body.outputs, strict=False))).cells()


def cells_of_frames(graph: AnyGraph) -> list[RecurrentCell]:
    """Return the cells in the loops of TensorFlow 1, in the order of their operations."""
    operations = graph.get_operations()
    variables = [
        (switch.outputs[1], operation.inputs[0])
        for operation in operations
        if operation.type == "NextIteration"
        for merge in operation.outputs[0].consumers()
        for switch in merge.outputs[0].consumers()
        if switch.type == "Switch" and switch.inputs[1].op.type == "LoopCond"
    ]
    return _Loop(operations, variables).cells() if variables else []


def fused_states(operation: AnyOperation) -> dict[str, str]:
    """Return why the states and gates of a fused operation cannot be extracted, by port.

    There are none for other operations.
    """
    if operation.type not in ("CudnnRNN", "CudnnRNNV2", "CudnnRNNV3"):
        return {}
    mode = operation.node_def.attr["rnn_mode"].s.decode()
    reason = (
        f"computed inside {operation.type}, an operation for GPUs that computes all steps at once "
        f"and returns neither gates nor the states of its cells. Its hidden states are its result "
        f"{operation.name}:0"
    )
    return dict.fromkeys({"gru": _GRU, "lstm": _LSTM}.get(mode or "lstm", _SIMPLE), reason)


_Tensors = dict[str, AnyTensor]
_Pair = tuple[AnyTensor, AnyTensor]


class _Loop:
    """The operations of a loop.

    Args:
        operations: The operations.
        variables: Each variable of the loop: the tensor with its value, and with its next value.
    """

    def __init__(self, operations: Sequence[AnyOperation], variables: Sequence[_Pair]) -> None:
        self._operations = operations
        self._variables = {value.name: value for value, _ in variables}
        self._next: dict[str, set[str]] = {}
        for value, following in variables:
            for name in _made_of(following):
                self._next.setdefault(name, set()).add(value.name)
        self._behind: dict[str, dict[str, AnyOperation]] = {}

    def cells(self) -> list[RecurrentCell]:
        """Return the cells in it."""
        found = []
        for operation in self._operations:
            if operation.type in _SUMS and operation.outputs[0].name in self._next:
                products = [_same(tensor) for tensor in operation.inputs]
                if all(product.op.type == "Mul" for product in products):
                    cell = next(self._matches(operation.outputs[0], products), None)
                    found += [RecurrentCell(cell)] if cell else []
        return found

    def _matches(self, new: AnyTensor, products: Sequence[AnyTensor]) -> Iterator[_Tensors]:
        """Yield the states and gates of cells that have a sum of two products as a new state."""
        for kept, added in _orders(products):
            for gate, old in _orders(kept.op.inputs):
                if self._variable(old) in self._next[new.name]:
                    yield from self._gru(new, old, gate, added.op.inputs)
                    yield from self._lstm(new, gate, added.op.inputs)

    def _gru(
        self, new: AnyTensor, old: AnyTensor, update: AnyTensor, added: Sequence[AnyTensor]
    ) -> Iterator[_Tensors]:
        for rest, candidate in _orders(added):
            if _is_complement(rest, update) and self._depend([update, candidate], old):
                resets = {
                    _same(gate).name: gate
                    for operation in self._before(candidate).values()
                    if operation.type == "Mul"
                    for gate, scaled in _orders(operation.inputs)
                    if _activation(gate) == _activation(update)
                    and _same(gate).name != _same(update).name
                    and self._depend([gate, scaled], old)
                }
                if len(resets) == 1:
                    tensors = (new, update, *resets.values(), candidate)
                    yield dict(zip(_GRU, tensors, strict=True))

    def _lstm(
        self, new: AnyTensor, forget: AnyTensor, added: Sequence[AnyTensor]
    ) -> Iterator[_Tensors]:
        for operation in self._operations:
            if operation.type != "Mul" or operation.outputs[0].name not in self._next:
                continue
            hidden = operation.outputs[0]
            for output, activated in _orders(operation.inputs):
                if _activation(output) != _activation(forget) or not _is_of(activated, new):
                    continue
                for enter, candidate in _input_and_candidate(added, forget):
                    gates = (enter, forget, candidate, output)
                    for name in self._next[hidden.name]:
                        if self._depend(gates, self._variables[name]):
                            yield dict(zip(_LSTM, (hidden, new, *gates), strict=True))

    def _variable(self, tensor: AnyTensor) -> str:
        """Return the name of the variable that a tensor is or is a part of, or ""."""
        while tensor.name not in self._variables:
            if tensor.op.type not in _PART_OF or not tensor.op.inputs:
                return ""
            tensor = tensor.op.inputs[_PART_OF[tensor.op.type]]
        return tensor.name

    def _depend(self, tensors: Iterable[AnyTensor], on: AnyTensor) -> bool:
        """Return whether all tensors depend on a state of the step before."""
        name = _same(on).name
        return all(
            _same(tensor).name == name
            or any(
                _same(one).name == name
                for operation in self._before(tensor).values()
                for one in operation.inputs
            )
            for tensor in tensors
        )

    def _before(self, tensor: AnyTensor) -> dict[str, AnyOperation]:
        """Return the operations of this step that a tensor depends on, by name."""
        if tensor.name not in self._behind:
            found: dict[str, AnyOperation] = {}
            waiting = [tensor]
            while waiting:
                one = waiting.pop()
                inside = one.name not in self._variables and one.op.type != "Enter"
                if inside and one.op.name not in found:
                    found[one.op.name] = one.op
                    waiting.extend(one.op.inputs)
            self._behind[tensor.name] = found
        return self._behind[tensor.name]


def _orders(tensors: Iterable[AnyTensor]) -> Iterator[_Pair]:
    one, other = tensors
    yield one, other
    yield other, one


def _same(tensor: AnyTensor) -> AnyTensor:
    while tensor.op.type in _SAME:
        tensor = tensor.op.inputs[0]
    return tensor


def _made_of(tensor: AnyTensor) -> Iterator[str]:
    """Yield the names of a variable's next value, and of the tensors that it is composed of."""
    yield tensor.name
    if tensor.op.type in _MADE_OF:
        parts = tensor.op.inputs
    else:
        parts = tensor.op.inputs[1:3] if tensor.op.type in _CHOICES else ()
    for part in parts:
        yield from _made_of(part)


def _activation(tensor: AnyTensor) -> str:
    """Return the type of the operation that computes a gate, in front of splits."""
    while tensor.op.type in _SAME or tensor.op.type in _SPLITS:
        tensor = tensor.op.inputs[_SPLITS.get(tensor.op.type, 0)]
    return str(tensor.op.type)


def _is_complement(tensor: AnyTensor, of: AnyTensor) -> bool:
    """Return whether a tensor is 1 - `of`."""
    operation = _same(tensor).op
    if operation.type != "Sub" or _same(operation.inputs[1]).name != _same(of).name:
        return False
    one = _same(operation.inputs[0])
    return one.op.type == "Const" and one.shape.num_elements() == 1 and bool(_value(one) == 1)


def _value(constant: AnyTensor) -> Any:
    return tf.make_ndarray(constant.op.node_def.attr["value"].tensor).reshape(-1)[0]


def _is_of(tensor: AnyTensor, argument: AnyTensor) -> bool:
    """Return whether a tensor is computed from one other tensor, and constants, alone."""
    waiting, seen, found = [_same(tensor)], set(), False
    while waiting:
        one = waiting.pop()
        if one.name == argument.name:
            found = True
        elif one.name not in seen and one.op.type != "Const":
            seen.add(one.name)
            if not one.op.inputs:
                return False
            waiting.extend(one.op.inputs)
    return found


def _input_and_candidate(tensors: Sequence[AnyTensor], gate: AnyTensor) -> Iterator[_Pair]:
    """Yield the factors of a product as input gate and candidate: i has the activation of a gate.

    If both have it, their order in a split decides.
    """
    alike = [one for one in tensors if _activation(one) == _activation(gate)]
    if len(alike) == 1:
        yield alike[0], next(one for one in tensors if one is not alike[0])
    elif alike:
        first, second = map(_place_in_split, alike)
        if first and second and first[0] == second[0]:
            yield (alike[0], alike[1]) if first < second else (alike[1], alike[0])


def _place_in_split(tensor: AnyTensor) -> tuple[str, int] | None:
    """Return the split that a gate is computed from, and its position there."""
    while tensor.op.type not in _SPLITS:
        varying = [one for one in tensor.op.inputs if _same(one).op.type != "Const"]
        if len(varying) != 1:
            return None
        tensor = varying[0]
    return tensor.op.name, tensor.value_index
