"""Interfaces of TensorFlow that its documentation does not promise: the only file that uses them.

Known to work with TensorFlow 2.21. `tests/internals/test_tensorflow.py` checks each name on its
own, so that a release without one fails with what it lacks.
"""

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import Any

import tensorflow as tf
from tensorflow.python.autograph.core import ag_ctx
from tensorflow.python.eager import context
from tensorflow.python.framework import (
    convert_to_constants,
    importer,
    op_callbacks,
    op_def_registry,
)
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph
from tensorflow.python.framework.ops import Operation, SymbolicTensor, gradient_registry
from tensorflow.python.ops.resource_variable_ops import BaseResourceVariable
from tensorflow.python.saved_model import function_deserialization

from extractkit.models.axes import RawShape
from extractkit.models.isolation import patched

# ---------------------------------------------------------------------------- graphs


@contextmanager
def without_python_objects() -> Iterator[None]:
    """Import graphs within the block without Python objects for their operations.

    Replaces `importer._ProcessNewOps`, which makes them, and `_ProcessGraphDefParam`, which adds
    default values of attributes one by one, as TensorFlow does again afterwards. The public
    `import_graph_def` always makes them, which takes most of its time.
    """
    with (
        patched(importer, "_ProcessNewOps", lambda original: lambda graph: None),
        patched(importer, "_ProcessGraphDefParam", lambda original: lambda graph_def: graph_def),
    ):
        yield


def imported_operations(graph: tf.Graph) -> Iterator[Any]:
    """Yield the operations that were imported `without_python_objects`, in order.

    Uses `Graph.new_operations`, `Operation`, `SymbolicTensor` and `Operation._init_outputs`. The
    public `get_operations` gives only operations that have Python objects.
    """
    for handle in graph.new_operations():
        operation = Operation(handle, SymbolicTensor)
        operation.graph = graph
        operation._init_outputs()
        yield operation


def static_sizes(output: Any) -> RawShape:
    """Return the static shape of a result of one of the `imported_operations`.

    Uses `SymbolicTensor._shape`. The public `shape` makes a `TensorShape`, which is slower.
    """
    sizes, unknown_rank = output._shape
    return None if unknown_rank else tuple(sizes)


def graph_of(definition: Any) -> tf.Graph:
    """Return a FunctionDef as a graph.

    Uses `function_def_to_graph`. There is no public way from a FunctionDef to a graph.
    """
    return function_def_to_graph(definition)


def capturing_graph(name: str) -> Any:
    """Return a graph that can capture tensors without being made into a function.

    Uses `tf.__internal__.FuncGraph`. A public `tf.function` has one, but TensorFlow refuses to make
    a function of loops of TensorFlow 1.
    """
    return tf.__internal__.FuncGraph(name)


def register_functions(graph: tf.Graph) -> None:
    """Make the functions that were imported into a graph known to the process that runs it.

    Uses `Graph._functions`, whose `cached_definition` has this effect, as does the public
    `as_graph_def`, which copies the whole graph. TensorFlow crashes at an imported loop whose
    functions are not known. They are known as long as the graph exists.
    """
    for function in graph._functions.values():
        assert function.cached_definition is not None


def operation_definition(op_type: str) -> Any:
    """Return the definition of a type of operations, or None if TensorFlow has none.

    Uses `op_def_registry`. The public `tf.raw_ops` lacks operations that libraries registered.
    """
    return op_def_registry.get(op_type)


def inlined_graph_def(function: Any) -> Any:
    """Return the GraphDef of a concrete function with all that it calls inlined.

    Uses `_run_inline_graph_optimization`. The public `convert_variables_to_constants_v2` has
    grappler inline too, but makes constants of variables. Replaces
    `disable_lower_using_switch_merge`, which keeps the functions of loops and of `If`, for it
    forgets those of `Case`.
    """

    def keeping(original: Callable[..., Any]) -> Callable[..., Any]:
        def kept(graph_def: Any) -> Any:
            found = original(graph_def)
            bodies = (function.node_def for function in found.library.function)
            for node in chain(found.node, *bodies):
                if node.op in ("Case", "StatelessCase"):
                    node.attr["_lower_using_switch_merge"].b = False
            return found

        return kept

    with patched(convert_to_constants, "disable_lower_using_switch_merge", keeping):
        return convert_to_constants._run_inline_graph_optimization(
            function, lower_control_flow=False, aggressive_inlining=True
        )


def with_constants_for_variables(function: Any) -> tuple[Any, set[int]]:
    """Return the GraphDef of a concrete function with constants for variables that its graph lists.

    Uses `_FunctionConverterDataInEager` and `_replace_variables_by_constants`, of which
    `convert_variables_to_constants_v2` is made. That copies the result operation by operation into
    another function, which takes most of its time. Assigns to `FuncGraph.variables`, since a graph
    does not list variables that were captured by handle.

    Returns:
        The GraphDef, and the positions of the captures that are constants in it.
    """
    converted = convert_to_constants._FunctionConverterDataInEager(
        func=function, lower_control_flow=False, aggressive_inlining=False
    )
    graph_def, positions = convert_to_constants._replace_variables_by_constants(converted)
    return graph_def, set(positions)


def has_gradient(op_type: str) -> bool | None:
    """Return whether a type of operations has a gradient; None if it is declared to have none.

    `tf.gradients` fails at an operation without one, and ends at one that is declared so. Uses
    `ops.gradient_registry`. There is no public way to read what `tf.RegisterGradient` adds to.
    """
    try:
        return None if gradient_registry.lookup(op_type) is None else True
    except LookupError:
        return False


def saved_gradient(op_type: str) -> Any:
    """Return the function that is a custom gradient of a loaded SavedModel, or None.

    Uses `ops.gradient_registry` and `function_deserialization._gen_gradient_func`, of which the
    registered gradient is the inner function. It captures tensors that exist in the loaded graph
    only, and there is no public way to give it others.
    """
    try:
        registered = gradient_registry.lookup(op_type)
    except LookupError:
        return None
    made = function_deserialization._gen_gradient_func.__code__.co_consts
    if getattr(registered, "__code__", None) not in made:
        return None
    return inspect.getclosurevars(registered).nonlocals["func"]


def forget_colocation(operation: tf.Operation) -> None:
    """Remove the colocation constraints of an operation.

    Uses `Operation._clear_attr`. No public method removes an attribute.
    """
    operation._clear_attr("_class")


# ---------------------------------------------------------------------------- execution


@contextmanager
def autograph_enabled() -> Iterator[None]:
    """Let AutoGraph convert within the block what Keras 2 asks it to convert.

    Uses `ag_ctx.ControlStatusCtx`. The public `autograph=` of `tf.function` would convert the
    traced function too.
    """
    with ag_ctx.ControlStatusCtx(ag_ctx.Status.ENABLED):
        yield


def watched_reads(
    watching: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> AbstractContextManager[None]:
    """Replace the method through which all reads of a variable go, for calls of this thread.

    Uses `BaseResourceVariable._read_variable_op`. There is no public way to see reads.

    Args:
        watching: Makes the new method from the current one.
    """
    return patched(BaseResourceVariable, "_read_variable_op", watching)


@contextmanager
def watched_operations(callback: Callable[..., None]) -> Iterator[None]:
    """Call a function for each operation that runs within the block, in this thread.

    Uses `op_callbacks`, on which TensorFlow's debugger builds. There is no public way to see eager
    operations.

    Args:
        callback: Called with type, inputs, attributes, outputs, name and graph.
    """
    op_callbacks.add_op_callback(callback)
    try:
        yield
    finally:
        op_callbacks.remove_op_callback(callback)


def function_definition(name: str) -> Any:
    """Return the eager runtime's FunctionDef of a function call, or None for a real operation.

    Uses `context.context()`. A function that was traced before runs as one operation, and no public
    interface gives its definition by the operation's name.
    """
    known = context.context()
    return known.get_function_def(name) if known.has_function(name) else None


def is_started() -> bool:
    """Return whether TensorFlow has read its settings, so that they can no longer change.

    Uses `context.context()._initialized`. There is no public way to ask without starting it.
    """
    return bool(getattr(context.context(), "_initialized", True))


def seed_again(seed: int) -> bool:
    """Seed TensorFlow's generator anew if its seed is this one; return whether it is.

    Uses `context.context()`, its `_seed` and `_rng`. The public `tf.random.set_seed` also drops the
    kernels of all functions.
    """
    current = context.context()
    if current._seed != seed:
        return False
    current._rng = random.Random(seed)
    return True


# ---------------------------------------------------------------------------- values


def is_composite(value: object) -> bool:
    """Return whether a value consists of several tensors, as a ragged tensor does.

    Uses `tf.__internal__.CompositeTensor`. Public are only some of its subclasses.
    """
    return isinstance(value, tf.__internal__.CompositeTensor)
