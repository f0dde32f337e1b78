"""The adapter of TFLite models: LiteRT's interpreter, called once for each sample.

The interpreter runs the whole graph whatever is fetched, which nothing in LiteRT can change; only
weights are read without running it. Transforms follow in NumPy, sample by sample.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np

from extractkit.errors import ConfigError, SampleError
from extractkit.inputs.protocol import Sample, Signature
from extractkit.models.digests import of_plain_data, update
from extractkit.models.encoding import encode_arrays
from extractkit.models.foreign import told
from extractkit.models.litert.catalog import Found, find_tensors
from extractkit.models.litert.entry import Entry, call_arrays, signature_of
from extractkit.models.litert.graph import Graph
from extractkit.models.litert.interpreter import FAILURES, Interpreter, Settings
from extractkit.models.litert.probe import Probed
from extractkit.models.litert.quantization import dequantized
from extractkit.models.numpy_transforms import stacked, transformed
from extractkit.models.protocol import Compilation, Encoded, Fetch, Program
from extractkit.tensors import Catalog, Kind
from extractkit.values import Array


@dataclass(frozen=True, eq=False)
class TFLiteModel:
    """A `.tflite` file behind the `Model` protocol.

    Attributes:
        name: for messages.
        path: the file, which has been probed.
        graph: what it says.
        entry: what of it is called.
        probed: what running it told.
        settings: how it computes.
    """

    name: str
    path: Path
    graph: Graph
    entry: Entry
    probed: Probed
    settings: Settings
    masks_padding = False

    @cached_property
    def signature(self) -> Signature:
        """The signature's inputs; each call takes one sample."""
        return signature_of(self.entry, self.name, self.probed.reading)

    @cached_property
    def catalog(self) -> Catalog:
        """Every tensor that the model offers."""
        return Catalog([one.record for one in self._found.values()], self.name)

    @cached_property
    def _found(self) -> Mapping[str, Found]:
        found = find_tensors(self.graph, self.entry, self.signature, self.probed)
        return {one.record.address: one for one in found}

    def configure(self, seed: int, deterministic: bool, device: str | None) -> Mapping[str, object]:
        """Nothing to seed, and LiteRT's kernels are deterministic for a number of threads.

        Raises:
            ConfigError: a device is asked for.
        """
        if device is not None:
            raise ConfigError(
                f"runtime.device={device!r}: model=tflite computes on the CPU alone. Leave it out"
            )
        return {
            "ai-edge-litert": version("ai-edge-litert"),
            "cpus": os.cpu_count(),
            **asdict(self.settings),
        }

    def encode(self, samples: Sequence[Sample]) -> list[Encoded]:
        """Arrays as they are."""
        return [encode_arrays(self.signature, sample) for sample in samples]

    def program(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
        """An interpreter of its own, which keeps intermediates only where they are fetched.

        Raises:
            ConfigError: XLA is asked for.
        """
        if compilation.compile != "graph":
            raise ConfigError(
                f"runtime.compile={compilation.compile!r}: LiteRT compiles nothing. "
                f"model=tflite takes runtime.compile=graph"
            )
        wanted = [self._found[fetch.address] for fetch in fetches]
        kept = {*self.entry.inputs.values(), *self.entry.outputs.values()}
        preserve = any(one.index not in kept for one in wanted)
        interpreter = Interpreter(self.path, self.entry.subgraph, self.settings, preserve)

        def run(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> list[Array]:
            samples: list[list[Array]] = []
            for position in range(len(next(iter(features.values())))):
                sizes = {axis: int(own[position]) for axis, own in lengths.items()}
                self._call(interpreter, self._sample(features, position, sizes))
                samples.append([self._value(interpreter, *pair) for pair in pairs])
            return [stacked(values) for values in zip(*samples, strict=True)]

        pairs = [*zip(wanted, fetches, strict=True)]
        return run

    def _sample(
        self, features: Mapping[str, Array], position: int, sizes: Mapping[str, int]
    ) -> dict[str, Array]:
        """One sample of a batch, without its padding."""
        return {
            spec.name: features[spec.name][position][
                tuple(slice(None if dim is None else sizes[dim]) for dim in spec.dims)
            ]
            for spec in self.signature.specs
        }

    def _call(self, interpreter: Interpreter, sample: Mapping[str, Array]) -> None:
        try:
            interpreter.call(call_arrays(self.entry, self.signature, sample))
        except FAILURES as error:
            raise SampleError(f"model {self.name!r} failed on a sample: {told(error)}") from error

    def _value(self, interpreter: Interpreter, one: Found, fetch: Fetch) -> Array:
        """The value of the last call, without sample axis, transformed."""
        value = self._read(interpreter, one)
        if one.record.depends_on_inputs:
            value = value[0] if one.bare else value
            return value if fetch.axes is None else transformed(value, fetch.axes)
        return value if fetch.axes is None else transformed(value, fetch.axes, first=0)

    def _read(self, interpreter: Interpreter, one: Found) -> Array:
        try:
            value = interpreter.value(one.index, one.subgraph)
        except FAILURES as error:
            raise SampleError(f"{one.record.address!r} has no value: {told(error)}") from error
        return value if one.quantization is None else dequantized(value, one.quantization)

    def direct_outputs(
        self, features: Mapping[str, Array], lengths: Mapping[str, Array]
    ) -> dict[str, Array]:
        """The outputs by an interpreter of their own, which preserves no intermediates."""
        addresses = [record.address for record in self.catalog.outputs]
        if not addresses:
            return {}
        program = self.program([Fetch(address) for address in addresses], Compilation())
        return dict(zip(addresses, program(features, lengths), strict=True))

    def constants(self, fetches: Sequence[Fetch]) -> list[Array]:
        """Weights as the file holds them, and what is computed from them alone.

        The latter needs a call; its inputs are zeros.
        """
        wanted = [self._found[fetch.address] for fetch in fetches]
        interpreter = Interpreter.reference(self.path, self.entry.subgraph, self.settings)
        if not all(one.stored for one in wanted):
            self._call(interpreter, self._zeros())
        return [
            self._value(interpreter, one, fetch) for one, fetch in zip(wanted, fetches, strict=True)
        ]

    def _zeros(self) -> dict[str, Array]:
        base = self.probed.sizes.base
        return {
            spec.name: np.zeros(
                [
                    base[str(dim)] if size is None else size
                    for size, dim in zip(spec.shape, spec.dims, strict=True)
                ],
                spec.dtype,
            )
            for spec in self.signature.specs
        }

    def weights_digest(self) -> str:
        """SHA-256 over every weight's address, dtype, shape and content, and what it stands for."""
        sha = hashlib.sha256()
        interpreter = Interpreter.reference(self.path, self.entry.subgraph, self.settings)
        for one in self._weights():
            array = self._read(interpreter, one)
            update(sha, one.record.address, str(array.dtype), array)
        return sha.hexdigest()

    def definition_digest(self) -> str:
        """SHA-256 over the file as it is, its weights too, and what of it is called."""
        with self.path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        return of_plain_data(
            [content, self.entry.signature, asdict(self.probed.reading), self.settings.xnnpack]
        )

    def describe(self) -> Mapping[str, object]:
        """Size, signature, file, and whether reading intermediates leaves the outputs bitwise."""
        sizes = [one.record.shape or () for one in self._weights() if one.quantization is None]
        return {
            "name": self.name,
            "class": "TFLite",
            "description": self.graph.description,
            "signature": self.entry.signature,
            "operations": len(self.entry.subgraph.operations),
            "parameters": sum(int(np.prod([size or 0 for size in shape])) for shape in sizes),
            "preserving_intermediates_changes_outputs_by": self.probed.change,
            "path": str(self.path.resolve()),
        }

    def _weights(self) -> list[Found]:
        return [
            one
            for one in self._found.values()
            if one.record.kind is Kind.WEIGHT and one.record.extractable
        ]
