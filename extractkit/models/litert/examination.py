"""What a child process does with a TFLite file that nobody has opened yet; see `probe`."""

import json
import math
import os
import resource
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from extractkit.errors import ModelError
from extractkit.inputs.protocol import Signature
from extractkit.inputs.random import RandomSource
from extractkit.models.axes import RawShape, Sizes
from extractkit.models.foreign import told
from extractkit.models.litert.entry import (
    DTYPES,
    READINGS,
    Entry,
    Reading,
    call_arrays,
    entry_of,
    signature_of,
)
from extractkit.models.litert.graph import Graph, read_graph
from extractkit.models.litert.interpreter import FAILURES, Interpreter, Settings
from extractkit.models.litert.probe import Probed
from extractkit.values import Array

# Sizes of free axes: a base, and an enlarged one. A model may refuse short ones, or long ones.
_CANDIDATES = ((37, 53), (101, 211), (11, 19), (331, 457), (16381, 20011))
# Two bytes of which no tensor consists by itself, both times.
_MARKS = (0xA5, 0x5A)
# Whole numbers of 32 bits and more are left alone: LiteRT computes some shapes ahead of the call.
_MARKED = ("FLOAT16", "FLOAT32", "INT8", "UINT8", "INT16")


def examine(path: Path, signature: str | None, settings: Settings) -> Probed:
    """Read the file and run it at several sizes, in this process.

    Raises:
        ModelError: it is damaged, no such signature, or an input that is not of numbers.
        Exception: whatever else a damaged file leads to, if the process survives.
    """
    graph, entry = _read(path, signature)
    first_failure: Exception | None = None
    for reading, takes, sizes in _attempts(entry):
        try:
            return _Examination(path, graph, entry, settings, takes, sizes).made(reading)
        except (*FAILURES, MemoryError) as error:
            first_failure = first_failure or error
    raise first_failure or ValueError("it has no inputs that could be given")


def _read(path: Path, signature: str | None) -> tuple[Graph, Entry]:
    try:
        graph = read_graph(path)
        return graph, entry_of(graph, signature)
    except ModelError:
        raise
    except Exception as error:  # offsets that lead nowhere: struct.error, IndexError, TypeError …
        raise ModelError(f"model.path={str(path)!r} is damaged: {told(error)}") from error


def _attempts(entry: Entry) -> Iterator[tuple[Reading, Signature, Sizes]]:
    tried: list[Signature] = []
    for reading in READINGS:
        takes = signature_of(entry, "tflite", reading)
        if takes in tried:
            continue
        tried.append(takes)
        for base, enlarged in _CANDIDATES if takes.free_axes else ((0, 0),):
            at = {axis: 2 * position for position, axis in enumerate(takes.free_axes)}
            yield (
                reading,
                takes,
                Sizes(
                    {axis: base + more for axis, more in at.items()},
                    {axis: enlarged + more for axis, more in at.items()},
                ),
            )


@dataclass(frozen=True)
class _Examination:
    path: Path
    graph: Graph
    entry: Entry
    settings: Settings
    takes: Signature
    sizes: Sizes

    def made(self, reading: Reading) -> Probed:
        zeros = {
            index: np.zeros_like(array) for index, array in self._drawn(self.sizes.base).items()
        }
        preserving = self._interpreter(preserve=True)
        preserving.call(zeros)
        other_shapes = self._shapes(preserving)
        shapes = []
        for at in self.sizes.trials[::-1]:  # the base comes last, and stays to be compared
            preserving.call(self._drawn(at))
            shapes.append(self._shapes(preserving))
        self._read_constants(zeros)
        return Probed(
            tied=reading.tied,
            leading=reading.leading,
            sizes=self.sizes,
            shapes=tuple(shapes[::-1]),
            other_shapes=other_shapes,
            unwritten=frozenset(self._unwritten()),
            change=self._change(preserving),
        )

    def _interpreter(self, *, preserve: bool) -> Interpreter:
        return Interpreter(self.path, self.entry.subgraph, self.settings, preserve)

    def _drawn(self, at: Mapping[str, int]) -> dict[int, Array]:
        source = RandomSource(self.takes.specs, at, seed=0, count=1)
        features = source.read(0, 1)[0].data
        assert isinstance(features, Mapping)
        return call_arrays(self.entry, self.takes, features)

    def _shapes(self, interpreter: Interpreter) -> tuple[RawShape, ...]:
        found: list[RawShape] = []
        for tensor in self.entry.subgraph.tensors:
            try:
                readable = tensor.type in DTYPES
                found.append(interpreter.value(tensor.index).shape if readable else None)
            except (*FAILURES, MemoryError):
                found.append(None)
        return tuple(found)

    def _read_constants(self, zeros: Mapping[int, Array]) -> None:
        reference = Interpreter.reference(self.path, self.entry.subgraph, self.settings)
        reference.call(zeros)
        self._shapes(reference)
        for subgraph in self.graph.subgraphs:
            for tensor in subgraph.tensors:
                if tensor.constant and tensor.type in DTYPES:
                    reference.value(tensor.index, subgraph.index)

    def _change(self, preserving: Interpreter) -> float:
        """How far outputs at the base are from those of an interpreter that preserves nothing."""
        plain = self._interpreter(preserve=False)
        plain.call(self._drawn(self.sizes.base))
        first = self._outputs(plain)
        plain.call(self._drawn(self.sizes.base))
        second = self._outputs(plain)
        return max(
            (
                _difference(first[index], value)
                for index, value in self._outputs(preserving).items()
                # What differs by itself, being random, cannot be compared.
                if _same(first[index], second[index])
            ),
            default=0.0,
        )

    def _outputs(self, interpreter: Interpreter) -> dict[int, Array]:
        tensors = self.entry.subgraph.tensors
        return {
            index: interpreter.value(index)
            for index in self.entry.outputs.values()
            if tensors[index].type in DTYPES
        }

    def _unwritten(self) -> set[int]:
        """Tensors that still hold a mark put there before the call, whichever mark it is."""
        if not self.settings.xnnpack:
            return set()
        subgraph = self.entry.subgraph
        made = {index for operation in subgraph.operations for index in operation.outputs}
        marked = {index for index in made if subgraph.tensors[index].type in _MARKED}
        arrays = self._drawn(self.sizes.base)
        for mark in _MARKS:
            interpreter = self._interpreter(preserve=True)
            interpreter.allocate(arrays)
            for index in marked:
                interpreter.overwrite(index, mark)
            interpreter.call(arrays)
            marked = {index for index in marked if _holds(interpreter.value(index), mark)}
        return marked


def _holds(value: Array, mark: int) -> bool:
    return value.size > 0 and set(value.tobytes()) == {mark}


def _same(one: Array, other: Array) -> bool:
    return one.shape == other.shape and one.tobytes() == other.tobytes()


def _difference(one: Array, other: Array) -> float:
    """The largest one; 0 only where both are the same bit for bit."""
    if _same(one, other):
        return 0.0
    if one.shape != other.shape:
        return math.inf
    largest = float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max())
    return largest if largest > 0 else math.inf


def _limit_memory() -> None:
    """Nothing that the machine could not hold, and no core file."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(asked: str) -> None:
    """The child: examine what is asked for, and write what was found to standard output."""
    _limit_memory()
    request = json.loads(asked)
    path, signature = Path(request.pop("path")), request.pop("signature")
    try:
        found = asdict(examine(path, signature, Settings(**request)))
        answer = {**found, "unwritten": sorted(found["unwritten"])}
    except ModelError as error:
        answer = {"refused": str(error)}
    except Exception as error:  # LiteRT's own refusals, and what damage leads to later
        raise SystemExit(told(error)) from error
    sys.stdout.write(f"\n{json.dumps(answer)}\n")


if __name__ == "__main__":
    main(sys.argv[1])
