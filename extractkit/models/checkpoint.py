"""`model=checkpoint`: weights alone, from any file that holds some, without the model's code."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import numpy as np

from extractkit.core.catalog import TEXT, Catalog, Kind, TensorRecord, escape, join
from extractkit.core.checkpoints import KEY as CHECKPOINTS
from extractkit.core.digests import of_plain_data, update
from extractkit.core.numpy_transforms import transformed
from extractkit.core.plan import storable
from extractkit.core.values import Array
from extractkit.errors import ConfigError, JobError
from extractkit.inputs.protocol import Sample, Signature
from extractkit.models.given_weights import checkpoint_axis
from extractkit.models.protocol import CheckpointAxis, Compilation, Encoded, Fetch, Program
from extractkit.models.weight_files import Place, WeightFile, open_weights
from extractkit.models.weight_files.weight_file import array_dtype, is_extended

_NAME = "checkpoint"


def load(
    path: str | None = None, checkpoints: object = None, checkpoint_step: object = None
) -> "Checkpoint":
    """Return the weights in a file, in several that belong together, or in a directory.

    Args:
        path: what `weight_files.open_weights` takes.
        checkpoints, checkpoint_step: in place of it many of them, one after the other; see
            `checkpoint_axis`.

    Raises:
        ConfigError: neither, or both.
        ModelError: missing, damaged, of another format, or without weights.
        MissingExtraError: a package that the format needs is not installed.
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
class Checkpoint:
    """A file of weights behind the `Model` protocol: no layers, no inputs, nothing to compute.

    Attributes:
        file: with the weights; None before the first of several has been chosen.
        checkpoints: the files, where there are several; all have the same arrays.
        name: for messages.
    """

    file: WeightFile | None
    checkpoints: CheckpointAxis | None = None
    name: str = field(default=_NAME, init=False)

    @property
    def weights(self) -> WeightFile:
        """The file; arrays are read one by one, as they are asked for."""
        assert self.file is not None, "a checkpoint has to be chosen first"
        return self.file

    def become(self, file: WeightFile) -> None:
        """Hold the weights of another file that has the same arrays."""
        self.file = file

    @property
    def signature(self) -> Signature:
        """It takes nothing."""
        return Signature(self.name, ())

    @cached_property
    def catalog(self) -> Catalog:
        """Every array of the file; a record's `name` is the file's own key."""
        return Catalog(self._records.values(), self.name)

    def configure(self, seed: int, deterministic: bool, device: str | None) -> Mapping[str, object]:
        """Nothing to seed.

        Raises:
            ConfigError: a device is asked for, where none computes.
        """
        if device is not None:
            raise ConfigError(
                f"runtime.device={device!r}: model={self.name} reads weights from files, which "
                f"no device computes. Leave it out"
            )
        return {"numpy": np.__version__}

    def encode(self, samples: Sequence[Sample]) -> list[Encoded]:
        """Nothing of any sample."""
        return [Encoded({}, {}) for _ in samples]

    def program(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
        """There is none: nothing here depends on inputs.

        Raises:
            JobError: always.
        """
        raise JobError(f"model={self.name} holds weights alone, there is nothing to run")

    def constants(self, fetches: Sequence[Fetch]) -> list[Array]:
        """The values, one array after the other: a sliced or reduced one is never kept whole."""
        keys = {record.address: key for key, record in self._records.items()}
        return [self._value(keys[fetch.address], fetch) for fetch in fetches]

    def weights_digest(self) -> str:
        """SHA-256 over every array's key, dtype, shape and content, optimizer slots included."""
        sha = hashlib.sha256()
        for key in self.weights:
            dtype, shape = self.weights.entry(key)
            if array_dtype(dtype) is not None:
                update(sha, key, dtype, self.weights.read(key))
            else:  # what cannot be read counts by what the file says of it
                sha.update(f"{key}\0{dtype}\0{shape}\0".encode("utf-8", "surrogateescape"))
        return sha.hexdigest()

    def definition_digest(self) -> str:
        """Return the same for every file: nothing is computed."""
        return of_plain_data(_NAME)

    def describe(self) -> Mapping[str, object]:
        """Format, number of parameters (without what training keeps), and where the weights are."""
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
        wanted = storable(self._records[key].dtype)
        if wanted != TEXT:
            value = value.astype(wanted, copy=False)
        if fetch.axes is None:
            return value
        # A slice is a view: copied, it does not keep the whole array alive.
        return transformed(value, fetch.axes, first=0).copy()

    @cached_property
    def _records(self) -> dict[str, TensorRecord]:
        """The records by key."""
        addresses = {key: _address(self.weights.place(key)) for key in self.weights}
        taken: dict[str, int] = {}
        for address in addresses.values():
            taken[address] = taken.get(address, 0) + 1
        return {
            # What was left out of two keys may be all that tells them apart.
            key: self._record(key, address if taken[address] == 1 else join("", escape(key)))
            for key, address in addresses.items()
        }

    def _record(self, key: str, address: str) -> TensorRecord:
        entry = self.weights.entry(key)
        dtype = _recorded(entry.dtype)
        return TensorRecord(
            address=address,
            kind=_kind(self.weights.place(key)),
            dtype=dtype or entry.dtype,
            shape=entry.shape,
            dims=(None,) * len(entry.shape),
            name=key,
            depends_on_inputs=False,
            reason=None if dtype else f"NumPy has no type for its elements ({entry.dtype})",
        )


def _kind(place: Place) -> Kind:
    if place.average:
        return Kind.MOVING_AVERAGE
    return Kind.OPTIMIZER if place.training else Kind.WEIGHT


def _address(place: Place) -> str:
    port = escape(place.variable)
    if place.slot is not None:
        port += "@" + "/".join(map(escape, place.slot.split("/")))
    return join("/".join(map(escape, place.layers)), port)


def _recorded(name: str) -> str | None:
    """Return the dtype of a record; None where there is none for it.

    What ml_dtypes alone knows is widened: 8-bit floats to float32, 4-bit integers to 8 bits.
    bfloat16 is widened wherever values are stored, so it keeps its name.
    """
    dtype = array_dtype(name)
    if dtype is None:
        return None
    if name == "bfloat16" or not is_extended(name):
        return name
    return next((wide for wide in ("int8", "uint8", "float32") if np.can_cast(dtype, wide)), None)
