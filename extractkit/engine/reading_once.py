"""Samples that are computed with several sets of weights are read and encoded once.

What has been read is kept as long as memory allows, and the shards are computed in an order that
makes use of it: ranges that fit into memory together go through all checkpoints before the next
ranges do, so that weights are loaded as seldom as that allows.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Generic, TypeVar

from extractkit.inputs.protocol import InputSpec, Signature
from extractkit.plan import Lengths, Shard, numpy_dtype

MEMORY = 256 * 1024 * 1024
"""Bytes of encoded samples that are kept; where they are placed, too, that takes as much again."""

Place = tuple[int, int]
"""The range of a shard, whatever its checkpoint."""

_T = TypeVar("_T")


@dataclass(eq=False)
class ReadAlready(Generic[_T]):
    """What has been read, by range; what was used longest ago is let go first."""

    memory: int = MEMORY
    _kept: OrderedDict[Place, tuple[_T, int]] = field(default_factory=OrderedDict)
    _bytes: int = 0

    def get(self, place: Place) -> _T | None:
        """What was read of a range; None where it was not, or was let go."""
        if place not in self._kept:
            return None
        self._kept.move_to_end(place)
        return self._kept[place][0]

    def keep(self, place: Place, value: _T, size: int) -> None:
        """Keep what was read of a range, unless it alone is more than there is room for."""
        if size > self.memory:
            return
        while self._bytes + size > self.memory:
            _, (_, freed) = self._kept.popitem(last=False)
            self._bytes -= freed
        self._kept[place] = (value, size)
        self._bytes += size


def in_blocks(
    shards: Sequence[Shard], size: Callable[[Shard], int], memory: int = MEMORY
) -> Iterator[Shard]:
    """The same shards in the order in which they are best computed.

    Args:
        shards: in the order of a run: by checkpoint, then by range.
        size: bytes of a range's encoded samples, about.
    """
    block: dict[Shard, int] = {}
    number = used = 0
    for place in dict.fromkeys(Shard(shard.start, shard.stop) for shard in shards):
        own = size(place)
        if used and used + own > memory:
            number, used = number + 1, 0
        block[place] = number
        used += own
    yield from sorted(
        shards, key=lambda shard: (block[Shard(shard.start, shard.stop)], *shard.place)
    )


def encoded_bytes(signature: Signature, lengths: Lengths) -> Callable[[Shard], int]:
    """Tells about how many bytes a range's encoded samples take; a text counts eight."""

    def of_spec(spec: InputSpec, shard: Shard) -> int:
        own = lengths.part(shard.start, shard.stop)
        sizes = [
            int(own.axes[dim].max(initial=0)) if dim is not None else size or 1
            for dim, size in zip(spec.dims, spec.shape, strict=True)
        ]
        return len(shard) * prod(sizes) * numpy_dtype(spec.dtype).itemsize

    return lambda shard: sum(of_spec(spec, shard) for spec in signature.specs)
