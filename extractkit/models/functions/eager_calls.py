"""Recording of eager calls: every operation's results, in the order of computation.

watched(function, arguments).operations  # {"op/MatMul": …, "op/AddV2": …, "op/MatMul.1": …}
"""

import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from extractkit.models.graphs.purity import IMPURE
from extractkit.models.naming import Ports
from extractkit.models.tensorflow_internals import function_definition, watched_operations

_HANDLES = (tf.resource, tf.variant)
# Whether functions run eagerly is a setting of the process, not of a thread.
_one_at_a_time = threading.RLock()


@dataclass(frozen=True, eq=False)
class EagerCall:
    """One call of a function.

    Attributes:
        result: the returned value.
        operations: results of operations by port; `op/Split@1` is the second of one.
        types: the types of all operations by port, in order, including those without a kept result.
        impure_from: number of results before the first operation that draws random numbers or
            assigns, or that takes a variable assigned to later; None if there is none.
        carried: the first operation, by port, that draws random numbers or changes state that is
            not restored: a variable that is not the model's, a table, a queue; None if there is
            none.
    """

    result: Any
    operations: Mapping[str, tf.Tensor]
    types: Mapping[str, str]
    impure_from: int | None
    carried: str | None

    @property
    def pure(self) -> set[int] | None:
        """The ids of results that cannot depend on random or assigned values. None means all."""
        if self.impure_from is None:
            return None
        before = list(self.types)[: self.impure_from]
        return {id(self.operations[port]) for port in before if port in self.operations}


def watched(
    function: Callable[..., Any],
    arguments: Mapping[str, tf.Tensor],
    keep: Container[str] | None = None,
    variables: Iterable[Any] = (),
) -> EagerCall:
    """Call a function and record its operations. Nested `tf.function`s run eagerly, too.

    Args:
        arguments: the arguments by name.
        keep: ports whose results to keep; None: all. Others are freed at once.
        variables: variables that are `restored` after the call.

    One call runs at a time in a process.
    """
    ports = Ports()
    operations: dict[str, tf.Tensor] = {}
    types: dict[str, str] = {}
    # For each resource, the number of results before the first operation that took it. The handle
    # is kept, so that no other gets its id.
    first_taken: dict[int, tuple[int, Any]] = {}
    own = {id(getattr(variable, "handle", variable)) for variable in variables}
    made: dict[int, Any] = {}
    impure_from: int | None = None
    carried: str | None = None

    def on_operation(
        op_type: str | bytes,
        inputs: Sequence[Any],
        attributes: Any,
        outputs: Sequence[Any],
        op_name: Any = None,
        graph: Any = None,
    ) -> None:
        nonlocal carried, impure_from
        if graph is not None:  # traced, not run
            return
        kind = op_type.decode() if isinstance(op_type, bytes) else op_type
        port, position = ports.unique(f"op/{kind}"), len(types)
        handles = [one for one in inputs if getattr(one, "dtype", None) == tf.resource]
        for handle in handles:
            first_taken.setdefault(id(handle), (position, handle))
        # Resources created within a call are not shared with other calls.
        if _is_impure(kind) and not (handles and made.keys() >= set(map(id, handles))):
            if not handles or not own.issuperset(map(id, handles)):
                carried = carried or port
            taken = [first_taken[id(handle)][0] for handle in handles]
            if not own.issuperset(map(id, handles)):
                # `tensor * variable` reads without an event, and the variable is not restored.
                taken.append(0)
            impure_from = min([position, *taken, *([] if impure_from is None else [impure_from])])
        types[port] = kind
        for index, output in enumerate(outputs):
            name = port if index == 0 else f"{port}@{index}"
            types[name] = kind
            if output.dtype == tf.resource:
                made[id(output)] = output
            if output.dtype not in _HANDLES and (keep is None or name in keep):
                operations[name] = output

    with _one_at_a_time, _functions_eager(), watched_operations(on_operation):
        result = function(**arguments)
    return EagerCall(result, operations, types, impure_from, carried)


@contextmanager
def restored(variables: Iterable[Any]) -> Iterator[None]:
    """Restore the values of variables after the block."""
    # Neither reading nor assigning copies. Only variables that are assigned to exist twice.
    before = [(variable, tf.convert_to_tensor(variable)) for variable in variables]
    try:
        yield
    finally:
        for variable, value in before:
            variable.assign(value)


@contextmanager
def _functions_eager() -> Iterator[None]:
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _is_impure(kind: str) -> bool:
    """Return whether an operation, or one in the function that it calls, is random or assigns."""
    waiting, seen = [kind], {kind}
    while waiting:
        name = waiting.pop()
        definition = function_definition(name)
        if definition is None:
            if IMPURE.search(name):
                return True
            continue
        for node in definition.node_def:
            inside = {node.op}
            for attribute in node.attr.values():
                inside |= {one.name for one in (attribute.func, *attribute.list.func) if one.name}
            waiting.extend(inside - seen)
            seen |= inside
    return False
