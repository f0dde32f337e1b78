"""LiteRT's interpreter, called on one sample or on several, and the operations that it cannot run.

Only this module and `state.py` use its Python interface. An interpreter always runs its whole
subgraph: it cannot stop at the wanted tensors.

Most files are converted for one sample, but their inputs can be resized. Some then fail, as where a
shape is a constant, and some compute other values. A trial shows it.
"""

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from extractkit.core.values import Array, as_array
from extractkit.models.failures import error_summary
from extractkit.models.isolation import noise_to_log
from extractkit.models.litert.graph import (
    VARIABLE_HANDLE,
    Graph,
    Operation,
    Runnable,
    Subgraph,
    called_subgraphs,
)
from extractkit.models.litert_internals import wrapper_of

_log = logging.getLogger(__name__)

FAILURES = (ValueError, RuntimeError)
"""Errors of a failed call of LiteRT, except a lack of memory, which is not caused by samples."""

TRIED_TOGETHER = 5
"""Number of made-up samples of the trial: more than the rows that kernels compute at once."""

_FLEX = "Flex"
"""The prefix of the names of TensorFlow's own operations in a TensorFlow Lite file."""

_CUSTOM = re.compile(r"Encountered unresolved custom op: (.+?)\.\s")
_SELECT = "Select TensorFlow op(s)"
_BUILTIN = re.compile(r"Didn't find op for builtin opcode '(\w+)' version '(\d+)'")
_UNKNOWN = re.compile(r"Op builtin_code out of range: (\d+)")
_NODE = re.compile(r"Node number (\d+) \((.+?)\) failed to \w+")

_EDGE_TPU = "edgetpu-custom-op"
_XNNPACK = ("Convolution2DTransposeBias", "MaxPoolingWithArgmax2D", "MaxUnpooling2D")
_MEDIAPIPE = ("Landmarks2TransformMatrix", "TransformLandmarks", "TransformTensorBilinear")

# Settings of XNNPACK that have been used in this process. LiteRT prints the delegates that it makes
# to standard error, once.
_ANNOUNCED: set[bool] = set()


@dataclass(frozen=True)
class Settings:
    """Settings of an interpreter that may change the last bits of values.

    Attributes:
        threads: the threads of one interpreter.
        xnnpack: whether to use the XNNPACK delegate, as LiteRT does by default.
    """

    threads: int = 1
    xnnpack: bool = True


def without_xnnpack(settings: Settings) -> Settings:
    """Return the settings for weights that XNNPACK packs without ever computing them."""
    return replace(settings, xnnpack=False)


class Interpreter:
    """One interpreter of a model, for calls of one subgraph of it.

    Every call starts from the model's initial state, so its results depend on its sample alone:
    variables are reset. Resources cannot be reset, so they need a new interpreter.

    Args:
        runnable: the model, which `probe` has checked.
        settings: the settings.
        preserve: whether the tensors between inputs and outputs can be read after a call.
    """

    def __init__(self, runnable: Runnable, settings: Settings, preserve: bool) -> None:
        self._model = runnable.model
        self._subgraph = subgraph = runnable.subgraph
        self._settings = settings
        self._preserve = preserve
        self._has_resources = any(one.type == VARIABLE_HANDLE for one in subgraph.operations)
        self._has_variables = any(tensor.variable for tensor in subgraph.tensors)
        self._allocated = False
        self._wrapper = self._built()

    @property
    def keeps_state(self) -> bool:
        """Whether the subgraph has variables or resources."""
        return self._has_resources or self._has_variables

    def call(self, arrays: Mapping[int, Array]) -> None:
        """Run the subgraph on arrays for its inputs, by number.

        Raises:
            ValueError, RuntimeError, MemoryError: LiteRT fails, with its own message.
        """
        if self._allocated and self._has_resources:
            self._wrapper = self._built()
        self.allocate(arrays)
        if self._has_variables:
            self._wrapper.ResetVariableTensors()
        self._invoke(arrays)

    def _invoke(self, arrays: Mapping[int, Array]) -> None:
        for index, array in arrays.items():
            self._wrapper.SetTensor(index, np.asarray(array, order="C"), self._subgraph.index)
        self._wrapper.Invoke(self._subgraph.index)

    def allocate(self, arrays: Mapping[int, Array]) -> None:
        """Allocate memory for a call with inputs of these shapes."""
        for index, array in arrays.items():
            shape = np.array(array.shape, np.int32)
            self._wrapper.ResizeInputTensor(index, shape, False, self._subgraph.index)
        with self._first_quietly():
            self._wrapper.AllocateTensors(self._subgraph.index)
        self._allocated = True
        _ANNOUNCED.add(self._settings.xnnpack)

    def value(self, index: int) -> Array:
        """Return a copy of a tensor's value in the last call.

        Raises:
            ValueError: there is none.
        """
        return self._value_in(self._subgraph.index, index)

    def _value_in(self, where: int, index: int) -> Array:
        shape = self._wrapper.TensorSize(index, where)
        if 0 in shape:  # LiteRT allocates no memory for empty tensors, and then finds no value
            dtype = np.dtype(self._wrapper.TensorType(index, where))
            return np.zeros(shape, object if dtype.kind == "S" else dtype)
        return as_array(
            self._wrapper.GetTensor(index, where)
        )  # a scalar is not returned as an array

    def overwrite(self, index: int, byte: int) -> None:
        """Fill a tensor's memory, if it has any, with one byte, to see whether it is written to."""
        where = self._subgraph.index
        dtype = np.dtype(self._wrapper.TensorType(index, where))
        filled = np.full(dtype.itemsize, byte, np.uint8).view(dtype)[0]
        array = np.full(self._wrapper.TensorSize(index, where), filled)
        try:
            self._wrapper.SetTensor(index, array, where)
        except ValueError:  # its size is known and written only when it is computed
            return

    def _built(self) -> Any:
        from ai_edge_litert.interpreter import Interpreter as LiteRT
        from ai_edge_litert.interpreter import OpResolverType

        kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        if self._settings.xnnpack:
            kernels = OpResolverType.BUILTIN
        given = "model_path" if isinstance(self._model, Path) else "model_content"
        with self._first_quietly(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # preserving tensors is meant "for debugging purposes"
            interpreter = LiteRT(
                **{given: str(self._model) if isinstance(self._model, Path) else self._model},
                num_threads=self._settings.threads,
                experimental_op_resolver_type=kernels,
                experimental_preserve_all_tensors=self._preserve,
            )
        self._allocated = False
        return wrapper_of(interpreter)

    def _first_quietly(self) -> AbstractContextManager[None]:
        return nullcontext() if self._settings.xnnpack in _ANNOUNCED else noise_to_log("litert")


@dataclass(frozen=True)
class Plain:
    """Plain calls as in LiteRT's documentation, each from the model's initial state.

    Attributes:
        model: The path of a file, or the content of one.
        signature: The called signature; None: the first subgraph.
        inputs: Numbers of the input tensors by name.
        settings: The settings.
    """

    model: Path | bytes
    signature: str | None
    inputs: Mapping[str, int]
    settings: Settings

    def call(
        self,
        arrays: Mapping[int, Array],
        outputs: Mapping[str, int],
        before: Mapping[int, Array] | None = None,
    ) -> dict[int, Array]:
        """Return outputs by number.

        Args:
            arrays: Arrays for the inputs, by number.
            outputs: Numbers of the wanted outputs by name.
            before: Arrays for a preceding call, whose final state this call starts from.

        Raises:
            ValueError, RuntimeError, MemoryError: LiteRT fails, with its own message.
        """
        from ai_edge_litert.interpreter import Interpreter as LiteRT
        from ai_edge_litert.interpreter import OpResolverType

        kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        if self.settings.xnnpack:
            kernels = OpResolverType.BUILTIN
        by_path = isinstance(self.model, Path)
        interpreter = LiteRT(
            model_path=str(self.model) if by_path else None,
            model_content=None if by_path else self.model,
            num_threads=self.settings.threads,
            experimental_op_resolver_type=kernels,
        )
        runner = self.signature and interpreter.get_signature_runner(self.signature)
        returned: Mapping[str, Any] = {}
        for one in (arrays,) if before is None else (before, arrays):
            given = {name: np.asarray(one[at], order="C") for name, at in self.inputs.items()}
            if runner:
                returned = runner(**given)
                continue
            for name, index in self.inputs.items():
                interpreter.resize_tensor_input(index, given[name].shape)
            interpreter.allocate_tensors()
            for name, index in self.inputs.items():
                interpreter.set_tensor(index, given[name])
            interpreter.invoke()
        if runner:
            return {index: as_array(returned[name]) for name, index in outputs.items()}
        return {index: as_array(interpreter.get_tensor(index)) for index in outputs.values()}


class Several:
    """Calls of a subgraph on several samples at once, if a trial gives the bits of single calls.

    The trial has the same made-up samples in each process, so that all decide in the same way.

    Args:
        build: makes an interpreter.
        needed: numbers of the tensors to read after a call; None: calls take single samples.
    """

    def __init__(self, build: Callable[[], Interpreter], needed: Sequence[int] | None) -> None:
        self._build = build
        self._needed = needed
        self._possible: bool | None = False if needed is None else None
        self.interpreter = build()

    def call(self, each: Sequence[Mapping[int, Array]]) -> dict[int, Array] | None:
        """Return the needed tensors of several samples, by number, with the samples as first axis.

        Args:
            each: arrays of one sample each, which have a first axis of size 1.

        Returns:
            None if each sample needs a call of its own.

        Raises:
            ValueError, RuntimeError, MemoryError: LiteRT fails, with its own message.
        """
        shapes = [[array.shape for array in arrays.values()] for arrays in each]
        if len(each) < 2 or any(one != shapes[0] for one in shapes) or not each[0]:
            return None
        if self._possible is None:
            self._possible = self._tried(each[0])
            _log.info(
                "the interpreter of TensorFlow Lite is called on %s",
                "several samples" if self._possible else "one sample at a time",
            )
        return self._together(each) if self._possible else None

    def _together(self, each: Sequence[Mapping[int, Array]]) -> dict[int, Array] | None:
        self.interpreter.call({at: np.concatenate([one[at] for one in each]) for at in each[0]})
        assert self._needed is not None
        values = {index: self.interpreter.value(index) for index in self._needed}
        as_many = all(value.shape[:1] == (len(each),) for value in values.values())
        return values if as_many else None

    def _tried(self, like: Mapping[int, Array]) -> bool:
        """Return whether samples together have the bits that each has alone."""
        if self.interpreter.keeps_state or any(a.dtype.kind not in "iuf" for a in like.values()):
            return False
        draw = np.random.default_rng(0)
        each = [
            {
                at: (draw.normal(size=a.shape) if a.dtype.kind == "f" else _whole(draw, a)).astype(
                    a.dtype
                )
                for at, a in like.items()
            }
            for _ in range(TRIED_TOGETHER)
        ]
        assert self._needed is not None
        try:
            alone: list[dict[int, Array]] = []
            for one in each:
                self.interpreter.call(one)
                alone.append({index: self.interpreter.value(index) for index in self._needed})
            together = self._together(each)
        except FAILURES:
            together = None
        possible = together is not None and all(
            value[at : at + 1].tobytes() == alone[at][index].tobytes()
            for index, value in together.items()
            for at in range(len(each))
        )
        if not possible:
            self.interpreter = self._build()  # the sizes that failed may have left it unusable
        return possible


def _whole(draw: np.random.Generator, like: Array) -> Array:
    """Return whole numbers: any bytes, but of wider types, which may be positions, small ones."""
    if like.dtype.itemsize > 1:
        return draw.integers(0, 2, like.shape)
    limits = np.iinfo(like.dtype)
    return draw.integers(limits.min, limits.max, like.shape, endpoint=True)


def missing(
    error: Exception, graph: Graph, subgraph: Subgraph, settings: Settings
) -> Mapping[int, str] | None:
    """Find the operations that lack a kernel, by LiteRT's error.

    Args:
        error: What LiteRT raised.
        subgraph: The called subgraph, whole.

    Returns:
        Reasons by number of operation, for every operation of the type that LiteRT names. Empty if
        the operation is in a part of the file that is not called. None for any other error.
    """
    words = str(error)
    if _SELECT in words:
        return _reasons(graph, subgraph, lambda one: one.type.startswith(_FLEX), settings)
    if found := _CUSTOM.search(f"{words}\n"):
        custom = found[1]
        return _reasons(graph, subgraph, lambda one: one.type == custom, settings)
    if found := _BUILTIN.search(words):
        named = (found[1], int(found[2]))
        return _reasons(graph, subgraph, lambda one: (one.type, one.version) == named, settings)
    if found := _UNKNOWN.search(words):
        name = f"OPERATION_{found[1]}"
        return _reasons(graph, subgraph, lambda one: one.type == name, settings)
    return None


def failing(error: Exception, subgraph: Subgraph, tried: Sequence[int]) -> Mapping[int, str]:
    """Find the operation that has a kernel but fails.

    Args:
        subgraph: The called subgraph, whole.
        tried: Numbers of the operations that were tried, in order.
    """
    for position, name in _NODE.findall(str(error)):
        if int(position) < len(tried):
            number = tried[int(position)]
            if subgraph.operations[number].type == name:
                return {
                    number: f"{_needed(name, number)}, which LiteRT cannot run: "
                    f"{error_summary(error)}"
                }
    return {}


def mark_all_failing(error: Exception, subgraph: Subgraph) -> Mapping[int, str]:
    """Give every operation the reason that LiteRT cannot run the file."""
    reason = f"LiteRT cannot run the file: {error_summary(error)}"
    return dict.fromkeys(range(len(subgraph.operations)), reason)


def _reasons(
    graph: Graph, subgraph: Subgraph, lacks: Callable[[Operation], bool], settings: Settings
) -> Mapping[int, str]:
    found: dict[int, str] = {}
    for number, one in enumerate(subgraph.operations):
        if lacks(one):
            found[number] = f"{_needed(one.type, number)}, {_why(one, settings)}"
        elif inner := next(filter(lacks, _inner(graph, one)), None):
            found[number] = (
                f"{_needed(one.type, number)}, which runs {inner.type}, {_why(inner, settings)}"
            )
    return found


def _inner(graph: Graph, operation: Operation) -> Iterator[Operation]:
    for number in sorted(called_subgraphs(graph, [operation])):
        yield from graph.subgraphs[number].operations


def _needed(name: str, number: int) -> str:
    return f"it needs {name} (operation {number})"


def _why(operation: Operation, settings: Settings) -> str:
    name = operation.type
    if name.startswith(_FLEX):
        return (
            f"TensorFlow's own operation {name.removeprefix(_FLEX)}: LiteRT's Python package runs "
            f"none of those (SELECT_TF_OPS, Flex). Extract from the model that was converted, "
            f"such as a SavedModel"
        )
    if name == _EDGE_TPU:
        return (
            "a program for an Edge TPU. Extract from the file that the Edge TPU compiler was given"
        )
    if name in _XNNPACK and not settings.xnnpack:
        return "which only XNNPACK has: model.xnnpack=true"
    if name in _MEDIAPIPE:
        return "MediaPipe's own operation, which only MediaPipe has"
    if name.isupper() and name.replace("_", "").isalnum():
        return f"of which LiteRT has no version {operation.version}"
    return "a custom operation, which LiteRT does not have"
