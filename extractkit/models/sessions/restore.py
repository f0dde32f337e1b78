"""A checkpoint's weights into a session, checked against its graph first."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from extractkit.errors import ModelError
from extractkit.models.foreign import told
from extractkit.models.moving_averages import MovingAverages, named_averages
from extractkit.models.recognition import recognize, refuse_others, refuse_unknown
from extractkit.models.sessions.variables import VARIABLE_TYPES, GraphVariable, variables_of
from extractkit.models.weight_files.checkpoint_files import missing_file, refuse_pattern

_MOST = 3
_SLICED = " "
# What TensorFlow raises for an index that is not one, it raises for much else too.
_DAMAGED = (tf.errors.DataLossError, tf.errors.OutOfRangeError)
_TABLE = "sstable"


@dataclass(frozen=True)
class _Wanted:
    """What a graph wants from a checkpoint: a key, and the shape that it is to have."""

    key: str
    shape: tuple[int, ...] | None


def restore(at: str, session: tf.compat.v1.Session, saver: Any, prefix: str) -> None:
    """Give variables the values of a checkpoint.

    Args:
        at: key and value of the configuration, for messages.
        session: whose graph holds the variables.
        saver: the SaverDef of the graph; an empty one where nobody saved it: variables are
            then looked for by their names.
        prefix: of the checkpoint.

    Raises:
        ModelError: it cannot be read, or belongs to another architecture.
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
    """Put the moving averages of a checkpoint in the places of variables, where they are wanted.

    A graph for evaluation may have a Saver that does so itself (`ema.variables_to_restore()`):
    then the variables are put in their places where averages are not wanted.

    Args:
        at, session, saver, prefix: as of `restore`, which comes first.
        averages: what the configuration says of them.

    Raises:
        ModelError: the checkpoint has no averages, or not the variables, that are wanted.
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
    """Whether a variable is kept for another, as an optimizer's slots are."""
    return name.rpartition("/")[0] in variables


def _feed(at: str, session: Any, reader: Any, keys: Mapping[Any, str]) -> None:
    """Give variables the values of these keys, by the assignments that the graph has anyway."""
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
        if assign is None:  # as in a graph that was cut down to what computes
            with session.graph.as_default():
                own = tf.compat.v1.placeholder(variable.get_attr("dtype"))
                assign = _assigning(variable, own)
        try:
            session.run(assign, {assign.inputs[1]: value})
        except (tf.errors.OpError, ValueError) as error:
            raise ModelError(
                f"{at}: {key!r} {list(value.shape)} does not fit {variable.name!r}: {told(error)}"
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
        return f"checkpoint {prefix!r} is damaged or cut off ({told(error)}). Copy it again"
    return f"checkpoint {prefix!r} cannot be restored: {told(error)}"


def _has(graph: tf.Graph, name: str) -> bool:
    return any(operation.name == name for operation in graph.get_operations())


def _wanted_by_name(variable: GraphVariable) -> _Wanted:
    shape = variable.shape
    fixed = tuple(shape.as_list()) if shape.is_fully_defined() else None
    return _Wanted(variable.name.removesuffix(":0"), fixed)


def _wanted_by_saver(restore: Any) -> Iterator[_Wanted]:
    """What the operations read that run before `restore` does."""
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
    """The shape that a whole variable has in the graph.

    Args:
        part: of which only a part is read: its sizes, and the part: "10 4 0,5:-".
        tensor: what is read.
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
    """One variable at a time: all at once would be a second copy of the model."""
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
    """Add the operation that gives a variable a value to its graph, and return it."""
    handle = variable.outputs[0]
    if variable.type == "VarHandleOp":
        return tf.raw_ops.AssignVariableOp(resource=handle, value=value)
    return tf.raw_ops.Assign(ref=handle, value=value).op
