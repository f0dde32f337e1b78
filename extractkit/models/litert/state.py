"""The state that a TFLite file keeps from call to call, and the way to read and assign it.

It is in variable tensors, such as those of recurrent operations, and in resource variables. An
interpreter reads and writes variable tensors like any others. Only operations can access resource
variables, so two subgraphs are added to such a file: one that reads all of them, and one that
assigns them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from extractkit.core.values import Array, State
from extractkit.errors import ConfigError, ModelError
from extractkit.models import CARRY, KEY, RESET
from extractkit.models.litert.entry import DTYPES, Flow
from extractkit.models.litert.graph import (
    ASSIGN,
    CALL_ONCE,
    READ,
    VARIABLE_HANDLE,
    Graph,
    GraphTensor,
    Operation,
    Runnable,
    Subgraph,
    called_subgraphs,
    keep_buffers,
)
from extractkit.models.litert.interpreter import Interpreter, Settings
from extractkit.models.recognition.content import TFLITE

_VARIABLE = tuple[str, str]  # its container and name


@dataclass(frozen=True)
class KeptState:
    """The state of the called subgraph.

    Attributes:
        tensors: Variable tensors of the called subgraph.
        inner: Variable tensors in the bodies of its loops and branches.
        variables: Resource variables that a call may assign.
        initial: The tensors with the initial values of these variables, by variable.
        once: Numbers of the subgraphs that assign these values.
    """

    tensors: tuple[GraphTensor, ...]
    inner: tuple[GraphTensor, ...]
    variables: tuple[_VARIABLE, ...]
    initial: dict[_VARIABLE, GraphTensor]
    once: tuple[int, ...]

    @property
    def names(self) -> list[str]:
        """The names of all parts of the state in the file."""
        tensors = [one.name for one in (*self.tensors, *self.inner)]
        return [*tensors, *(name for _, name in self.variables)]


def kept_state(graph: Graph, subgraph: Subgraph) -> KeptState:
    """Return the state that calls of a subgraph change."""
    at_call = [one for one in subgraph.operations if one.type != CALL_ONCE]
    inner = [graph.subgraphs[number] for number in sorted(called_subgraphs(graph, at_call))]
    run = [subgraph, *inner]
    once = {
        number
        for one in run
        for operation in one.operations
        if operation.type == CALL_ONCE
        for number in operation.calls
    }
    initial = {
        variable: graph.subgraphs[number].tensors[operation.inputs[1]]
        for number in sorted(once)
        for operation, variable in _assignments(graph.subgraphs[number])
        if variable is not None
    }
    return KeptState(
        tensors=_variable_tensors(subgraph),
        inner=tuple(tensor for one in inner for tensor in _variable_tensors(one)),
        variables=tuple(_assigned(run)),
        initial=initial,
        once=tuple(sorted(once)),
    )


def _variable_tensors(subgraph: Subgraph) -> tuple[GraphTensor, ...]:
    used = {index for operation in subgraph.operations for index in operation.inputs}
    return tuple(one for one in subgraph.tensors if one.variable and one.index in used)


def _assigned(subgraphs: Sequence[Subgraph]) -> list[_VARIABLE]:
    """Return the variables that may be assigned, in order."""
    assigned = [variable for one in subgraphs for _, variable in _assignments(one)]
    if None in assigned:  # the body of a loop receives a handle
        assigned = [variable for one in subgraphs for variable in _handles(one).values()]
    return [*dict.fromkeys(variable for variable in assigned if variable is not None)]


def _handles(subgraph: Subgraph) -> dict[int, _VARIABLE]:
    made = [one for one in subgraph.operations if one.type == VARIABLE_HANDLE]
    return {one.outputs[0]: one.variable for one in made if one.variable is not None}


def _assignments(subgraph: Subgraph) -> Iterator[tuple[Operation, _VARIABLE | None]]:
    handles = _handles(subgraph)
    for operation in subgraph.operations:
        if operation.type == ASSIGN:
            yield operation, handles.get(operation.inputs[0])


def unassigned_reads(graph: Graph, subgraph: Subgraph) -> dict[int, str]:
    """Return reasons for the operations that read a variable before any assignment.

    With XNNPACK, LiteRT returns uninitialised memory for them.
    """
    known = {*kept_state(graph, subgraph).initial}
    handles = _handles(subgraph)
    found = {}
    for number, operation in enumerate(subgraph.operations):
        variables = {handles[index] for index in operation.inputs if index in handles}
        if operation.type != READ:
            known |= variables  # assigned, perhaps in the body of a loop
        elif unknown := variables - known:
            name = unknown.pop()[1]
            found[number] = f"it needs variable {name!r}, which has no initial value"
    return found


def check_carried(kept: KeptState, flow: Flow, at: str) -> None:
    """Check that the state of a file can be carried.

    Args:
        at: The name of the file in messages.

    Raises:
        ConfigError: There is no state.
        ModelError: It cannot be carried.
    """
    if not kept.names:
        raise ConfigError(
            f"{KEY}={CARRY}: {at} keeps no state from call to call, so there is nothing to carry. "
            f"Leave {KEY} out"
        )
    if (why := _why_not(kept, flow)) is not None:
        raise ModelError(f"{KEY}={CARRY}: {at}: {why}. Use {KEY}={RESET}")


def _why_not(kept: KeptState, flow: Flow) -> str | None:
    if kept.inner:
        return (
            f"state {kept.inner[0].name!r} is in the body of a loop or branch, which LiteRT resets"
        )
    for variable in kept.variables:
        if variable not in kept.initial:
            return f"variable {variable[1]!r} has no initial value in the file"
    for tensor in (*kept.tensors, *(kept.initial[one] for one in kept.variables)):
        if tensor.type not in DTYPES or tensor.type == "STRING":
            return f"state {tensor.name!r} is {tensor.type}; only numbers can be carried"
    for number, operation in enumerate(flow.subgraph.operations):
        if not flow.touches_state(operation):
            continue
        if number in flow.blocked:
            return f"the state cannot be computed: {flow.lacking[flow.blocked[number]]}"
        if not flow.impure.isdisjoint((*operation.inputs, *operation.outputs)):
            return "random numbers go into the state"
    return None


@dataclass(frozen=True)
class AccessSubgraphs:
    """Two subgraphs that access all resource variables of a state.

    Attributes:
        reading, assigning: The numbers of the subgraphs.
        values: Numbers of the tensors with the values, the same in both, by variable in order.
    """

    reading: int
    assigning: int
    values: tuple[int, ...]


@dataclass(frozen=True)
class Access:
    """Access to a state: variable tensors by number, resource variables by subgraphs."""

    tensors: tuple[int, ...]
    subgraphs: AccessSubgraphs | None


def with_access(content: bytes, kept: KeptState) -> tuple[bytes, AccessSubgraphs]:
    """Add the two subgraphs that access the resource variables of its state to a model.

    Raises:
        RuntimeError: The model takes more than the two gigabytes that a FlatBuffer can hold.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    keep_buffers(model, set(range(len(model.buffers))), content, schema)
    first = len(model.subgraphs)
    made = [_Subgraph(model, schema, kept, assigns) for assigns in (False, True)]
    model.subgraphs += [one.made for one in made]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), TFLITE)
    ways = AccessSubgraphs(first, first + 1, tuple(made[0].values))
    return bytes(builder.Output()), ways


class _Subgraph:
    """A subgraph that reads or assigns all variables, after they have their initial values."""

    def __init__(self, model: Any, schema: Any, kept: KeptState, assigns: bool) -> None:
        self._model, self._schema = model, schema
        self.values: list[int] = []
        self.made = schema.SubGraphT()
        self.made.name = b"assign the state" if assigns else b"read the state"
        self.made.tensors, self.made.operators = [], []
        for number in kept.once:
            options = schema.CallOnceOptionsT()
            options.initSubgraphIndex = number
            self._operation("CALL_ONCE", [], [], "CallOnceOptions", options)
        for container, name in kept.variables:
            options = schema.VarHandleOptionsT()
            options.container, options.sharedName = container, name
            handle = self._tensor(f"{name} handle", "RESOURCE", [])
            self._operation("VAR_HANDLE", [], [handle], "VarHandleOptions", options)
            first = kept.initial[container, name]
            value = self._tensor(name, first.type, [size or 1 for size in first.shape])
            self.values.append(value)
            if assigns:
                self._operation("ASSIGN_VARIABLE", [handle, value], [])
            else:
                self._operation("READ_VARIABLE", [handle], [value])
        self.made.inputs = self.values if assigns else []
        self.made.outputs = [] if assigns else self.values

    def _tensor(self, name: str, type_name: str, shape: list[int]) -> int:
        tensor = self._schema.TensorT()
        tensor.name, tensor.shape = name.encode(), shape
        tensor.type = getattr(self._schema.TensorType, type_name)
        self.made.tensors.append(tensor)
        return len(self.made.tensors) - 1

    def _operation(
        self,
        name: str,
        inputs: list[int],
        outputs: list[int],
        options_type: str = "NONE",
        options: Any = None,
    ) -> None:
        operation = self._schema.OperatorT()
        operation.opcodeIndex = self._code(getattr(self._schema.BuiltinOperator, name))
        operation.inputs, operation.outputs = inputs, outputs
        operation.builtinOptionsType = getattr(self._schema.BuiltinOptions, options_type)
        operation.builtinOptions = options
        self.made.operators.append(operation)

    def _code(self, builtin: int) -> int:
        """Return the number of an operation's type in the model, where it is added if needed."""
        codes = self._model.operatorCodes
        for index, code in enumerate(codes):
            if builtin == code.builtinCode and code.version == 1:
                return index
        code = self._schema.OperatorCodeT()
        code.builtinCode, code.version = builtin, 1
        code.deprecatedBuiltinCode = 127  # means every type from 127 on
        codes.append(code)
        return len(codes) - 1


class CarryingInterpreter(Interpreter):
    """One interpreter of a model with state, for calls that start from a given state.

    Args:
        access: Access to the state in the model.
    """

    def __init__(
        self, runnable: Runnable, settings: Settings, preserve: bool, access: Access
    ) -> None:
        super().__init__(runnable, settings, preserve)
        self._access = access

    def initial(self, arrays: Mapping[int, Array]) -> State:
        """Return the state of a new interpreter. Call this before any other method.

        Args:
            arrays: Inputs of any values, whose shapes determine the memory.

        Raises:
            ValueError, RuntimeError, MemoryError: LiteRT fails, with its own message.
        """
        self.allocate(arrays)
        self._wrapper.ResetVariableTensors()
        return self._state()

    def call_from(self, arrays: Mapping[int, Array], state: State) -> State:
        """Run the subgraph from a state, and return the state after it.

        Raises:
            ValueError, RuntimeError, MemoryError: LiteRT fails, with its own message.
        """
        # First, because allocating memory for other sizes resets variable tensors.
        self.allocate(arrays)
        tensors, ways = self._access.tensors, self._access.subgraphs
        for index, value in zip(tensors, state[: len(tensors)], strict=True):
            self._wrapper.SetTensor(index, value, self._subgraph.index)
        if ways is not None:
            self._assign(ways.assigning, ways.values, state[len(tensors) :])
        self._invoke(arrays)
        return self._state()

    def _assign(self, where: int, indices: Sequence[int], values: State) -> None:
        for index, value in zip(indices, values, strict=True):
            shape = np.array(value.shape, np.int32)
            self._wrapper.ResizeInputTensor(index, shape, False, where)
        self._wrapper.AllocateTensors(where)
        for index, value in zip(indices, values, strict=True):
            self._wrapper.SetTensor(index, value, where)
        self._wrapper.Invoke(where)

    def _state(self) -> State:
        found = [self.value(index) for index in self._access.tensors]
        if (ways := self._access.subgraphs) is not None:
            self._wrapper.AllocateTensors(ways.reading)
            self._wrapper.Invoke(ways.reading)
            found += [self._value_in(ways.reading, index) for index in ways.values]
        return tuple(found)
