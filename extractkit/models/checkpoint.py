"""`model=checkpoint`: only the weights in a file of any format, without the model's code."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import numpy as np

from extractkit.core.catalog import Catalog, Kind, TensorRecord, address_of, escape
from extractkit.core.checkpoints import KEY as CHECKPOINTS
from extractkit.core.checkpoints import CheckpointFiles, StepPattern
from extractkit.core.keys import DecidesValues
from extractkit.core.requests import check_values
from extractkit.core.spec import TEXT, TensorSpec, storable
from extractkit.core.values import Array, add_to_digest, digest_of_plain_data
from extractkit.errors import ConfigError, JobError
from extractkit.inputs import Sample, Signature
from extractkit.models import (
    CheckpointAxis,
    Compilation,
    Encoded,
    Fetch,
    HasCheckpoints,
    Program,
)
from extractkit.models.given_weights import checkpoint_axis
from extractkit.models.weight_files import Location, WeightFile, open_weights
from extractkit.models.weight_files.weight_file import array_dtype, is_extended

_NAME = "checkpoint"


def load(
    path: DecidesValues[str | None] = None,
    checkpoints: DecidesValues[CheckpointFiles] = None,
    checkpoint_step: DecidesValues[StepPattern] = None,
) -> "Checkpoint":
    """Open the weights in a file, in several files that belong together, or in a directory.

    Args:
        path: A file, a checkpoint's prefix, or a directory that holds one.
        checkpoints: Several sets instead of `path`, as an axis: a pattern ('epochs/*.weights.h5'),
            or a list.
        checkpoint_step: A regular expression for their steps: 'epoch_([0-9]+)'.

    Raises:
        ConfigError: Neither is given, or both are.
        ModelError: The file is missing, damaged, of another format, or without weights.
        MissingExtraError: A package that the format needs is not installed.
    """
    axis = checkpoint_axis(
        checkpoints,
        checkpoint_step,
        lambda found: model.become(found),
        alike=True,
        instead_of={"model.path": path},
    )
    if path is None and axis is None:
        raise ConfigError(
            f"model=checkpoint is given no weights. Give some: model.path=FILE, or {CHECKPOINTS}=…"
        )
    model = Checkpoint(None if path is None else open_weights(path), axis)
    return model


@dataclass(eq=False)
class Checkpoint(HasCheckpoints):
    """A file of weights as a `Model` without layers, inputs or computation.

    Attributes:
        file: The file of weights. None before the first of several has been chosen.
        checkpoints: The files, if there are several. All have the same arrays.
        name: The name for messages.
    """

    file: WeightFile | None
    checkpoints: CheckpointAxis | None = None
    name: str = field(default=_NAME, init=False)

    @property
    def weights(self) -> WeightFile:
        """The open file. Arrays are read one by one, on request."""
        assert self.file is not None, "a checkpoint has to be chosen first"
        return self.file

    @property
    def lacks_gradients(self) -> str:
        """Why no gradients exist."""
        return "a file of weights computes nothing"

    def become(self, file: WeightFile) -> None:
        """Switch to another file with the same arrays."""
        self.file = file

    @property
    def signature(self) -> Signature:
        """A signature without inputs."""
        return Signature(self.name, ())

    @cached_property
    def catalog(self) -> Catalog:
        """The catalog of every array in the file. A record's `name` is the key in the file."""
        return Catalog(self._records.values(), self.name)

    def configure(self, seed: int, deterministic: bool, device: str | None) -> Mapping[str, object]:
        """Do nothing: there is nothing to seed.

        Raises:
            ConfigError: A device is given.
        """
        if device is not None:
            raise ConfigError(
                f"runtime.device={device!r}: model={self.name} reads weights from files, which "
                f"no device computes. Leave it out"
            )
        return {"numpy": np.__version__}

    def encode(self, samples: Sequence[Sample]) -> list[Encoded]:
        """Return empty features for every sample."""
        return [Encoded({}, {}) for _ in samples]

    def program(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
        """Raise an error: nothing depends on inputs.

        Raises:
            JobError: Always.
        """
        raise JobError(f"model={self.name} holds only weights, so there is nothing to run")

    def constants(self, fetches: Sequence[Fetch]) -> list[Array]:
        """Return the values, read one array at a time, of which only the selection is kept."""
        check_values((fetch.request for fetch in fetches), self.name)
        keys = {record.address: key for key, record in self._records.items()}
        return [self._value(keys[fetch.address], fetch) for fetch in fetches]

    def weights_digest(self) -> str:
        """Return the SHA-256 over every array's key, dtype, shape and content, slots included."""
        sha = hashlib.sha256()
        for key in self.weights:
            dtype, shape = self.weights.entry(key)
            if array_dtype(dtype) is not None:
                add_to_digest(sha, key, dtype, self.weights.read(key))
            else:  # an array that cannot be read is covered by its entry
                sha.update(f"{key}\0{dtype}\0{shape}\0".encode("utf-8", "surrogateescape"))
        return sha.hexdigest()

    def definition_digest(self) -> str:
        """Return a constant: nothing is computed."""
        return digest_of_plain_data(_NAME)

    def describe(self) -> Mapping[str, object]:
        """Return the format, the number of parameters (without optimizer slots) and the paths."""
        return {
            "name": self.name,
            "format": self.weights.format,
            "parameters": sum(
                prod(self.weights.entry(key).shape)
                for key, record in self._records.items()
                if record.kind is Kind.WEIGHT
            ),
            "path": self.weights.path,
        }

    def _value(self, key: str, fetch: Fetch) -> Array:
        value = self.weights.read(key)
        wanted = storable(self._records[key].spec.dtype)
        if wanted != TEXT:
            value = value.astype(wanted, copy=False)
        if fetch.pipeline is None:
            return value
        # A slice is a view that would keep the whole array in memory.
        return fetch.pipeline.in_numpy(value).copy()

    @cached_property
    def _records(self) -> dict[str, TensorRecord]:
        """Return the records by key."""
        addresses = {key: _address(self.weights.location(key)) for key in self.weights}
        taken: dict[str, int] = {}
        for address in addresses.values():
            taken[address] = taken.get(address, 0) + 1
        return {
            # Two keys may differ only in a part that their addresses omit.
            key: self._record(key, address if taken[address] == 1 else address_of("", escape(key)))
            for key, address in addresses.items()
        }

    def _record(self, key: str, address: str) -> TensorRecord:
        entry = self.weights.entry(key)
        dtype = _recorded(entry.dtype)
        return TensorRecord(
            address=address,
            kind=_kind(self.weights.location(key)),
            spec=TensorSpec.fixed(dtype or entry.dtype, entry.shape),
            name=key,
            depends_on_inputs=False,
            reason=None if dtype else f"NumPy has no type for its elements ({entry.dtype})",
        )


def _kind(location: Location) -> Kind:
    if location.average:
        return Kind.MOVING_AVERAGE
    return Kind.OPTIMIZER if location.training else Kind.WEIGHT


def _address(location: Location) -> str:
    port = escape(location.variable)
    if location.slot is not None:
        port += "@" + "/".join(map(escape, location.slot.split("/")))
    return address_of("/".join(map(escape, location.layers)), port)


def _recorded(name: str) -> str | None:
    """Return the dtype of a record, or None if NumPy has no such dtype.

    Types of ml_dtypes are widened: 8-bit floats to float32, 4-bit integers to 8 bits. bfloat16
    keeps its name, since it is widened when values are stored.
    """
    dtype = array_dtype(name)
    if dtype is None:
        return None
    if name == "bfloat16" or not is_extended(name):
        return name
    return next((wide for wide in ("int8", "uint8", "float32") if np.can_cast(dtype, wide)), None)
