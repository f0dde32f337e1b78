"""OpenVINO, a compiler for CPUs, as the executor of a TensorFlow graph without variables.

OpenVINO computes integers of 64 bits in 32, doubles in floats, and compares integers as floats.
Only graphs whose values cannot depend on this are taken, and integers are checked in every batch.
Batches with indices out of range, NaN or infinity, with which a compiled graph computes otherwise,
are left to TensorFlow. So the values of a batch depend on nothing else.
"""

import tempfile
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from extractkit.core.extras import install
from extractkit.core.job import OPENVINO
from extractkit.core.values import Array
from extractkit.errors import JobError, MissingExtraError
from extractkit.models import EstimatesWork, NotCompiledError, Program, Work
from extractkit.models.failures import error_summary
from extractkit.models.graphs.definitions import FrozenGraph, data_flow
from extractkit.models.openvino_ranges import LIMIT, checks
from extractkit.models.process import INTRA_OP, environment

LARGEST = 1 << 22
"""The largest integer that is given to OpenVINO, positive or negative."""

_EXACT = 1 << 24
"""Floats represent every integer below this one."""

_SIZES = frozenset({"Shape", "ShapeN", "Size", "Rank"})
"""Operations whose results do not depend on values."""

_MOVES = frozenset(
    {
        *("Identity", "StopGradient", "PreventGradient", "Reshape", "ExpandDims", "Squeeze"),
        *("Transpose", "ConcatV2", "Pack", "Unpack", "Slice", "StridedSlice", "Split", "SplitV"),
        *("Tile", "BroadcastTo", "Select", "SelectV2", "GatherV2", "Cast"),
    }
)
"""Operations that return elements of their inputs."""

_SUMS = frozenset({"AddV2", "Add", "Sub"})

_COMPARE = frozenset(
    {*("Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual"), "OneHot"}
)

_CONTROL = frozenset(
    {
        *("While", "StatelessWhile", "If", "StatelessIf", "Case", "StatelessCase"),
        *("Enter", "RefEnter", "Switch", "RefSwitch", "Merge", "RefMerge"),
        *("PartitionedCall", "StatefulPartitionedCall"),
    }
)

_CALLS = "is a loop, a branch or a call"

_CHECKS = "extractkit_checks"
"""The name of a tensor whose elements are below `LIMIT` for batches that OpenVINO may compute."""


def installed() -> bool:
    """Return whether OpenVINO can be imported."""
    return find_spec("openvino") is not None


def require() -> None:
    """Check that OpenVINO is installed.

    Raises:
        MissingExtraError: It is not.
    """
    if not installed():
        raise MissingExtraError(
            "runtime.compile=openvino needs openvino, which is not installed. Install it: "
            f"{install('runtime.compile=openvino')}"
        )


@dataclass(frozen=True, eq=False)
class OpenVinoProgram(EstimatesWork):
    """A `Program` whose tensors OpenVINO computes. TensorFlow applies layouts and transforms.

    Attributes:
        model: The name of the model.
        compiled: Computes the tensors.
        feed: Returns the graph's inputs by name for the features of a batch.
        finish: Returns the results of a program for these tensors and its arguments.
        by_tensorflow: Makes a program that computes the same with TensorFlow.
    """

    model: str
    compiled: "CompiledGraph"
    feed: Callable[[Mapping[str, Array]], Mapping[str, Array]]
    finish: Callable[[Sequence[Array], Mapping[str, Array], Mapping[str, Array]], Sequence[Array]]
    by_tensorflow: Callable[[], Program]

    def __call__(
        self, features: Mapping[str, Array], lengths: Mapping[str, Array]
    ) -> Sequence[Array]:
        """Run the model on one batch; see `Program`."""
        try:
            values = self._values(self.feed(features))
        except RuntimeError as error:
            self._plain(features, lengths)  # explains what is wrong with a sample
            raise JobError(
                f"runtime.compile=openvino: model {self.model!r} fails on a batch that TensorFlow "
                f"computes: {error_summary(error)}. Use runtime.compile=graph"
            ) from error
        if values is None:
            return self._plain(features, lengths)
        return self.finish(values, features, lengths)

    def work(self, features: Mapping[str, Array]) -> Work:
        """See `EstimatesWork`."""
        fed = self.feed(features)
        try:
            if self._values(fed) is not None:
                return self.compiled.work(fed)
            reason = "it leaves the values of the first batch to TensorFlow"
        except RuntimeError as error:
            reason = f"it fails on the first batch ({error_summary(error)})"
        raise NotCompiledError(self.model, OPENVINO, reason)

    def _values(self, fed: Mapping[str, Array]) -> Sequence[Array] | None:
        """Return the tensors of a batch. None if TensorFlow has to compute them."""
        return self.compiled(fed) if all(map(_same_in_openvino, fed.values())) else None

    @cached_property
    def _plain(self) -> Program:
        return self.by_tensorflow()


def _same_in_openvino(value: Array) -> bool:
    """Return whether OpenVINO computes with a value as TensorFlow does."""
    if not value.size:
        return False
    if value.dtype.kind == "b":
        return True
    limit = LIMIT if value.dtype.kind == "f" else LARGEST
    # Python's numbers, of any size. NaN is within no limits.
    return bool(value.min() >= -limit and value.max() <= limit)


class CompiledGraph:
    """A frozen graph compiled by OpenVINO.

    Args:
        model: The name of the model, for messages.
        frozen: The graph.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        NotCompiledError: OpenVINO cannot compute it, or not as TensorFlow does.
    """

    def __init__(self, model: str, frozen: FrozenGraph) -> None:
        require()
        import openvino

        from extractkit.models.openvino_patterns import simplify

        _check_effects(model, frozen)
        frozen = data_flow(frozen)
        checked = _checked(model, frozen)
        converted = _converted(model, frozen.graph)
        positions = {
            name: at for at, one in enumerate(converted.outputs) for name in one.get_names()
        }
        # Names are lost where a pattern is replaced, but not the order of the results.
        self._positions = [_position(model, one, positions) for one in frozen.outputs]
        self._checks = positions[f"{_CHECKS}:0"] if checked else None
        self.patterns = simplify(converted)
        self._converted = converted
        by_tensor = {tensor.name: name for name, tensor in frozen.inputs.items()}
        self._names = [
            next(by_tensor[name] for name in one.get_names() if name in by_tensor)
            for one in converted.inputs
        ]
        self._dtypes = [tensor.dtype.as_numpy_dtype for tensor in frozen.outputs]
        self._compiled = openvino.Core().compile_model(converted, "CPU", _settings())
        self._request = self._compiled.create_infer_request()

    def __call__(self, fed: Mapping[str, Array]) -> list[Array] | None:
        """Return the outputs, valid until the next call. None if TensorFlow has to compute them.

        It has to if an index is out of range, or a float may not be finite.

        Raises:
            RuntimeError: OpenVINO cannot compute this batch.
        """
        import openvino

        # OpenVINO shares this memory and does not keep it alive. Results that are inputs are in it.
        self._shared = [np.require(fed[name], requirements=["C", "W"]) for name in self._names]
        for port, value in zip(self._compiled.inputs, self._shared, strict=True):
            self._request.set_tensor(port, openvino.Tensor(value, shared_memory=True))
        self._request.infer()
        if self._checks is not None:
            found = self._request.get_output_tensor(self._checks).data
            if not (found < LIMIT).all():  # NaN is not
                return None
        return [
            self._request.get_output_tensor(at).data.astype(dtype, copy=False)
            for at, dtype in zip(self._positions, self._dtypes, strict=True)
        ]

    def work(self, fed: Mapping[str, Array]) -> Work:
        """Return the work for one batch, without that inside loops."""
        model = self._converted.clone()
        model.reshape(
            {
                port: list(fed[name].shape)
                for port, name in zip(model.inputs, self._names, strict=True)
            }
        )
        shapes = [one.get_partial_shape() for one in model.outputs]
        known = [prod(one.to_shape()) for one in shapes if one.is_static]
        found = [(one, _multiplications(one)) for one in model.get_ordered_ops()]
        convolved = sum(n for one, n in found if one.get_type_name() in _CONVOLUTIONS)
        return Work(sum(n for _, n in found), sum(known), convolved)


def _settings() -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": "f32",
        "EXECUTION_MODE_HINT": "ACCURACY",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": int(environment(None)[INTRA_OP]),
        # Workers on one machine would all be pinned to the same processors.
        "ENABLE_CPU_PINNING": False,
    }


def _converted(model: str, graph: tf.Graph) -> Any:
    """Return a graph as a model of OpenVINO, which reads graphs from files only."""
    import openvino

    try:
        with tempfile.TemporaryDirectory(prefix="extractkit-") as directory:
            file = Path(directory, "graph.pb")
            file.write_bytes(graph.as_graph_def().SerializeToString())
            return openvino.Core().read_model(file)
    except OSError as error:
        reason = f"its graph cannot be written to the folder of temporary files: {error.strerror}"
        raise NotCompiledError(model, OPENVINO, f"{reason} (TMPDIR=… for another)") from error
    except Exception as error:  # protobuf and OpenVINO have errors of their own
        raise NotCompiledError(model, OPENVINO, _why_not_converted(error)) from error


_SUMMARY = ("No translator found for:", "No conversion rule found for operations:")
_FAILED = "Conversion is failed for:"


def _why_not_converted(error: Exception) -> str:
    """Return a clause that names the operations which OpenVINO does not convert."""
    for line in str(error).splitlines():
        text = line.strip().removeprefix("-- ")
        for begin in (*_SUMMARY, _FAILED):
            if text.startswith(begin):
                return f"it cannot convert the operations {text.removeprefix(begin).strip()}"
    return f"it cannot convert the graph ({error_summary(error)})"


def _position(model: str, output: tf.Tensor, positions: Mapping[str, int]) -> int:
    """Return the position of a result. OpenVINO passes inputs on under their own names.

    Raises:
        NotCompiledError: OpenVINO does not compute it, as the space for gradients of a batch
            normalisation.
    """
    while output.name not in positions:
        if output.op.type != "Identity":
            reason = f"it has no value for {output.name!r} ({output.op.type})"
            raise NotCompiledError(model, OPENVINO, reason)
        output = output.op.inputs[0]
    return positions[output.name]


def _check_effects(model: str, frozen: FrozenGraph) -> None:
    """Refuse operations that may fail or have effects, such as assertions.

    OpenVINO does not run them. Where the sizes of samples are fixed, what is asserted of sizes
    holds for all batches or for none.

    Raises:
        NotCompiledError: There is one, and it depends on values, or on sizes that are not fixed.
    """
    fixed = all(one.shape.rank and None not in one.shape[1:] for one in frozen.inputs.values())
    inputs = {one.name for one in frozen.inputs.values()}
    for operation in frozen.graph.get_operations():
        kind = operation.type
        if kind != "EnsureShape" and not operation.op_def.is_stateful:
            continue
        of_values = {"Assert": operation.inputs[:1], "EnsureShape": []}
        if not fixed or _depend(of_values.get(kind, operation.inputs), inputs):
            why = _CALLS if kind in _CONTROL else "has a state, or checks values or sizes"
            raise NotCompiledError(model, OPENVINO, f"{operation.name!r} ({kind}) {why}")


def _depend(tensors: Iterable[tf.Tensor], inputs: Container[str]) -> bool:
    """Return whether tensors depend on the values of inputs, and not only on their sizes."""
    waiting, seen = [*tensors], set()
    while waiting:
        tensor = waiting.pop()
        if tensor.name in inputs:
            return True
        if tensor.name not in seen and tensor.op.type not in _SIZES:
            seen.add(tensor.name)
            waiting.extend(tensor.op.inputs)
    return False


def _checked(model: str, frozen: FrozenGraph) -> bool:
    """Check that OpenVINO computes what TensorFlow does, and add checks of a batch to the graph.

    Returns:
        Whether there is anything to check in a batch.

    Raises:
        NotCompiledError: It does not.
    """
    for operation in frozen.graph.get_operations():
        if operation.type in _CONTROL:
            reason = f"{operation.name!r} ({operation.type}) {_CALLS}"
            raise NotCompiledError(model, OPENVINO, reason)
    # What depends on the inputs, with the largest integer that it can hold.
    largest: dict[str, int] = {tensor.name: LARGEST for tensor in frozen.inputs.values()}
    indexed = []
    for operation in frozen.graph.get_operations():
        kind, name = operation.type, operation.name
        why = None
        if operation.op_def.is_stateful:
            why = "has a state"
        elif kind not in _SIZES and any(one.name in largest for one in operation.inputs):
            why = _different(operation, largest)
            if kind == "GatherV2" and operation.inputs[1].name in largest:
                indexed.append(operation)
        if why is not None:
            raise NotCompiledError(model, OPENVINO, f"{name!r} ({kind}) {why}")
    for tensor in (*frozen.inputs.values(), *frozen.outputs):
        if (why := _unlike(tensor.dtype)) is not None:
            raise NotCompiledError(model, OPENVINO, f"{tensor.name!r} {why}")
    inputs = [one.name for one in frozen.inputs.values()]
    needed = checks(frozen.graph, inputs, largest)
    with frozen.graph.as_default():
        added = [
            *map(_sum_of_sizes, needed.within),
            *(_failing(tf.equal(tf.size(one), 0)) for one in needed.filled),
            *map(_out_of_range, indexed),
        ]
        if added:
            tf.stack(added, name=_CHECKS)
    return bool(added)


def _sum_of_sizes(tensor: tf.Tensor) -> tf.Tensor:
    """Return the sum of the absolute values, since a maximum ignores NaN."""
    if tensor.shape.rank is None:
        tensor = tf.reshape(tensor, [-1])
    return tf.reduce_sum(tf.abs(tensor), list(range(tensor.shape.rank)))


def _failing(condition: tf.Tensor) -> tf.Tensor:
    """Return more than `LIMIT` if a condition holds, otherwise 0."""
    return tf.cast(condition, tf.float32) * (2 * LIMIT)


def _out_of_range(gather: Any) -> tf.Tensor:
    values, indices, axis = gather.inputs
    size = tf.cast(tf.gather(tf.shape(values), axis), indices.dtype)
    return _failing(tf.reduce_any((indices < 0) | (indices >= size)))


def _different(operation: Any, largest: dict[str, int]) -> str | None:
    """Return how OpenVINO's values of an operation may differ, or None.

    Args:
        largest: The largest integers of tensors that depend on the inputs. The operation's results
            are added.
    """
    kind, results = operation.type, operation.outputs
    for tensor in results:
        if (why := _unlike(tensor.dtype)) is not None:
            return why
    reached = [one for one in operation.inputs if one.name in largest]
    taken = [one for one in reached if one.dtype.is_integer]
    largest.update((one.name, 0) for one in results)
    if not any(one.dtype.is_integer for one in results):
        known = kind in _MOVES or kind in _COMPARE
        return None if known or not taken else "computes with integers, which OpenVINO does not"
    of = [_largest(one, largest) for one in operation.inputs if one.dtype.is_integer]
    if kind == "Cast":
        if operation.inputs[0].dtype.is_floating or results[0].dtype not in (tf.int32, tf.int64):
            return "makes integers of any size"
        bound = max(of, default=1)
    elif kind == "GatherV2":
        bound = of[0] if operation.inputs[0].dtype.is_integer else 0
    elif kind in _SUMS:
        bound = sum(of)
    elif kind in _MOVES:
        bound = max(of, default=1)
    else:
        return "computes integers, for which OpenVINO may use floats"
    if bound >= _EXACT:
        return "computes integers that floats do not represent"
    largest.update((one.name, bound) for one in results)
    return None


def _largest(tensor: tf.Tensor, largest: Mapping[str, int]) -> int:
    """Return the largest integer that a tensor can hold. Sizes of tensors are small."""
    if tensor.name in largest:
        return largest[tensor.name]
    value = tf.get_static_value(tensor)
    return LARGEST if value is None else max(map(abs, np.ravel(value).tolist()), default=0)


def _unlike(dtype: tf.DType) -> str | None:
    """Return how OpenVINO computes a dtype otherwise than TensorFlow, or None."""
    if dtype in (tf.float32, tf.bool, tf.int8, tf.uint8, tf.int16, tf.int32, tf.int64):
        return None
    if dtype.is_floating:
        return f"computes {dtype.name}, for which OpenVINO uses float32"
    return f"has values of the type {dtype.name}"


_CONVOLUTIONS = ("Convolution", "GroupConvolution")


def _multiplications(operation: Any) -> int:
    """Return the number of multiplications in a product or convolution with known sizes."""
    kind = operation.get_type_name()
    if kind != "MatMul" and kind not in _CONVOLUTIONS:
        return 0
    shapes = [one.get_partial_shape() for one in (*operation.input_values(), operation.output(0))]
    if any(shape.is_dynamic for shape in shapes):
        return 0
    first, second, result = (list(shape.to_shape()) for shape in shapes)
    if kind == "MatMul":
        columns = not operation.get_attributes()["transpose_a"]
        return int(prod(result) * (first[-1] if columns or len(first) < 2 else first[-2]))
    # A kernel has the form ([groups,] outputs, inputs, *sizes).
    return int(prod(result) * prod(second[1 + (kind == "GroupConvolution") :]))
