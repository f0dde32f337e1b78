"""Tensor records, their addresses and layouts, and the catalog of a model. Pure Python.

An address is `path:port`: the chain of layer calls from the model down, then the value to read
there. `transformer_layer_0/self_attention_layer/query:kernel` is unique in its model, and the same
in every process and every rebuild.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from math import prod
from typing import TypeVar

from extractkit.advice import listing
from extractkit.core.notebook import WithWidgets
from extractkit.core.spec import SAMPLES, TEXT, Dim, TensorSpec, numpy_dtype
from extractkit.errors import UnknownTensorError, choices, counted

T = TypeVar("T")

_PORT_SEPARATOR = ":"
# Characters that would make a layer's name ambiguous in an address or an HDF5 path.
_RESERVED = re.compile(r"[%:@/\x00-\x1f\x7f]")


class Kind(StrEnum):
    """The kind of tensor that a record describes."""

    MODEL_INPUT = "model_input"
    MODEL_OUTPUT = "model_output"
    LAYER_INPUT = "layer_input"
    LAYER_OUTPUT = "layer_output"
    STATE = "state"
    OP = "op"
    WEIGHT = "weight"
    OPTIMIZER = "optimizer"
    MOVING_AVERAGE = "moving_average"


VARIABLES = (Kind.WEIGHT, Kind.OPTIMIZER, Kind.MOVING_AVERAGE)
"""The kinds of variables, whose values do not depend on the inputs."""


@dataclass(frozen=True, slots=True)
class Scope:
    """One enclosing layer call: its address path, its class, and the class's bases by name.

    `name` is the path in the layers' own names, as `model.summary()` prints them.
    """

    path: str
    type: str
    bases: tuple[str, ...] = ()
    name: str = ""

    @property
    def types(self) -> tuple[str, ...]:
        """The class and all its bases by name, nearest first."""
        return (self.type, *self.bases)


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """One tensor that a model offers, as plain data.

    Attributes:
        address: `path:port`, unique in the catalog.
        kind: the kind of tensor.
        spec: its dtype and dims, with all axes that the model returns.
        scopes: the enclosing layer calls, from the model to the record's own layer.
        name: the address with the layers' own names, as `model.summary()` prints them.
        op_type: type of the operation that makes the value ("Softmax"); None for inputs, weights.
        depends_on_inputs: False for weights and values computed from weights and constants only.
        reason: why the tensor cannot be extracted; None if it can.
    """

    address: str
    kind: Kind
    spec: TensorSpec
    scopes: tuple[Scope, ...] = ()
    name: str = ""
    op_type: str | None = None
    depends_on_inputs: bool = True
    reason: str | None = None

    @property
    def layer(self) -> str:
        """Path of the record's own layer; the empty string for the model itself."""
        return self.address.partition(_PORT_SEPARATOR)[0]

    @property
    def port(self) -> str:
        """What is read at the layer: "output", "input", "kernel", "op/Softmax"."""
        return self.address.partition(_PORT_SEPARATOR)[2]

    @property
    def layer_type(self) -> str | None:
        """Class name of the record's own layer; None if the format has no layers."""
        return self.scopes[-1].type if self.scopes else None

    @property
    def depth(self) -> int:
        """Number of layers on the path; 0 for the model itself."""
        return self.layer.count("/") + 1 if self.layer else 0

    @property
    def extractable(self) -> bool:
        """Whether the value can be extracted. If not, `reason` explains why."""
        return self.reason is None

    @property
    def sample_axis(self) -> int | None:
        """The position of the axis that counts samples, alone or in a product; None without one."""
        dims = enumerate(self.spec.dims or ())
        return next((axis for axis, dim in dims if dim.counts_samples), None)

    @property
    def stored_dims(self) -> tuple[Dim, ...] | None:
        """The dims in stored order: the samples come first, and a product with them is split.

        A tensor without an axis of samples belongs to one sample and gets such an axis. Dims that
        have to be measured are as in the model. None if their number is unknown.
        """
        dims, axis = self.spec.dims, self.sample_axis
        if dims is None:
            return None
        if axis is None:
            alone = self.depends_on_inputs and self.spec.known
            return (SAMPLES, *dims) if alone else dims
        return (SAMPLES, *dims[:axis], *dims[axis].factors[1:], *dims[axis + 1 :])

    def to_json(self) -> dict[str, object]:
        """Return the record as `extractkit tensors --json` prints it."""
        return {
            "address": self.address,
            "kind": str(self.kind),
            "port": self.port,
            "layer": self.layer,
            "layer_type": self.layer_type,
            "op_type": self.op_type,
            **self.spec.to_json(),
            "name": self.name,
            "extractable": self.extractable,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Layout:
    """The steps from a model's layout to the stored order, in which the sample axis comes first.

    Attributes:
        axis: the axis of the samples; None for a tensor that does not depend on the inputs.
        split: whether that axis is a product ("sample*token") to be split into samples and the
            rest. That samples vary slowest is checked on real data before anything is stored.
        dims: those of the stored tensor.
        whole: whether the tensor has no sample axis and gets one in front: each call of the model
            on one sample then gives the value of that sample.
    """

    axis: int | None
    split: bool
    dims: tuple[Dim, ...]
    whole: bool = False

    @classmethod
    def of(cls, record: TensorRecord) -> "Layout | None":
        """Return the layout of a record, or None if an axis has to be measured first."""
        dims, axis = record.stored_dims, record.sample_axis
        if dims is None or not record.spec.known:
            return None
        if axis is not None:
            return cls(axis, bool(record.spec.axes[axis].factors), dims)
        if record.depends_on_inputs:
            return cls(0, False, dims, whole=True)
        return cls(None, False, dims)

    @property
    def in_stored_order(self) -> bool:
        """Whether the model's layout is the stored order already."""
        return self.axis == 0 and not self.split and not self.whole

    def of_free_axes(self, found: Mapping[str, T]) -> dict[int, T]:
        """Return what is known of the tensor's free axes by position in stored order.

        Args:
            found: what is known of free axes, such as lengths, by their names.
        """
        free = ((axis, dim.free) for axis, dim in enumerate(self.dims))
        return {axis: found[name] for axis, name in free if name is not None and name in found}


class Edges:
    """The tensors that each tensor is computed from, looked up on first use.

    Args:
        find: Returns, for each record, the catalog positions of the tensors that its operation or
            layer call consumes. A tensor that several records list, such as an operation's result
            that is also a layer's output, has several positions.
    """

    def __init__(self, find: Callable[[], Sequence[Collection[int]]]) -> None:
        self._find = find

    @cached_property
    def consumed(self) -> Sequence[Collection[int]]:
        """The positions of the consumed tensors, for each record."""
        return self._find()


class Catalog(WithWidgets, Mapping[str, TensorRecord]):
    """The ordered, immutable list of every tensor that a model offers. Keys are addresses.

    A lookup also accepts a record's `name`, the address in the layers' own names, if it is unique.

    Attributes:
        model: the model's name, for messages.
        records: the records in order.
        edges: what each of them is made from; None if the model's format does not record it.
        listing: a command, or Python code, that lists them, for messages.
    """

    def __init__(
        self,
        records: Iterable[TensorRecord],
        model: str = "model",
        edges: Edges | None = None,
    ) -> None:
        self.model = model
        self.edges = edges
        self.listing = listing(model)
        self.records = tuple(records)
        self._by_address = {record.address: record for record in self.records}
        if len(self._by_address) != len(self.records):
            counts = Counter(record.address for record in self.records)
            twice = counts.most_common(1)[0][0]
            raise ValueError(f"address {twice!r} occurs twice in the catalog of {model!r}")
        by_name: dict[str, list[TensorRecord]] = {}
        for record in self.records:
            if record.name:
                by_name.setdefault(record.name, []).append(record)
        self._by_name = {name: found[0] for name, found in by_name.items() if len(found) == 1}

    def listed_by(self, how: str) -> "Catalog":
        """Return the same catalog with another listing command for messages."""
        found = copy(self)
        found.listing = how
        return found

    @property
    def outputs(self) -> list[TensorRecord]:
        """The model's own outputs that depend on the inputs and can be extracted."""
        return [
            record
            for record in self.records
            if record.kind is Kind.MODEL_OUTPUT and record.extractable and record.depends_on_inputs
        ]

    @cached_property
    def weights_bytes(self) -> int:
        """The bytes of all variables whose size is known."""
        specs = (record.spec for record in self.records if record.kind in VARIABLES)
        return sum(
            prod(size or 0 for size in spec.shape) * numpy_dtype(spec.dtype).itemsize
            for spec in specs
            if spec.dims is not None and spec.dtype != TEXT
        )

    def __getitem__(self, key: str) -> TensorRecord:
        record = self._by_address.get(key) or self._by_name.get(key)
        if record is None:
            raise UnknownTensorError(
                f"{key!r} is not a tensor of model {self.model!r}. "
                f"{choices(key, self._by_address)} List them: {self.listing}"
            )
        return record

    def __contains__(self, key: object) -> bool:
        return key in self._by_address or key in self._by_name

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_address)

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return f"<Catalog of {self.model!r}: {counted(len(self), 'tensor')}>"


def escape(name: str) -> str:
    """Return a name as one component of an address, percent-escaped where needed."""
    if name in {"", ".", ".."}:
        # A lone percent sign, which no other name gives, represents the empty name.
        return "".join(f"%{ord(char):02X}" for char in name) or "%"
    return _RESERVED.sub(lambda match: f"%{ord(match.group()):02X}", name)


def address_of(path: str, port: str) -> str:
    """Return `path:port`."""
    return f"{path}{_PORT_SEPARATOR}{port}"
