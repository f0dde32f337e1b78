"""Shards: the units in which a run stores values and is distributed. Plain values.

A shard is a range of samples, or the constants, at one position along each outer axis of its run.
Outer axes are leading axes that are not samples. Everything is computed anew at each position, such
as for each checkpoint along the only outer axis so far.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt

from extractkit.errors import UnknownTensorError, choices

SHARD_BYTES = 128 * 1024 * 1024
"""Target of `shard_size=auto`. Batches are planned within a shard, so larger shards have less
padding. Two are in memory at once, since writing one overlaps with computing the next."""

SHARD_SAMPLES = 1024
"""Most samples in an automatic shard, so that small values are committed regularly too."""

CONSTANTS = "constants"
"""Key of the shard that holds values which do not depend on the inputs."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A position along an outer axis."""

    axis: str
    at: int

    def __str__(self) -> str:
        return f"{self.axis}-{self.at:06d}-"


_POSITION = re.compile(r"([a-z_]+)-([0-9]{6,9})-")


@dataclass(frozen=True)
class OuterAxis:
    """An outer axis of a run.

    Attributes:
        name: its name, which is in the dims of every tensor and in the keys of shards.
        labels: a unique label for each position.
        steps: a number that may name a position too; None for a position without.
    """

    name: str
    labels: tuple[str, ...]
    steps: tuple[int | None, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def positions(self) -> tuple[Position, ...]:
        """Every position, in order."""
        return tuple(Position(self.name, at) for at in range(len(self)))

    @property
    def coordinates(self) -> list[int] | list[str]:
        """The steps if every position has one, else the labels."""
        steps = [step for step in self.steps if step is not None]
        return steps if len(steps) == len(self) else list(self.labels)

    def find(self, name: str | int, of: str) -> Position:
        """Return the position with a label or step.

        Args:
            of: the name of what has the axis, for the message.

        Raises:
            UnknownTensorError: no position has that label or step.
        """
        for at, (label, step) in enumerate(zip(self.labels, self.steps, strict=True)):
            if name == label or (step is not None and name == step):
                return Position(self.name, at)
        if isinstance(name, int) and (steps := self._listed_steps()):
            raise UnknownTensorError(
                f"{name!r} is not the step of {self._one} of {of}. Steps: {steps}"
            )
        raise UnknownTensorError(
            f"{name!r} is not {self._one} of {of}. {choices(str(name), self.labels)}"
        )

    @property
    def _one(self) -> str:
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"

    def _listed_steps(self) -> str:
        """List the steps; if there are many, the first ones and the last."""
        steps = [str(step) for step in self.steps if step is not None]
        return ", ".join(steps if len(steps) <= 6 else [*steps[:4], "…", steps[-1]])


@dataclass(frozen=True)
class Shard:
    """A contiguous range of samples, the unit of commit; or the constants, with an empty range.

    Attributes:
        start, stop: the range.
        outer: its position along each outer axis of the run, the slowest first.
    """

    start: int
    stop: int
    outer: tuple[Position, ...] = ()

    @property
    def constant(self) -> bool:
        """Whether it holds the values that do not depend on the samples."""
        return self.start == self.stop

    @property
    def first(self) -> int | None:
        """The index of its first sample; None for the constants, which have no samples."""
        return None if self.constant else self.start

    @property
    def key(self) -> str:
        """`constants`, or the range in digits of one width, so that names sort in order.

        The positions along outer axes precede it: `checkpoint-000001-constants`.
        """
        part = CONSTANTS if self.constant else f"{self.start:09d}-{self.stop:09d}"
        return "".join(map(str, self.outer)) + part

    @property
    def order(self) -> tuple[tuple[int, ...], int, int]:
        """Its place in the order of a run: by outer axes, the constants first."""
        return (tuple(one.at for one in self.outer), self.start, self.stop)

    @property
    def extent(self) -> "Shard":
        """The same range, at no position of an outer axis."""
        return replace(self, outer=())

    def along(self, axis: str) -> int | None:
        """Return its position along an outer axis; None if the run has no such axis."""
        return next((one.at for one in self.outer if one.axis == axis), None)

    def __len__(self) -> int:
        return self.stop - self.start


def positions_in(key: str) -> tuple[Position, ...]:
    """Return the positions along outer axes that the key of a shard begins with."""
    return tuple(Position(axis, int(at)) for axis, at in _POSITION.findall(key))


def over_axes(shards: Sequence[Shard], axes: Sequence[OuterAxis]) -> tuple[Shard, ...]:
    """Return shards at every position along outer axes, the first axis slowest."""
    if not axes:
        return tuple(shards)
    outer = product(*(axis.positions for axis in axes))
    return tuple(replace(shard, outer=at) for at in outer for shard in shards)


CONSTANTS_SHARD = Shard(0, 0)


@dataclass(frozen=True)
class Part:
    """One of several parts of a job, each a contiguous range of its shards.

    Attributes:
        number: its number, from 1.
        count: the number of parts.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Part | None":
        """Parse "2/4"; return None if it does not name a part."""
        found = _PART.fullmatch(text)
        part = None if found is None else cls(int(found[1]), int(found[2]))
        return part if part is not None and 1 <= part.number <= part.count else None

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def siblings(self) -> "tuple[Part, ...]":
        """All parts of the job, in order."""
        return tuple(Part(number, self.count) for number in range(1, self.count + 1))

    def of(self, shards: Sequence[Shard]) -> tuple[Shard, ...]:
        """Return this part's share of a job's shards, which may be empty."""
        first = len(shards) * (self.number - 1) // self.count
        return tuple(shards[first : len(shards) * self.number // self.count])


_PART = re.compile(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})")


def plan_shards(
    per_sample: npt.NDArray[np.int64], shard_size: int | None, multiple: int = 1
) -> tuple[Shard, ...]:
    """Divide the samples into shards of `shard_size`, or (None) of at most SHARD_BYTES each.

    Args:
        multiple: every shard but the last holds a multiple of this number of samples.
    """
    count = len(per_sample)
    if shard_size is not None:
        return tuple(Shard(a, min(a + shard_size, count)) for a in range(0, count, shard_size))
    ends = np.cumsum(per_sample)
    shards = []
    start = 0
    while start < count:
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + SHARD_BYTES, side="right"))
        stop = min(stop, start + SHARD_SAMPLES)
        if stop < count:
            stop = min(start + max((stop - start) // multiple, 1) * multiple, count)
        shards.append(Shard(start, stop))
        start = stop
    return tuple(shards)
