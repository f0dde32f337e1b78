"""The adapter of TFLite models: LiteRT's interpreter, called once for each sample or for several.

The interpreter always runs its whole graph. Weights are read without running it, and
what LiteRT cannot run is cut off first. Transforms follow in NumPy, sample by sample.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from extractkit.core.catalog import Catalog, Edges, Kind
from extractkit.core.requests import Rollout, check_values
from extractkit.core.rollout import rollout_of_sample
from extractkit.core.spec import numpy_dtype
from extractkit.core.values import Array, State, add_to_digest, digest_of_plain_data, stacked
from extractkit.errors import ConfigError, JobError, ModelError, SampleError, SelectionError
from extractkit.inputs import InputSpec, Sample, Signature
from extractkit.models import (
    CARRY,
    KEY,
    RESET,
    Arguments,
    CarriesState,
    CarryingProgram,
    Compilation,
    Encoded,
    Fetch,
    HasOwnCall,
    NoOwnCallError,
    OwnCall,
    Program,
    encode_arrays,
)
from extractkit.models.failures import error_summary
from extractkit.models.litert import TFLiteFile
from extractkit.models.litert.catalog import (
    Found,
    consumed_by,
    dequantized,
    find_tensors,
    stored_value,
)
from extractkit.models.litert.entry import Entry, Flow, Probed, call_arrays, signature_of
from extractkit.models.litert.graph import Graph, Runnable
from extractkit.models.litert.interpreter import (
    FAILURES,
    Interpreter,
    Plain,
    Settings,
    Several,
    without_xnnpack,
)
from extractkit.models.litert.state import Access, CarryingInterpreter, KeptState, with_access


@dataclass(frozen=True, eq=False)
class TFLiteModel(HasOwnCall):
    """A `.tflite` file as a `Model`.

    Attributes:
        name: the name for messages.
        file: the file, which has been probed.
        graph: the content of the file.
        entry: the called entry point.
        probed: The result of probing it.
        settings: the interpreter's settings.
        kept: The state that a call changes. Each call starts from the initial state.
    """

    name: str
    file: TFLiteFile
    graph: Graph
    entry: Entry
    probed: Probed
    settings: Settings
    kept: KeptState

    @property
    def state_policy(self) -> str:
        """The policy of `model.state` for a file that keeps a state."""
        return RESET

    @property
    def lacks_gradients(self) -> str:
        """Why no gradients exist."""
        return "the interpreter of TensorFlow Lite has no derivatives of its operations"

    @cached_property
    def signature(self) -> Signature:
        """The inputs of the signature. Each call takes one sample."""
        return signature_of(self.entry, self.name, self.probed.reading)

    @cached_property
    def catalog(self) -> Catalog:
        """Every tensor that the model offers."""
        records = [one.record for one in self.found.values()]
        edges = Edges(lambda: consumed_by(self.graph, list(self.found.values())))
        return Catalog(records, self.name, edges)

    @cached_property
    def found(self) -> Mapping[str, Found]:
        """Every tensor with its index in the file, by address."""
        found = find_tensors(self.graph, self._flow, self.signature, self.probed)
        return {one.record.address: one for one in found}

    @cached_property
    def _flow(self) -> Flow:
        return Flow(self.entry, self.probed.lacking)

    @cached_property
    def _runnable(self) -> Runnable:
        return self._flow.model_of_inputs(self.file, self.graph, self.probed.cut)

    def configure(self, seed: int, deterministic: bool, device: str | None) -> Mapping[str, object]:
        """Return the settings. Nothing is seeded, and LiteRT's kernels are deterministic.

        Raises:
            ConfigError: a device is given.
        """
        if device is not None:
            raise ConfigError(
                f"runtime.device={device!r}: model=tflite computes only on the CPU. Leave it out"
            )
        return {
            "ai-edge-litert": version("ai-edge-litert"),
            "cpus": os.cpu_count(),
            **asdict(self.settings),
        }

    def encode(self, samples: Sequence[Sample]) -> list[Encoded]:
        """Return the arrays unchanged."""
        return [encode_arrays(self.signature, sample) for sample in samples]

    def program(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
        """Return a new interpreter, which keeps intermediates only if they are fetched.

        Raises:
            ConfigError: XLA is requested.
        """
        self._check(fetches, compilation)
        several = Several(lambda: self._interpreter(fetches), self._needed_together(fetches))

        def run(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> list[Array]:
            count = len(next(iter(features.values())))
            each = [self._arrays(features, lengths, position) for position in range(count)]
            with self._of_sample():
                together = several.call(each)
            samples: list[list[Array]] = []
            for position, arrays in enumerate(each):
                if together is None:
                    self._run(several.interpreter, arrays)
                    read = partial(self._read, several.interpreter)
                else:
                    read = partial(self._row, together, position)
                samples.append([self._value(read, fetch) for fetch in fetches])
            return [stacked(values) for values in zip(*samples, strict=True)]

        return run

    def _interpreter(self, fetches: Sequence[Fetch]) -> Interpreter:
        return Interpreter(self._runnable, self.settings, self._preserves(fetches))

    def _needed_together(self, fetches: Sequence[Fetch]) -> list[int] | None:
        """Return the tensors to read after a call; None if calls cannot take several samples."""
        found = [self.found[address] for one in fetches for address in one.request.needed]
        axes = all(spec.sample_axis is not None for spec in self.signature.specs)
        bare = all(one.bare for one in found) and axes
        return [*dict.fromkeys(one.index for one in found)] if bare else None

    def _row(self, values: Mapping[int, Array], position: int, one: Found) -> Array:
        return _real(values[one.index][position : position + 1], one)

    def _check(self, fetches: Sequence[Fetch], compilation: Compilation) -> None:
        check_values((fetch.request for fetch in fetches), self.name, Rollout)
        rollouts = (fetch.request for fetch in fetches if isinstance(fetch.request, Rollout))
        for address in (one for rollout in rollouts for one in rollout.needed):
            if not self.found[address].bare:
                raise SelectionError(
                    f"{address!r} has no axis of samples alone in the file, so that the first axis "
                    f"may not be that of heads, and there is no rollout. Select the maps themselves"
                )
        if compilation.compile != "graph":
            raise ConfigError(
                f"runtime.compile={compilation.compile!r}: LiteRT compiles nothing. "
                f"model=tflite takes runtime.compile=graph"
            )

    def _preserves(self, fetches: Sequence[Fetch]) -> bool:
        """Return whether values between inputs and outputs have to be kept."""
        kept = {*self.entry.inputs.values(), *self.entry.outputs.values()}
        needed = (address for fetch in fetches for address in fetch.request.needed)
        return any(self.found[address].index not in kept for address in needed)

    def _arrays(
        self, features: Mapping[str, Array], lengths: Mapping[str, Array], position: int
    ) -> dict[int, Array]:
        """Return one sample of a batch as the subgraph takes it, without its padding."""
        sizes = {axis: int(own[position]) for axis, own in lengths.items()}
        sample = {
            spec.name: features[spec.name][
                (
                    position,
                    *(slice(None if dim is None else sizes[dim]) for dim in spec.dims),
                    ...,  # keeps a single value an array
                )
            ]
            for spec in self.signature.specs
        }
        return call_arrays(self.entry, self.signature, sample)

    def _run(self, interpreter: Interpreter, arrays: Mapping[int, Array]) -> None:
        with self._of_sample():
            interpreter.call(arrays)

    @contextmanager
    def _of_sample(self) -> Iterator[None]:
        """Raise LiteRT's errors within the block as those of a sample."""
        try:
            yield
        except FAILURES as error:
            raise SampleError(
                f"model {self.name!r} failed on a sample: {error_summary(error)}"
            ) from error

    def _value(self, read: Callable[[Found], Array], fetch: Fetch) -> Array:
        """Return the transformed answer of the last call, without sample axis."""
        values = []
        for address in fetch.request.needed:
            one = self.found[address]
            value = read(one)
            values.append(value[0, ...] if one.bare else value)
        value = rollout_of_sample(values) if isinstance(fetch.request, Rollout) else values[0]
        return value if fetch.pipeline is None else fetch.pipeline.in_numpy(value)

    def _read(self, interpreter: Interpreter, one: Found) -> Array:
        try:
            value = interpreter.value(one.index)
        except FAILURES as error:
            raise SampleError(
                f"{one.record.address!r} has no value: {error_summary(error)}"
            ) from error
        return _real(value, one)

    def own_call(self, checkpoint: int | None = None) -> OwnCall:
        """Return the outputs of a plain interpreter of LiteRT, without preserved intermediates.

        Raises:
            NoOwnCallError: LiteRT cannot run the whole file, and a part of it has no signature.
        """
        return OwnCall("ai_edge_litert.Interpreter", partial(self._own_outputs, self._plain()))

    def _plain(self) -> Plain:
        if not self.probed.cut:
            return Plain(self.file.model(), self.entry.signature, self.entry.inputs, self.settings)
        if self.entry.subgraph.index == 0:
            return Plain(self._runnable.model, None, self.entry.inputs, self.settings)
        raise NoOwnCallError(f"{self.file.at} has operations that LiteRT cannot run")

    def _own_outputs(
        self,
        plain: Plain,
        features: Mapping[str, Array],
        lengths: Mapping[str, Array],
        before: Mapping[int, Array] | None = None,
    ) -> dict[str, Array]:
        """Return the outputs of a batch by address, calling its samples one after the other."""
        wanted = [self.found[record.address] for record in self.catalog.outputs]
        numbers = {one.index for one in wanted}
        named = {name: index for name, index in self.entry.outputs.items() if index in numbers}
        samples: list[list[Array]] = []
        for position in range(len(next(iter(features.values()))) if wanted else 0):
            with self._of_sample():
                values = plain.call(self._arrays(features, lengths, position), named, before)
            real = [(one.bare, _real(values[one.index], one)) for one in wanted]
            samples.append([value[0, ...] if bare else value for bare, value in real])
        addresses = [one.record.address for one in wanted]
        return dict(zip(addresses, map(stacked, zip(*samples, strict=True)), strict=True))

    def constants(self, fetches: Sequence[Fetch]) -> list[Array]:
        """Return stored weights, and tensors that are computed from them alone.

        These tensors need a separate interpreter, which computes nothing else. It does not use
        XNNPACK, which never computes the dequantised weights that it packs.

        Raises:
            JobError: The file can no longer be read.
        """
        check_values((fetch.request for fetch in fetches), self.name)
        wanted = [self.found[fetch.address] for fetch in fetches]
        values = self._stored([one for one in wanted if one.stored])
        if computed := [one for one in wanted if not one.stored]:
            indices = [*dict.fromkeys(one.index for one in computed)]
            runnable = self._flow.model_of_constants(self.file, self.graph, indices)
            interpreter = Interpreter(runnable, without_xnnpack(self.settings), preserve=True)
            self._run(interpreter, {})
            values |= {one.record.address: self._read(interpreter, one) for one in computed}
        return [
            value if fetch.pipeline is None else fetch.pipeline.in_numpy(value)
            for fetch in fetches
            for value in (values[fetch.address],)
        ]

    def _stored(self, wanted: Sequence[Found]) -> dict[str, Array]:
        """Return the values of weights by address, read from the file."""
        found: dict[str, Array] = {}
        try:
            with self.file.opened() as content:
                for one in wanted:
                    tensor = self.graph.subgraphs[one.subgraph].tensors[one.index]
                    found[one.record.address] = _real(stored_value(content, tensor), one)
        except (OSError, ValueError) as error:
            raise JobError(
                f"{self.file.at} can no longer be read: {error_summary(error)}"
            ) from error
        return found

    def weights_digest(self) -> str:
        """Return the SHA-256 over every weight's address, dtype, shape, content and scale."""
        sha = hashlib.sha256()
        for one in self._weights():
            address = one.record.address
            array = self._stored([one])[address]
            add_to_digest(sha, address, str(array.dtype), array)
        return sha.hexdigest()

    def definition_digest(self) -> str:
        """Return the SHA-256 over the whole file, weights included, and its entry point."""
        return digest_of_plain_data(
            [
                self._content_digest,
                self.entry.signature,
                asdict(self.probed.reading),
                self.settings.xnnpack,
            ]
        )

    @property
    def file_digests(self) -> Mapping[Path, str]:
        """See `HashesFiles`."""
        return {} if self.file.member else {self.file.path.absolute(): self._content_digest}

    @cached_property
    def _content_digest(self) -> str:
        with self.file.opened() as opened:
            return hashlib.sha256(opened).hexdigest()

    def describe(self) -> Mapping[str, object]:
        """Return size, signature, file, and whether reading intermediates changes outputs."""
        weights = [one for one in self._weights() if one.quantization is None]
        sizes = [one.record.spec.shape for one in weights if one.record.spec.dims is not None]
        return {
            "name": self.name,
            "class": "TFLite",
            "description": self.graph.description,
            "signature": self.entry.signature,
            "operations": len(self.entry.subgraph.operations),
            "parameters": sum(int(np.prod([size or 0 for size in shape])) for shape in sizes),
            "preserving_intermediates_changes_outputs_by": self.probed.change,
            "lacking": sorted({*self.probed.lacking.values()}),
            **self._quantized(),
            **({"state": self.state_policy, "states": self.kept.names} if self.kept.names else {}),
            "path": str(self.file.path.resolve()),
            **({} if self.file.member is None else {"member": self.file.member}),
        }

    def _quantized(self) -> Mapping[str, object]:
        """Return the scales of quantised tensors by address, without those that have several."""
        found: dict[str, list[Mapping[str, float]]] = {}
        for one in self.found.values():
            parameters = self.graph.subgraphs[one.subgraph].tensors[one.index].quantization
            raw = one.quantization is None and one.record.spec.dtype.startswith(("int", "uint"))
            if raw and parameters is not None and len(parameters.scales) == 1:
                scale, zero_point = float(parameters.scales[0]), int(parameters.zero_points[0])
                found[one.record.address] = [{"scale": scale, "zero_point": zero_point}]
        return {"quantized": found} if found else {}

    def _weights(self) -> list[Found]:
        return [
            one
            for one in self.found.values()
            if one.record.kind is Kind.WEIGHT and one.record.extractable
        ]


def _real(value: Array, one: Found) -> Array:
    """Return the value raw or dequantised, as listed."""
    return value if one.quantization is None else dequantized(value, one.quantization)


@dataclass(frozen=True, eq=False)
class CarryingTFLiteModel(TFLiteModel, CarriesState):
    """A `.tflite` file whose state is carried from sample to sample.

    The programs of `program` start each call from the initial state.
    """

    @property
    def state_policy(self) -> str:
        """The policy: the state is carried."""
        return CARRY

    def samples_carried(self) -> int:
        """Return 1: each call takes one sample.

        Raises:
            ModelError: The size of a state follows the sizes of the inputs.
        """
        for tensor in self.kept.tensors:
            if len({shapes[tensor.index] for shapes in self.probed.shapes}) > 1:
                raise ModelError(
                    f"{KEY}={CARRY}: {self.file.at}: the size of state {tensor.name!r} follows the "
                    f"sizes of the inputs, so samples of other sizes cannot take it over"
                )
        return 1

    def carrying_program(
        self, fetches: Sequence[Fetch], compilation: Compilation
    ) -> CarryingProgram:
        """Return an interpreter of its own, whose state is assigned before each call."""
        self._check(fetches, compilation)
        runnable, access = self._reachable
        preserve = self._preserves(fetches)
        interpreter = CarryingInterpreter(runnable, self.settings, preserve, access)
        read = partial(self._read, interpreter)

        def call(
            features: Mapping[str, Array], lengths: Mapping[str, Array], state: State
        ) -> tuple[Sequence[Array], State]:
            with self._of_sample():
                after = interpreter.call_from(self._arrays(features, lengths, 0), state)
            return [stacked([self._value(read, fetch)]) for fetch in fetches], after

        return CarryingProgram(1, self._initial(interpreter), call)

    @cached_property
    def _reachable(self) -> tuple[Runnable, Access]:
        """The model and the way to its state."""
        tensors = tuple(one.index for one in self.kept.tensors)
        if not self.kept.variables:
            return self._runnable, Access(tensors, None)
        model = self._runnable.model
        content = model if isinstance(model, bytes) else model.read_bytes()
        try:
            content, subgraphs = with_access(content, self.kept)
        except RuntimeError as error:
            raise ModelError(
                f"{KEY}={CARRY}: {self.file.at} is too large for operations that read its state: "
                f"{error_summary(error)}"
            ) from error
        return replace(self._runnable, model=content), Access(tensors, subgraphs)

    def _initial(self, interpreter: CarryingInterpreter) -> State:
        base = self.probed.sizes.base
        sizes = {axis: np.array([base[axis]]) for axis in self.signature.free_axes}
        room = {spec.name: _room(spec, base) for spec in self.signature.specs}
        try:
            return interpreter.initial(self._arrays(room, sizes, 0))
        except FAILURES as error:
            raise ModelError(
                f"{KEY}={CARRY}: the state of {self.file.at} cannot be read: {error_summary(error)}"
            ) from error

    def own_call(self, checkpoint: int | None = None) -> OwnCall:
        """See `TFLiteModel`. A second call of the same interpreter starts from its own state.

        LiteRT resets variable tensors if an input changes its size. So a file with variable tensors
        and free axes cannot be compared this way.
        """
        plain = self._plain()

        def outputs_after(
            before: Arguments, features: Mapping[str, Array], lengths: Mapping[str, Array]
        ) -> Mapping[str, Array]:
            return self._own_outputs(plain, features, lengths, self._arrays(*before, 0))

        keeps = not (self.kept.tensors and self.signature.free_axes)
        return replace(super().own_call(checkpoint), outputs_after=outputs_after if keeps else None)


def _room(spec: InputSpec, sizes: Mapping[str, int]) -> Array:
    """Return an array of one sample, whose values are not used."""
    axes = zip(spec.shape, spec.dims, strict=True)
    own = [sizes[str(dim)] if size is None else size for size, dim in axes]
    return np.empty((1, *own), numpy_dtype(spec.dtype))
