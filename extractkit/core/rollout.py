"""Attention maps that follow each other, combined into one matrix of each sample.

Rollout (Abnar and Zuidema, 2020) is defined for layers of self-attention, one after the other, with
residual connections around them: the matrices of the layers, averaged over heads, are multiplied.
Which maps these are follows from a catalog, whose edges show that the queries and keys of each map
come from the same tokens and depend on the map before.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from extractkit.core.catalog import Catalog, Kind, Layout, TensorRecord
from extractkit.core.keys import Effect, Key
from extractkit.core.targets import without_reals
from extractkit.core.transforms import Array, Masked, Tensor, present
from extractkit.errors import ConfigError

ROLLOUT = "rollout"

ROLLOUT_KEY = Key(
    *(ROLLOUT, "true or false", False),
    "attention rollout in place of values: the product of all attention maps that match, averaged "
    "over heads, with residual connections. One matrix of queries by keys for each sample, stored "
    "as `ADDRESS@rollout` at the address of the last map",
    Effect.RECORDED,
)
"""The key of a selector for attention rollout."""

_HEADS = ("head", "group")
_AFTER_HEADS = 2  # queries and keys
_PRODUCTS = ("Einsum", "*BatchMatMul*", "*MatMul", "BATCH_MATMUL", "FULLY_CONNECTED")
_LAYERS = (Kind.LAYER_INPUT, Kind.LAYER_OUTPUT)
_ADVICE = "Select the self-attention of one stack of layers"


@dataclass(frozen=True)
class AttentionMap:
    """A map of self-attention.

    Attributes:
        address: its address.
        layout: how it is brought into stored order. Samples come first, then heads if there are
            any, then queries and keys.
    """

    address: str
    layout: Layout


def parse_rollout(value: object, at: str) -> bool:
    """Parse the value of a selector's key `rollout`.

    Raises:
        ConfigError: it is neither true nor false.
    """
    if value is None or isinstance(value, bool):
        return bool(value)
    raise ConfigError(f"{at}={value!r} is neither true nor false")


def combined_record(record: TensorRecord) -> TensorRecord:
    """Return the record of the combination that ends with a map, in stored order."""
    dims = record.stored_dims
    assert dims is not None, "maps of unknown axes are unsuited"
    return replace(record, spec=replace(record.spec, dims=(dims[0], *dims[-_AFTER_HEADS:])))


def no_map(record: TensorRecord) -> str | None:
    """Return why a tensor is not a map of self-attention with heads, or None."""
    if (reason := without_reals(record)) is not None:
        return reason
    if not record.depends_on_inputs:
        return "it does not depend on the inputs, as attention maps do"
    layout = Layout.of(record)
    if layout is None:
        return "attention maps are combined if their axes are known before the model runs"
    titles = [dim.title or str(dim) for dim in layout.dims]
    heads, last = layout.dims[1:-_AFTER_HEADS], layout.dims[-_AFTER_HEADS:]
    if len(layout.dims) <= _AFTER_HEADS:
        return f"it has dims {titles}, and attention maps have queries and keys"
    if any(one.computed or one.factors for one in last):
        return "the model computes the number of its queries or keys, so that padding is not known"
    queries, keys = last
    if queries.length != keys.length:
        return (
            f"it has {queries.length} queries and {keys.length} keys, and only self-attention can "
            f"be combined. {_ADVICE}"
        )
    # An axis without a name may be of heads, unless it shares one with the samples.
    unnamed = len(heads) == 1 and not layout.split
    for one in heads:
        if one.size is None or not (one.name in _HEADS or (one.name is None and unnamed)):
            return f"it has dims {titles}, of which {one.title or str(one)!r} are not heads"
    return None


def sequence_of(
    catalog: Catalog, records: Sequence[TensorRecord]
) -> tuple[AttentionMap, ...] | str:
    """Return maps of self-attention in order, or why they are not those of one stack of layers.

    Args:
        records: tensors of the catalog, in order.
    """
    found: list[AttentionMap] = []
    for record in records:
        if (reason := record.reason or no_map(record)) is not None:
            return f"{record.address!r} cannot be combined: {reason}"
        layout = Layout.of(record)
        assert layout is not None, "maps have known axes"
        found.append(AttentionMap(record.address, layout))
    for one in found[1:]:
        if _length(one) != _length(found[0]):
            return (
                f"{found[0].address!r} has {_length(found[0])} queries and keys, and "
                f"{one.address!r} has {_length(one)}: only maps of one size can be multiplied. "
                f"{_ADVICE}"
            )
    if catalog.edges is None:
        return "the model's format does not record which tensors others are made from"
    return _Order(catalog, found).reason() or tuple(found)


def _length(one: AttentionMap) -> str:
    return one.layout.dims[-1].length


class _Order:
    """What the queries and keys of maps depend on, by the edges of a catalog.

    Sets of maps and inputs are the bits of whole numbers. Only the edges of operations count: those
    of a layer lead to all arguments of its call, whichever of them a result depends on.
    """

    def __init__(self, catalog: Catalog, maps: Sequence[AttentionMap]) -> None:
        assert catalog.edges is not None, "a catalog without edges has no order"
        self._records = catalog.records
        self._consumed = [
            [at for at in consumed if catalog.records[at].kind not in _LAYERS]
            for consumed in catalog.edges.consumed
        ]
        self._maps = maps
        positions = {one.address: position for position, one in enumerate(catalog.records)}
        self._at = [positions[one.address] for one in maps]
        marked = [*self._at, *self._inputs()]
        bits = {position: 1 << number for number, position in enumerate(marked)}
        # A tensor may be listed several times, and all of its consumers consume all of these.
        self._marks = [
            sum(bits[at] for at in {position, *consumed} & bits.keys())
            for position, consumed in enumerate(catalog.edges.consumed)
        ]
        self._known: dict[int, int] = {}

    def _inputs(self) -> Iterator[int]:
        for position, record in enumerate(self._records):
            if record.kind is Kind.MODEL_INPUT:
                yield position

    def reason(self) -> str | None:
        """Return why the maps are not those of one stack of layers, or None."""
        for number, (one, position) in enumerate(zip(self._maps, self._at, strict=True)):
            products = [self._operands(product) for product in self._products(position)]
            if not any(products):
                return (
                    f"no product of queries and keys is found before {one.address!r}. Attention "
                    f"without one cannot be combined"
                )
            # Products with embeddings of relative positions may be added to that of the tokens.
            shared = [next(iter(each)) for each in products if len(each) == 1]
            if not shared:
                return (
                    f"the queries and keys of {one.address!r} come from different tensors, as in "
                    f"cross-attention. {_ADVICE}"
                )
            before = 1 << (number - 1) if number else 0
            if number and not any(each & before for each in shared):
                return (
                    f"{one.address!r} does not depend on {self._maps[number - 1].address!r}, the "
                    f"map before it. {_ADVICE}"
                )
        return None

    def _operands(self, product: int) -> set[int]:
        """Return the different sets that the operands of a product depend on, without weights."""
        return {
            self._before(position)
            for position in self._consumed[product]
            if self._records[position].depends_on_inputs
        } - {0}

    def _products(self, position: int) -> Iterator[int]:
        """Yield the positions of the last products before a map."""
        waiting, seen = list(self._consumed[position]), {position}
        while waiting:
            at = waiting.pop()
            if at in seen:
                continue
            seen.add(at)
            kind = self._records[at].op_type or ""
            if any(fnmatchcase(kind, pattern) for pattern in _PRODUCTS):
                if self._records[at].depends_on_inputs:
                    yield at
            else:
                waiting += self._consumed[at]

    def _before(self, position: int) -> int:
        """Return the maps and inputs that a tensor is, or depends on."""
        waiting = [(position, False)]
        while waiting:
            at, done = waiting.pop()
            if done:
                bits = self._marks[at]
                for consumed in self._consumed[at]:
                    bits |= self._known[consumed]
                self._known[at] = bits
            elif at not in self._known:
                self._known[at] = 0
                waiting.append((at, True))
                waiting += ((one, False) for one in self._consumed[at])
        return self._known[position]


def rolled_out(xp: Any, maps: Iterable[Tensor], wide: Any) -> Tensor:
    """Return the product of attention matrices with residual connections, the last map first.

    Args:
        xp: `numpy` or `tensorflow`.
        maps: (…, tokens, tokens), without heads, of dtype `wide`; zero in padding.
    """
    total = None
    for one in maps:
        own = one + _identity(xp, one, wide)
        own = own / _sum(xp, own)
        total = own if total is None else xp.matmul(own, total)
    assert total is not None, "a rollout has maps"
    return total


def relevance(xp: Any, maps: Iterable[Tensor], wide: Any) -> Tensor:
    """Return the relevance of keys for queries by weighted attention (Chefer et al., 2021).

    Args:
        maps: for each layer the mean over heads of positive products of attention and gradient, as
            in `rolled_out`.
    """
    total = None
    for one in maps:
        before = _identity(xp, one, wide) if total is None else total
        total = before + xp.matmul(one, before)
    assert total is not None, "relevance has maps"
    return total


def _identity(xp: Any, one: Tensor, wide: Any) -> Tensor:
    tokens = one.shape[-1] if xp.__name__ == "numpy" else xp.shape(one)[-1]
    return xp.eye(tokens, dtype=wide)


def _sum(xp: Any, one: Tensor) -> Tensor:
    if xp.__name__ == "numpy":
        return one.sum(axis=-1, keepdims=True)
    return xp.reduce_sum(one, axis=-1, keepdims=True)


def over_heads(tf: Any, value: Masked, wide: Any) -> Tensor:
    """Return the mean of a map over its heads in a graph, with zero for padding."""
    tensor = tf.cast(value.tensor, wide)
    shown = tf.where(present(tf, value, list(value.lengths)), tensor, tf.zeros_like(tensor))
    heads = list(range(1, tensor.shape.rank - _AFTER_HEADS))
    return tf.reduce_mean(shown, axis=heads) if heads else shown


def rollout_of_sample(maps: Sequence[Array]) -> Array:
    """Return the rollout of the maps of one sample, which have no axis of samples."""
    dtype = maps[-1].dtype
    wide = "float64" if dtype == "float64" else "float32"
    means = (one.astype(wide).mean(axis=tuple(range(one.ndim - _AFTER_HEADS))) for one in maps)
    return np.asarray(rolled_out(np, means, wide), dtype)
