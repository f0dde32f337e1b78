"""LiteRT's interpreter, one sample per call. The only module that uses its Python interface.

An interpreter always runs its whole subgraph: it cannot stop at the wanted tensors.
"""

import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from extractkit.core.values import Array, as_array
from extractkit.models.foreign import noise_to_log
from extractkit.models.litert.graph import Subgraph
from extractkit.models.litert_internals import wrapper_of

FAILURES = (ValueError, RuntimeError)
"""Errors of a failed call of LiteRT, except a lack of memory, which is not caused by samples."""

_HANDLE = "VAR_HANDLE"

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


@dataclass(frozen=True, eq=False)
class Runnable:
    """A model for LiteRT, and its called signature.

    Attributes:
        model: The path of a file, or the content of one.
        subgraph: The called subgraph.
    """

    model: Path | bytes
    subgraph: Subgraph


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
        self._has_resources = any(one.type == _HANDLE for one in subgraph.operations)
        self._has_variables = any(tensor.variable for tensor in subgraph.tensors)
        self._allocated = False
        self._wrapper = self._built()

    def call(self, arrays: Mapping[int, Array]) -> None:
        """Run the subgraph on arrays for its inputs, by number.

        Raises:
            ValueError, RuntimeError, MemoryError: LiteRT cannot do it; its own words.
        """
        if self._allocated and self._has_resources:
            self._wrapper = self._built()
        self.allocate(arrays)
        if self._has_variables:
            self._wrapper.ResetVariableTensors()
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
        where = self._subgraph.index
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

    def call(self, arrays: Mapping[int, Array], outputs: Mapping[str, int]) -> dict[int, Array]:
        """Return outputs by number.

        Args:
            arrays: Arrays for the inputs, by number.
            outputs: Numbers of the wanted outputs by name.

        Raises:
            ValueError, RuntimeError, MemoryError: LiteRT cannot do it; its own words.
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
        given = {name: np.asarray(arrays[at], order="C") for name, at in self.inputs.items()}
        if self.signature is not None:
            returned = interpreter.get_signature_runner(self.signature)(**given)
            return {index: as_array(returned[name]) for name, index in outputs.items()}
        for name, index in self.inputs.items():
            interpreter.resize_tensor_input(index, given[name].shape)
        interpreter.allocate_tensors()
        for name, index in self.inputs.items():
            interpreter.set_tensor(index, given[name])
        interpreter.invoke()
        return {index: as_array(interpreter.get_tensor(index)) for index in outputs.values()}
