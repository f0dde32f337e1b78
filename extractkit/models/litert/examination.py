"""Examination of an untrusted TFLite file, by a child process before this one opens it.

LiteRT trusts what it reads: one wrong bit can end the process, or make it ask for any amount of
memory. So a child makes the calls that will be made later.
"""

import json
import math
import os
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from extractkit.core.spec import TEXT
from extractkit.core.values import Array
from extractkit.errors import ModelError
from extractkit.inputs import InputSpec, Signature
from extractkit.inputs.random import RandomSource
from extractkit.models.axes import RawShape, Sizes
from extractkit.models.failures import error_summary
from extractkit.models.isolation import ask
from extractkit.models.litert import TFLiteFile
from extractkit.models.litert.catalog import stored_value
from extractkit.models.litert.entry import (
    DTYPES,
    READINGS,
    Entry,
    Flow,
    Probed,
    Reading,
    call_arrays,
    entry_of,
    signature_of,
)
from extractkit.models.litert.graph import Graph, Runnable, Subgraph, read_graph
from extractkit.models.litert.interpreter import (
    FAILURES,
    Interpreter,
    Settings,
    failing,
    mark_all_failing,
    missing,
    without_xnnpack,
)
from extractkit.models.litert.state import unassigned_reads

_CHILD = "extractkit.models.litert.examination"


def probe(file: TFLiteFile, signature: str | None, settings: Settings) -> Probed:
    """Examine the file in a child process.

    Raises:
        ModelError: It cannot be read, or the child crashed.
    """
    asked = json.dumps({**file.to_json(), "signature": signature, **asdict(settings)})
    child = ask(_CHILD, asked, file.path, file.at)
    if child.code:
        raise ModelError(f"{file.at} cannot be run by LiteRT: {child.last_words or 'no message'}")
    answer = json.loads(child.output.splitlines()[-1])
    if "refused" in answer:
        raise ModelError(answer["refused"])
    return Probed(
        tied=answer["tied"],
        leading=answer["leading"],
        sizes=Sizes(**answer["sizes"]),
        shapes=tuple(_shapes(trial) for trial in answer["shapes"]),
        other_shapes=_shapes(answer["other_shapes"]),
        unwritten=frozenset(answer["unwritten"]),
        change=answer["change"],
        cut=answer["cut"],
        lacking={int(number): reason for number, reason in answer["lacking"].items()},
    )


def _shapes(listed: Sequence[Sequence[int] | None]) -> tuple[RawShape, ...]:
    return tuple(None if shape is None else tuple(shape) for shape in listed)


_Shapes = tuple[RawShape, ...]

# Sizes of free axes: a base and an enlarged one. A model may refuse short or long ones.
_CANDIDATES = ((37, 53), (101, 211), (11, 19), (331, 457), (16381, 20011))
# Two fill bytes. No computed tensor consists of the same one in both calls.
_MARKS = (0xA5, 0x5A)
# Integers of 32 bits and more are not changed: LiteRT computes some shapes before the call.
_MARKED = ("FLOAT16", "FLOAT32", "INT8", "UINT8", "INT16")


def examine(file: TFLiteFile, signature: str | None, settings: Settings) -> Probed:
    """Read the file and run it at several sizes, in this process.

    Operations that LiteRT cannot run are found by trying, and cut off.

    Raises:
        ModelError: the file is damaged, the signature does not exist, or an input has another type
            than numbers or strings.
        Exception: Any other error of a damaged file that does not crash the process.
    """
    graph, entry = _read(file, signature)
    lacking: Mapping[int, str] = unassigned_reads(graph, entry.subgraph)
    cut_off = bool(lacking)
    while True:
        flow = Flow(entry, lacking)
        probed = _tried(file, graph, flow, settings, cut_off)
        if isinstance(probed, Probed):
            return probed
        named = missing(probed, graph, entry.subgraph, settings)
        found = failing(probed, entry.subgraph, _given(flow, cut_off)) if named is None else named
        # The missing operation may be in a part that is not called: then cutting helps.
        only_cut = named is not None and not cut_off
        if not only_cut and not found.keys() - lacking.keys():
            found = mark_all_failing(probed, entry.subgraph)
            if not found.keys() - lacking.keys():
                raise probed
        lacking = {**found, **lacking}
        cut_off = True


def _given(flow: Flow, cut_off: bool) -> Sequence[int]:
    """Return the numbers of the operations that were tried."""
    return flow.runnable_for_inputs()[0] if cut_off else range(len(flow.subgraph.operations))


def _tried(
    file: TFLiteFile, graph: Graph, flow: Flow, settings: Settings, cut_off: bool
) -> Probed | Exception:
    """Return the results at the first sizes that the file accepts, or the first failure."""
    runnable = flow.model_of_inputs(file, graph, cut_off)
    failure: Exception | None = None
    for reading, takes, sizes in _attempts(flow.entry):
        examination = _Examination(file, graph, flow, runnable, settings, takes, sizes)
        try:
            return examination.made(reading, cut_off)
        except (*FAILURES, MemoryError) as error:
            failure = failure or error
            if missing(error, graph, flow.subgraph, settings) is not None:
                return error  # at any sizes
    assert failure is not None  # there is an attempt, even without free axes
    return failure


def _read(file: TFLiteFile, signature: str | None) -> tuple[Graph, Entry]:
    try:
        with file.opened() as content:
            graph = read_graph(content)
            for tensor in (one for subgraph in graph.subgraphs for one in subgraph.tensors):
                if tensor.constant and tensor.type in DTYPES:
                    stored_value(content, tensor)
        return graph, entry_of(graph, signature)
    except ModelError:
        raise
    except Exception as error:  # offsets that lead nowhere: struct.error, IndexError, TypeError …
        raise ModelError(f"{file.at} is damaged: {error_summary(error)}") from error


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
    file: TFLiteFile
    graph: Graph
    flow: Flow
    runnable: Runnable
    settings: Settings
    takes: Signature
    sizes: Sizes

    @property
    def subgraph(self) -> Subgraph:
        return self.flow.subgraph

    def made(self, reading: Reading, cut_off: bool) -> Probed:
        zeros = {
            index: np.full_like(array, b"" if array.dtype.hasobject else 0)
            for index, array in self._drawn(self.sizes.base).items()
        }
        preserving = self._interpreter(preserve=True)
        preserving.call(zeros)
        fixed = self._fixed()
        other_shapes = self._shapes(preserving, fixed)
        shapes = []
        for at in self.sizes.trials[
            ::-1
        ]:  # the base is last, so that its values remain for the comparison
            preserving.call(self._drawn(at))
            shapes.append(self._shapes(preserving, fixed))
        return Probed(
            tied=reading.tied,
            leading=reading.leading,
            sizes=self.sizes,
            shapes=tuple(shapes[::-1]),
            other_shapes=other_shapes,
            unwritten=frozenset(self._unwritten()),
            change=self._change(preserving),
            cut=cut_off,
            lacking=self.flow.lacking,
        )

    def _interpreter(self, *, preserve: bool) -> Interpreter:
        return Interpreter(self.runnable, self.settings, preserve)

    def _drawn(self, at: Mapping[str, int]) -> dict[int, Array]:
        numbers = tuple(spec for spec in self.takes.specs if spec.dtype != TEXT)
        features = RandomSource(numbers, at, seed=0, count=1).read(0, 1)[0].data
        assert isinstance(features, Mapping)
        strings = {
            spec.name: np.full(_sizes(spec, at), b"a", object)
            for spec in self.takes.specs
            if spec.dtype == TEXT
        }
        return call_arrays(self.flow.entry, self.takes, {**features, **strings})

    def _shapes(self, interpreter: Interpreter, fixed: Mapping[int, RawShape]) -> _Shapes:
        given = {*self.flow.entry.inputs.values()}
        found: list[RawShape] = []
        for tensor in self.subgraph.tensors:
            index = tensor.index
            if tensor.constant:
                found.append(tensor.shape)
            elif index in fixed:
                found.append(fixed[index])
            elif tensor.type in DTYPES and (self._made(index) or index in given or tensor.variable):
                found.append(_shape(interpreter, index))
            else:
                found.append(None)
        return tuple(found)

    def _made(self, index: int) -> bool:
        number = self.flow.made_by.get(index)
        return number is not None and number not in self.flow.blocked

    def _fixed(self) -> Mapping[int, RawShape]:
        """Return the shapes of tensors that depend on constants alone, computed as in a job."""
        tensors = self.subgraph.tensors
        fixed = [index for index in self.flow.fixed if tensors[index].type in DTYPES]
        if not fixed:
            return {}
        runnable = self.flow.model_of_constants(self.file, self.graph, fixed)
        interpreter = Interpreter(runnable, without_xnnpack(self.settings), preserve=True)
        interpreter.call({})
        return {index: _shape(interpreter, index) for index in fixed}

    def _change(self, preserving: Interpreter) -> float:
        """Return the largest difference to a plain interpreter's outputs, at the base sizes."""
        plain = self._interpreter(preserve=False)
        plain.call(self._drawn(self.sizes.base))
        first = self._outputs(plain)
        plain.call(self._drawn(self.sizes.base))
        second = self._outputs(plain)
        return max(
            (
                _difference(first[index], value)
                for index, value in self._outputs(preserving).items()
                # Random outputs cannot be compared.
                if _same(first[index], second[index])
            ),
            default=0.0,
        )

    def _outputs(self, interpreter: Interpreter) -> dict[int, Array]:
        tensors = self.subgraph.tensors
        return {
            index: interpreter.value(index)
            for index in self.flow.entry.outputs.values()
            if tensors[index].type in DTYPES and self._made(index)
        }

    def _unwritten(self) -> set[int]:
        """Return the tensors that still hold the fill byte from before the call, for both bytes."""
        if not self.settings.xnnpack:
            return set()
        made = {i for operation in self.runnable.subgraph.operations for i in operation.outputs}
        marked = {index for index in made if self.subgraph.tensors[index].type in _MARKED}
        arrays = self._drawn(self.sizes.base)
        for mark in _MARKS:
            interpreter = self._interpreter(preserve=True)
            interpreter.allocate(arrays)
            for index in marked:
                interpreter.overwrite(index, mark)
            interpreter.call(arrays)
            marked = {index for index in marked if self._marked(interpreter, index, mark)}
        return marked

    def _marked(self, interpreter: Interpreter, index: int, mark: int) -> bool:
        try:
            value = interpreter.value(index)
        except FAILURES:  # it has no memory, like an output of a loop that nothing takes
            return False
        return value.size > 0 and set(value.tobytes()) == {mark}


def _sizes(spec: InputSpec, at: Mapping[str, int]) -> tuple[int, ...]:
    pairs = zip(spec.shape, spec.dims, strict=True)
    return tuple(at[str(dim)] if size is None else size for size, dim in pairs)


def _shape(interpreter: Interpreter, index: int) -> RawShape:
    try:
        return tuple(interpreter.value(index).shape)
    except (*FAILURES, MemoryError):
        return None


def _same(one: Array, other: Array) -> bool:
    if one.dtype.hasobject:  # its bytes contain offsets of the strings
        return one.shape == other.shape and one.tolist() == other.tolist()
    return one.shape == other.shape and one.tobytes() == other.tobytes()


def _difference(one: Array, other: Array) -> float:
    """Return the largest difference; 0 only if both are bitwise identical."""
    if _same(one, other):
        return 0.0
    if one.shape != other.shape or one.dtype.hasobject:
        return math.inf
    largest = float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max())
    return largest if largest > 0 else math.inf


def _limit_memory() -> None:
    """Limit memory to that of the machine, and disable core files."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(asked: str) -> None:
    """Run the child: examine the file, and write the result to standard output."""
    _limit_memory()
    request = json.loads(asked)
    file = TFLiteFile(Path(request.pop("path")), request.pop("member"))
    signature = request.pop("signature")
    try:
        found = asdict(examine(file, signature, Settings(**request)))
        answer = {**found, "unwritten": sorted(found["unwritten"])}
    except ModelError as error:
        answer = {"refused": str(error)}
    except Exception as error:  # LiteRT's own errors, and later effects of damage
        raise SystemExit(error_summary(error)) from error
    sys.stdout.write(f"\n{json.dumps(answer)}\n")


if __name__ == "__main__":
    main(sys.argv[1])
