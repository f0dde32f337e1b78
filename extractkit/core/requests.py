"""Requests: what a job asks of a model for one tensor. Plain values, no TensorFlow.

A plan holds the request of each tensor and hands it to the model's adapter, which alone knows how
to compute it (`Model.program`). A further kind of request, such as a value at every step of a loop,
is a further subclass, with what it needs beside the address. Planning, measuring, streaming and
storing treat all requests alike. All that distinguishes requests of one address has to enter the
key of the tensor and the identity of the run.

A gradient is that of a target (`core/targets.py`), and has the axes of the tensor that it is with
respect to. A model adds up the targets of a batch and differentiates the sum. A row of the result
is the gradient of one sample if no sample changes the target of another. Whether this holds, with
and without padding, is measured on the gradients themselves, as it is for values
(`engine/sharing.py`). If a tensor has no axis of samples, such as a weight, each call takes one
sample. A method (`core/attribution.py`) defines what is made of the gradients.

A request may need further tensors beside that of its address. Attention maps of all layers are
combined into one matrix (`core/rollout.py`), which is stored at the address of the last map.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from extractkit.core.attribution import COMPLETENESS, Integrate, Method, Relevance, method_text
from extractkit.core.catalog import Layout, TensorRecord
from extractkit.core.rollout import ROLLOUT, AttentionMap, combined_record
from extractkit.core.targets import GRADIENT, BoundTarget, target_text, without_reals
from extractkit.errors import SelectionError, counted


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a model for one tensor. Each kind is a subclass.

    Attributes:
        what: what the kind asks for ("value"), for messages.
        mark: what follows the address in keys, after "@"; empty for values.
        address: the address of the tensor.
    """

    what: ClassVar[str]
    mark: ClassVar[str] = ""
    address: str

    @property
    def key(self) -> str:
        """The key of what is stored, unless selectors store it in several ways."""
        return f"{self.address}@{self.mark}" if self.mark else self.address

    @property
    def written(self) -> Mapping[str, object]:
        """What is asked for beside the value, as plain data. It decides what is stored."""
        return {}

    @property
    def needed(self) -> tuple[str, ...]:
        """The addresses of all tensors that it is computed from."""
        return (self.address,)

    @property
    def further(self) -> Mapping[str, str]:
        """The dtypes of further results, one number of each sample, by name."""
        return {}

    @property
    def in_stored_order(self) -> bool:
        """Whether the answer has the axes of the record in stored order, not as in the model."""
        return False


@dataclass(frozen=True, slots=True)
class Value(Request):
    """The value of a tensor: one for each sample, or a constant."""

    what = "value"


@dataclass(frozen=True, slots=True)
class Gradient(Request):
    """The gradient of a target with respect to a tensor, for each sample.

    Attributes:
        of: the target.
        summed: whether that of a call may be the sum over its samples, because only their total is
            wanted of a tensor without an axis of samples.
        method: what is made of the gradient; None: it is stored itself.
    """

    of: BoundTarget
    summed: bool = False
    method: Method | None = None

    what = "gradient"
    mark = "grad"

    @property
    def written(self) -> Mapping[str, object]:
        """The target and the method."""
        method = {} if self.method is None else self.method.written
        return {GRADIENT: {**self.of.written, **method}}

    @property
    def needed(self) -> tuple[str, ...]:
        """See `Request`."""
        return (*self.by, self.of.tensor)

    @property
    def by(self) -> tuple[str, ...]:
        """The addresses of all tensors by which the target is differentiated."""
        others = [] if self.method is None else [one.address for one in self.method.maps]
        return tuple(dict.fromkeys([self.address, *others]))

    @property
    def further(self) -> Mapping[str, str]:
        """See `Request`."""
        return {} if self.method is None else self.method.further

    @property
    def in_stored_order(self) -> bool:
        """See `Request`."""
        return self.method is not None and self.method.in_stored_order


@dataclass(frozen=True, slots=True)
class Rollout(Request):
    """The rollout of attention maps, of which the last has the address.

    Attributes:
        maps: the maps in order.
    """

    maps: tuple[AttentionMap, ...]

    what = "attention rollout"
    mark = ROLLOUT

    @property
    def written(self) -> Mapping[str, object]:
        """The addresses of the maps."""
        return {ROLLOUT: list(self.needed)}

    @property
    def needed(self) -> tuple[str, ...]:
        """See `Request`."""
        return tuple(one.address for one in self.maps)

    @property
    def in_stored_order(self) -> bool:
        """See `Request`."""
        return True


def request_text(written: Mapping[str, object]) -> str:
    """Return a request in plain data as text, as in `integrated gradient of :output[3]`.

    Empty for a value.
    """
    gradient = written.get(GRADIENT)
    if isinstance(gradient, Mapping):
        return f"{method_text(gradient)} of {target_text(gradient)}"
    maps = written.get(ROLLOUT)
    return f"rollout of {counted(len(maps), 'map')}" if isinstance(maps, list | tuple) else ""


def without_addresses(written: Mapping[str, object]) -> Mapping[str, object]:
    """Return a request in plain data without the addresses of tensors, but with their number."""
    gradient, maps = written.get(GRADIENT), written.get(ROLLOUT)
    if isinstance(gradient, Mapping):
        others = gradient.get(Relevance.name)
        own = {Relevance.name: len(others)} if isinstance(others, list | tuple) else {}
        return {GRADIENT: {**gradient, "tensor": None, **own}}
    return {ROLLOUT: len(maps)} if isinstance(maps, list | tuple) else written


def further_of(written: Mapping[str, object]) -> Sequence[str]:
    """Return the names of the further results of a request in plain data."""
    gradient = written.get(GRADIENT)
    return [COMPLETENESS] if isinstance(gradient, Mapping) and Integrate.name in gradient else []


class Bound:
    """What a selector asks of a model in place of values. Each kind is a subclass."""

    def offered(self, record: TensorRecord) -> TensorRecord:
        """Return the record of what is stored of a tensor, with the reason if nothing can be."""
        return record

    def combined(self, records: tuple[TensorRecord, ...]) -> tuple[TensorRecord, ...]:
        """Return the records of what is stored of some offered ones together."""
        return records

    def request(self, record: TensorRecord, offered: TensorRecord) -> Request:
        """Return the request for a tensor.

        Args:
            record: the record of the tensor.
            offered: the record of what is stored of it.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class BoundRollout(Bound):
    """The rollout of the attention maps of a model.

    Attributes:
        maps: the maps in order, or why they have none.
    """

    maps: tuple[AttentionMap, ...] | str

    def combined(self, records: tuple[TensorRecord, ...]) -> tuple[TensorRecord, ...]:
        """See `Bound`."""
        return _together(records, self.maps)

    def request(self, record: TensorRecord, offered: TensorRecord) -> Rollout:
        """See `Bound`."""
        assert not isinstance(self.maps, str), "what has a reason is not selected"
        return Rollout(record.address, self.maps)


def _together(
    records: tuple[TensorRecord, ...], maps: tuple[AttentionMap, ...] | str
) -> tuple[TensorRecord, ...]:
    """Return the record of a combination of maps, or the last map with the reason for none."""
    if not records:
        return ()
    *_, last = records
    return (replace(last, reason=maps) if isinstance(maps, str) else combined_record(last),)


@dataclass(frozen=True)
class BoundGradients(Bound):
    """The gradients that a model can compute of one target.

    Attributes:
        of: the target.
        reasons: why tensors have no gradient of it, by address.
        totals: whether only the total over samples is wanted; see `Gradient.summed`.
        method: what is made of the gradients.
        maps: the attention maps that the method combines, or why they have no combination. None if
            it combines none.
    """

    of: BoundTarget
    reasons: Mapping[str, str]
    totals: bool = False
    method: Method | None = None
    maps: tuple[AttentionMap, ...] | str | None = None

    def combined(self, records: tuple[TensorRecord, ...]) -> tuple[TensorRecord, ...]:
        """See `Bound`."""
        return records if self.maps is None else _together(records, self.maps)

    def request(self, record: TensorRecord, offered: TensorRecord) -> Gradient:
        """See `Bound`."""
        layout = Layout.of(offered)
        summed = self.totals and layout is not None and layout.whole
        return Gradient(record.address, self.of, summed, self.method and self.method.bound(record))

    def offered(self, record: TensorRecord) -> TensorRecord:
        """See `Bound`."""
        reason = record.reason or self.reasons.get(record.address)
        if reason is None and self.method is not None:
            record = self.method.offered(record)
        return replace(record, depends_on_inputs=True, reason=reason)


ALONE = " (runtime.batch_size=1 gives one for each)"
"""Advice at the end of reasons that hold only for batches."""


def unsuited(record: TensorRecord, *, alone: bool) -> str | None:
    """Return why a gradient with respect to a tensor is not defined or not per sample, or None.

    Args:
        alone: whether each call of the model takes one sample.
    """
    if (reason := without_reals(record)) is not None:
        return reason
    layout = Layout.of(record)
    if layout is not None and layout.axis is None and not alone:
        return (
            f"it has no axis of samples, and in a batch its gradient is that of all samples{ALONE}"
        )
    return None


def check_values(requests: Iterable[Request], model: str, *others: type[Request]) -> None:
    """Check that values are all that is asked for, in an adapter that computes nothing else.

    Args:
        model: name of the model.
        others: further kinds that it computes.

    Raises:
        SelectionError: a request is of another kind.
    """
    for request in requests:
        if not isinstance(request, (Value, *others)):
            raise SelectionError(
                f"model {model!r} computes {Value.what}s of tensors, not {request.what}s: those of "
                f"{request.address!r} are selected. Select {Value.what}s, or choose a format of "
                f"models that computes {request.what}s"
            )
