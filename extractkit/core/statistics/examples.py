"""Top-activating examples: the samples and tokens that the results of `top` point to.

They are looked up in the rows of the run when they are read, so that `statistics.npz` holds numbers
only.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from extractkit.core.spec import Dim
from extractkit.core.statistics import Array
from extractkit.core.statistics.results import Results
from extractkit.core.transforms import Axis, Operand, Transform
from extractkit.core.transforms.largest import TopK
from extractkit.core.transforms.pipeline import DO, Pipeline
from extractkit.core.transforms.pooling import Pool
from extractkit.core.transforms.projection import Project
from extractkit.core.transforms.registry import is_own
from extractkit.core.transforms.slicing import Index, Slice
from extractkit.errors import UnknownTensorError

Row = Mapping[str, Any]
"""What a run records of a sample: `id`, `tokens` if it has some, and labels."""

_TOKEN = "token"
"""The name of the axis that the tokens of a sample's row are along."""

_AROUND = 4
"""Tokens before and after an example's own in its context."""


@dataclass(frozen=True)
class Example:
    """One of the largest values of a feature, or of the smallest.

    Attributes:
        unit: the number of the feature.
        value: the value.
        sample, id: the index and the id of the sample.
        position: where in the sample: one index for each axis between samples and features, or one
            for all in C order if only the model knows their sizes.
        token: the token there, as text; None without tokens, or if transforms mix them.
        context: that token and some around it, `[` and `]` around its own.
        row: the sample's row in `run.samples`, with its labels.
    """

    unit: int
    value: float
    sample: int
    id: str
    position: tuple[int, ...]
    token: str | None
    context: str | None
    row: Row


class Examples(Sequence[Example]):
    """Examples in order, which print as a table."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = tuple(examples)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> "Examples": ...
    def __getitem__(self, index: int | slice) -> "Example | Examples":
        if isinstance(index, slice):
            return Examples(self._examples[index])
        return self._examples[index]

    def __len__(self) -> int:
        return len(self._examples)

    def __repr__(self) -> str:
        tokens = any(one.token is not None for one in self)
        header = ["unit", "value", "sample", "id", "position", *["token", "context"] * tokens]
        lines = [header]
        for one in self:
            words = [_printable(one.token), _printable(one.context)] if tokens else []
            place = ", ".join(map(str, one.position))
            numbers = [str(one.unit), f"{one.value:.4g}", str(one.sample)]
            lines.append([*numbers, _printable(one.id), place, *words])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                # Numbers end in one column.
                word.rjust(width) if column < 3 else word.ljust(width)
                for column, (word, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )


def _printable(text: str | None) -> str:
    """Return a text on one line, without what a terminal would obey."""
    return "" if text is None else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


@dataclass(frozen=True)
class Places:
    """The way from a position in the results of `top` to a token.

    Attributes:
        sizes: sizes of the axes between samples and features; None for those that vary.
        axis: which of these the tokens are along; None if a slice takes a single one.
        slices: slices of the tokens, in order. None: positions do not lead to tokens.
    """

    sizes: tuple[int | None, ...]
    axis: int | None = None
    slices: tuple[Index, ...] | None = None

    @classmethod
    def of(
        cls,
        tensor: Operand,
        transforms: Sequence[object],
        sizes: tuple[int | None, ...],
        along: int | None = None,
    ) -> "Places":
        """Follow the axis of the tokens through the transforms of a tensor.

        Args:
            tensor: the tensor in stored order, before the transforms.
            transforms: as `do` has them.
            sizes: those of the axes between samples and features, after the transforms.
            along: the number of the axis, one of `token_axes`; None: the only one.
        """
        nowhere = cls(sizes)
        pipeline = Pipeline.parse({DO: list(transforms)}, tensor.source)
        # What a plugin does to an axis is unknown.
        if not all(is_own(step.name) for step in pipeline.steps):
            return nowhere
        tokens = token_axes(tensor) if along is None else [along]
        if len(tokens) != 1:
            return nowhere
        operand = tensor
        slices: list[Index] = []
        position: int | None = tokens[0]
        for step in pipeline.steps:
            if isinstance(step, Slice) and position in (own := step.bound(operand)):
                slices.append(own[position])
            if isinstance(step, Pool | TopK) and operand.one(step.axis, step.at) == position:
                return nowhere
            operand = _after(step, operand)
            if position is None:
                continue
            position = _position(operand, tokens[0])
            if position is None and not (slices and isinstance(slices[-1], int)):
                return nowhere  # reduced, or joined with other axes
        if position is not None and position > len(sizes):
            return nowhere  # the tokens are features
        return cls(sizes, None if position is None else position - 1, tuple(slices))

    def found(self, position: int, row: Row) -> tuple[tuple[int, ...], int | None]:
        """Return the index along each axis, and the number of the token, if it is known.

        Args:
            position: an element of the axes between samples and features, in C order.
        """
        kept = self.kept(row)
        index = self._index(position, None if kept is None else kept.size)
        if kept is None or index is None:
            return index or (position,), None
        return index, int(kept if self.axis is None else kept[index[self.axis]])

    def kept(self, row: Row) -> Array | None:
        """Return the numbers of the tokens that slices keep; None if there are no tokens."""
        if self.slices is None or (count := _tokens(row)) is None:
            return None
        kept = np.arange(count)
        for one in self.slices:
            kept = kept[one] if isinstance(one, int) else kept[slice(*one)]
        return kept

    def _index(self, position: int, tokens: int | None) -> tuple[int, ...] | None:
        """Return the index along each axis; None if only the model knows a size."""
        if not self.sizes:
            return ()
        index: list[int] = []
        for at, size in reversed(list(enumerate(self.sizes))[1:]):
            known = tokens if size is None and at == self.axis else size
            if known is None:
                return None
            position, own = divmod(position, known)
            index.append(own)
        return (position, *reversed(index))


def token_axes(tensor: Operand) -> list[int]:
    """Return the numbers of the axes that tokens are along; attention has two of them."""
    return [number for number, axis in enumerate(tensor.axes) if axis.dim.free == _TOKEN]


def _tokens(row: Row) -> int | None:
    """Return the number of a sample's tokens, if they are along the axis of that name."""
    tokens, length = row.get("tokens"), row.get("length")
    along = length.get(_TOKEN) if isinstance(length, Mapping) else length
    return along if isinstance(tokens, list) and len(tokens) == along else None


def _position(operand: Operand, number: int) -> int | None:
    """Return where an axis is that had this number before any transform."""
    return next((at for at, axis in enumerate(operand.axes) if axis.number == number), None)


def _after(step: Transform, operand: Operand) -> Operand:
    """Return the operand of the next step. Components of other runs are not read."""
    if not isinstance(step, Project):
        return step.results(operand)[""]
    narrowed = -1 if step.axis is None else operand.one(step.axis, step.at)
    position = range(len(operand.axes))[narrowed]
    size = operand.axes[position].dim.size
    return operand.with_axis(position, Axis(Dim("component", size)))


def examples(
    results: Results,
    places: Places,
    rows: Sequence[Row],
    unit: int | None,
    *,
    smallest: bool,
) -> Examples:
    """Return the examples of one feature, or of all, from the results of `top`.

    Raises:
        UnknownTensorError: there is no such feature, or the smallest values were not asked for.
    """
    prefix = "smallest_" if smallest else ""
    if f"{prefix}values" not in results:
        raise UnknownTensorError(
            "the run has the largest values only. For the smallest, extract with "
            "statistics: [{top: {smallest: true}}]"
        )
    values, samples, positions = (
        results[f"{prefix}{name}"] for name in ("values", "samples", "positions")
    )
    if unit is not None and not 0 <= unit < len(values):
        raise UnknownTensorError(
            f"unit {unit} does not exist: the tensor has units 0 to {len(values) - 1}"
        )
    units = range(len(values)) if unit is None else [unit]
    known: dict[int, Row] = {}

    def each() -> Iterator[Example]:
        for number in units:
            for value, sample, position in zip(
                values[number], samples[number].tolist(), positions[number].tolist(), strict=True
            ):
                if sample < 0:
                    continue  # fewer elements than asked for
                if sample not in known:
                    known[sample] = rows[sample]
                row = known[sample]
                index, at = places.found(position, row)
                words = [] if at is None else [str(one) for one in row["tokens"]]
                token = None if at is None else words[at]
                context = None if at is None else _context(words, at)
                yield Example(
                    number, float(value), sample, str(row["id"]), index, token, context, row
                )

    return Examples(list(each()))


def _context(tokens: Sequence[str], at: int) -> str:
    before, after = tokens[max(0, at - _AROUND) : at], tokens[at + 1 : at + 1 + _AROUND]
    return " ".join([*before, f"[{tokens[at]}]", *after])
