"""Restoring of a checkpoint into a session, after a check against the graph."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from extractkit.core.catalog import Kind
from extractkit.core.values import digest_of_table
from extractkit.errors import ModelError
from extractkit.models.failures import error_summary
from extractkit.models.given_weights import MovingAverages, named_averages
from extractkit.models.graphs import AnyGraph, AnyTensor
from extractkit.models.recognition import recognize, refuse_others, refuse_unknown
from extractkit.models.weight_files.tensorflow_checkpoint import missing_file, refuse_pattern

_REFERENCES = ("Variable", "VariableV2", "AutoReloadVariable")
_HANDLE = "VarHandleOp"
VARIABLE_TYPES = (*_REFERENCES, _HANDLE)
_TRAINING = re.compile(r"^(Resource)?(Sparse)?Apply")
_STEP = "global_step"


@dataclass(frozen=True, eq=False)
class GraphVariable:
    """A reference or resource variable.

    Attributes:
        name: the name of its operation, with `:0`.
        dtype, shape: those of its content.
        value: the tensor that reads it.
        initialized: a boolean tensor: whether it has a value.
    """

    name: str
    dtype: tf.DType
    shape: tf.TensorShape
    value: tf.Tensor
    initialized: tf.Tensor


def variable_names(graph: AnyGraph) -> list[str]:
    """Return the name of every variable (`op:0`), in the order of the graph."""
    return [f"{one.name}:0" for one in graph.get_operations() if one.type in VARIABLE_TYPES]


def variables_of(graph: tf.Graph) -> list[GraphVariable]:
    """Return every variable in the order of the graph. Operations that read them are added."""
    found = []
    with graph.as_default(), tf.control_dependencies(None):
        for operation in graph.get_operations():
            if operation.type in _REFERENCES:
                value = operation.outputs[0]
                initialized = tf.raw_ops.IsVariableInitialized(ref=value)
            elif operation.type == _HANDLE:
                handle, dtype = operation.outputs[0], operation.get_attr("dtype")
                value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)
                initialized = tf.raw_ops.VarIsInitializedOp(resource=handle)
            else:
                continue
            found.append(
                GraphVariable(
                    operation.outputs[0].name,
                    operation.get_attr("dtype"),
                    tf.TensorShape(operation.get_attr("shape")),
                    value,
                    initialized,
                )
            )
    return found


def kinds_of_variables(graph: AnyGraph, averages: str) -> dict[str, Kind]:
    """Return the kinds of the variables that are not weights, by name (`op:0`).

    Args:
        averages: the name of moving averages: `VARIABLE/averages` is one of `VARIABLE`.
    """
    names = {name.removesuffix(":0") for name in variable_names(graph)}
    kinds = dict.fromkeys(_optimizer_variables(graph), Kind.OPTIMIZER)
    for average in named_averages(names, names, averages).values():
        kinds[f"{average}:0"] = Kind.MOVING_AVERAGE
    return kinds


def _optimizer_variables(graph: AnyGraph) -> set[str]:
    """Return the names (`op:0`) of variables that only training needs: slots, rates, step counter.

    A training operation takes the variable first, followed by the optimizer's own variables.
    """
    found: set[str] = set()
    for operation in graph.get_operations():
        if _TRAINING.search(operation.type):
            found.update(_variables(operation.inputs[1:]))
        elif operation.name.rpartition("/")[2] == _STEP and operation.outputs:
            found.update(_variables(operation.outputs))
    return found


def _variables(tensors: Iterable[AnyTensor]) -> Iterable[str]:
    """Yield the variables among the tensors, and those that the tensors read."""
    for tensor in tensors:
        operation: Any = tensor.op
        if operation.type in ("Identity", "ReadVariableOp"):
            operation = operation.inputs[0].op
        if operation.type in VARIABLE_TYPES:
            yield operation.outputs[0].name


_TABLES = (
    *("HashTable", "MutableHashTable", "MutableDenseHashTable", "MutableHashTableOfTensors"),
    *("HashTableV2", "MutableHashTableV2", "MutableDenseHashTableV2"),
    "MutableHashTableOfTensorsV2",
)


def table_contents(session: tf.compat.v1.Session, graph_def: Any) -> dict[str, str] | None:
    """Return a text for each table of a graph, by the name of its node.

    Args:
        session: the session that has filled them.
        graph_def: the original graph.

    Returns:
        None if a function of the graph holds a table, whose content is not known.
    """
    if any(_is_table(node) for one in graph_def.library.function for node in one.node_def):
        return None
    return dict(_contents(session, [node for node in graph_def.node if _is_table(node)]))


def _is_table(node: Any) -> bool:
    return node.op in _TABLES


def _contents(session: tf.compat.v1.Session, nodes: list[Any]) -> Iterator[tuple[str, str]]:
    for node in nodes:
        with session.graph.as_default():
            handle = session.graph.get_tensor_by_name(f"{node.name}:0")
            newer = handle.dtype == tf.resource
            export = tf.raw_ops.LookupTableExportV2 if newer else tf.raw_ops.LookupTableExport
            both = export(
                table_handle=handle,
                Tkeys=node.attr["key_dtype"].type,
                Tvalues=node.attr["value_dtype"].type,
            )
        try:
            keys, values = session.run([both.keys, both.values])
        except tf.errors.FailedPreconditionError:  # never filled
            yield node.name, "table"
        else:
            yield node.name, f"table {digest_of_table(keys, values)}"


_MOST = 3
_SLICED = " "
# TensorFlow raises this error for a damaged index, and for many other reasons.
_DAMAGED = (tf.errors.DataLossError, tf.errors.OutOfRangeError)
_TABLE = "sstable"


@dataclass(frozen=True)
class _Wanted:
    """An array that a graph needs from a checkpoint: its key and expected shape."""

    key: str
    shape: tuple[int, ...] | None


def restore(at: str, session: tf.compat.v1.Session, saver: Any, prefix: str) -> None:
    """Restore variables from a checkpoint.

    Args:
        at: key and value of the configuration, for messages.
        session: the session of the variables' graph.
        saver: the SaverDef of the graph. If it is empty, variables are found by their names.
        prefix: the prefix of the checkpoint.

    Raises:
        ModelError: the checkpoint cannot be read, or belongs to another architecture.
    """
    graph = session.graph
    missing = missing_file(prefix)
    if missing is not None and not Path(prefix).is_file():
        raise ModelError(
            f"{at}: {missing.name!r} is missing from the checkpoint in {str(missing.parent)!r}. "
            f"Copy it there, too"
        )
    refuse_pattern(prefix, at)
    reader = _reader(at, prefix)
    by_saver = bool(saver.restore_op_name) and _has(graph, saver.restore_op_name)
    variables = [] if by_saver else variables_of(graph)
    wanted = (
        list(_wanted_by_saver(graph.get_operation_by_name(saver.restore_op_name)))
        if by_saver
        else [_wanted_by_name(variable) for variable in variables]
    )
    _check(at, wanted, reader.get_variable_to_shape_map())
    try:
        if by_saver:
            session.run(saver.restore_op_name, {saver.filename_tensor_name: prefix})
        else:
            _assign(session, variables, prefix)
    except (tf.errors.OpError, ValueError) as error:
        raise ModelError(f"{at}: {_why_not_read(prefix, error)}") from error


def restore_averages(
    at: str,
    session: tf.compat.v1.Session,
    saver: Any,
    prefix: str,
    averages: MovingAverages,
) -> None:
    """Assign the moving averages of a checkpoint to variables, if they are wanted.

    The Saver of an evaluation graph may do so itself (`ema.variables_to_restore()`). Then the
    original values are assigned if averages are not wanted.

    Args:
        at, session, saver, prefix: see `restore`, which has to be called first.
        averages: the setting of `model.moving_averages`.

    Raises:
        ModelError: the checkpoint lacks the wanted averages or variables.
    """
    graph = session.graph
    reader = _reader(at, prefix)
    stored = reader.get_variable_to_shape_map()
    variables = {one.name: one for one in graph.get_operations() if one.type in VARIABLE_TYPES}
    kept = {key for key in stored if key.rpartition("/")[0] in variables}
    found = named_averages(stored, variables, averages.name)
    if _has(graph, saver.restore_op_name) and found:
        restoring = graph.get_operation_by_name(saver.restore_op_name)
        by_saver = {one.key for one in _wanted_by_saver(restoring)} - set(variables)
        if by_saver.issuperset(found.values()):
            averages.record["restored_by"] = "the graph's own Saver"
            if averages.setting is False:
                _check(at, [_Wanted(name, None) for name in found], stored)
                _feed(at, session, reader, {variables[name]: name for name in found})
            return
    own = [name for name in variables if name in stored and name not in set(found.values())]
    others = (key.rpartition("/")[2] for key in kept)
    chosen = averages.chosen(at, found, [n for n in own if not _is_kept(n, variables)], others)
    _feed(at, session, reader, {variables[name]: key for name, key in chosen.items()})


def _is_kept(name: str, variables: Collection[str]) -> bool:
    """Return whether a variable belongs to another one, like an optimizer's slot."""
    return name.rpartition("/")[0] in variables


def _feed(at: str, session: Any, reader: Any, keys: Mapping[Any, str]) -> None:
    """Assign the values of these keys to variables, with the assignments in the graph."""
    for variable, key in keys.items():
        value = reader.get_tensor(key)
        assign = next(
            (
                one
                for one in variable.outputs[0].consumers()
                if one.type in ("Assign", "AssignVariableOp") and one.inputs[0].op is variable
            ),
            None,
        )
        if assign is None:  # as in a graph reduced to inference
            with session.graph.as_default():
                own = tf.compat.v1.placeholder(variable.get_attr("dtype"))
                assign = _assigning(variable, own)
        try:
            session.run(assign, {assign.inputs[1]: value})
        except (tf.errors.OpError, ValueError) as error:
            raise ModelError(
                f"{at}: {key!r} {list(value.shape)} does not fit {variable.name!r}: "
                f"{error_summary(error)}"
            ) from error


def _reader(at: str, prefix: str) -> Any:
    try:
        return tf.compat.v1.train.NewCheckpointReader(prefix)
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        index = Path(f"{prefix}.index")
        key = at.partition("=")[0]
        refuse_others(prefix, "checkpoint", "meta_graph", key=key)
        if not index.is_file() and recognize(prefix) is None:
            refuse_unknown(prefix, Path(prefix), "a TensorFlow checkpoint", key)
        raise ModelError(f"{at}: {_why_not_read(prefix, error)}") from error


def _why_not_read(prefix: str, error: BaseException) -> str:
    if isinstance(error, _DAMAGED) or _TABLE in str(error):
        return (
            f"checkpoint {prefix!r} is damaged or cut off ({error_summary(error)}). Copy it again"
        )
    return f"checkpoint {prefix!r} cannot be restored: {error_summary(error)}"


def _has(graph: tf.Graph, name: str) -> bool:
    return any(operation.name == name for operation in graph.get_operations())


def _wanted_by_name(variable: GraphVariable) -> _Wanted:
    shape = variable.shape
    fixed = tuple(shape.as_list()) if shape.is_fully_defined() else None
    return _Wanted(variable.name.removesuffix(":0"), fixed)


def _wanted_by_saver(restore: Any) -> Iterator[_Wanted]:
    """Yield the arrays read by the operations that run before `restore`."""
    seen, waiting = set(), [restore]
    while waiting:
        operation = waiting.pop()
        if operation.name in seen:
            continue
        seen.add(operation.name)
        waiting.extend(operation.control_inputs)
        waiting.extend(tensor.op for tensor in operation.inputs)
        if operation.type == "RestoreV2":
            keys, slices = (tf.get_static_value(tensor) for tensor in operation.inputs[1:])
            if keys is None or slices is None:
                continue
            for key, part, tensor in zip(keys, slices, operation.outputs, strict=True):
                yield _Wanted(key.decode(), _shape(part.decode(), tensor))


def _shape(part: str, tensor: tf.Tensor) -> tuple[int, ...] | None:
    """Return the shape of a whole variable in the graph.

    Args:
        part: for a partial read, the whole shape and the slice: "10 4 0,5:-".
        tensor: the tensor that is read.
    """
    if part:
        return tuple(int(size) for size in part.split(_SLICED)[:-1])
    for operation in tensor.consumers():
        if operation.type == "Identity":
            return _shape(part, operation.outputs[0])
        if operation.type in ("Assign", "AssignVariableOp"):
            variable = operation.inputs[0].op
            if "shape" in variable.node_def.attr:
                shape = tf.TensorShape(variable.get_attr("shape"))
                return tuple(shape.as_list()) if shape.is_fully_defined() else None
    return None


def _check(at: str, wanted: list[_Wanted], stored: dict[str, list[int]]) -> None:
    problems = []
    for one in wanted:
        if one.key not in stored:
            problems.append(f"{one.key!r} is not in the checkpoint")
        elif one.shape is not None and tuple(stored[one.key]) != one.shape:
            problems.append(
                f"{one.key!r} has shape {list(one.shape)} in the graph, {stored[one.key]} in the "
                f"checkpoint"
            )
    if problems:
        more = f", and {len(problems) - _MOST} more" if len(problems) > _MOST else ""
        raise ModelError(
            f"{at}: the checkpoint does not fit the graph: {'; '.join(problems[:_MOST])}{more}"
        )


def _assign(session: tf.compat.v1.Session, variables: list[GraphVariable], prefix: str) -> None:
    """Assign variables one at a time: all at once would need a second copy of the model."""
    for variable in variables:
        operation = session.graph.get_operation_by_name(variable.name.removesuffix(":0"))
        with session.graph.as_default():
            (value,) = tf.raw_ops.RestoreV2(
                prefix=prefix,
                tensor_names=[operation.name],
                shape_and_slices=[""],
                dtypes=[variable.dtype],
            )
            assign = _assigning(operation, value)
        session.run(assign)


def _assigning(variable: Any, value: Any) -> Any:
    """Add an assignment of the variable to its graph, and return it."""
    handle = variable.outputs[0]
    if variable.type == "VarHandleOp":
        return tf.raw_ops.AssignVariableOp(resource=handle, value=value)
    return tf.raw_ops.Assign(ref=handle, value=value).op
