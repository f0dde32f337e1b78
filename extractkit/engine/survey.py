"""One pass over all samples before any value is computed: their lengths, and a row for each."""

from array import array
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from extractkit.inputs.protocol import Sample, Source
from extractkit.models.protocol import Encoded, Model
from extractkit.plan import Lengths

_CHUNK = 256

Row = Mapping[str, object]


def survey(model: Model, source: Source, record: Callable[[Sequence[Row]], None]) -> Lengths:
    """Every sample's length along each free axis; `record` is given the samples' rows in turn.

    Memory grows by eight bytes a sample and axis, whatever the samples hold.
    """
    axes = {axis: array("q") for axis in model.signature.free_axes}
    for start in range(0, len(source), _CHUNK):
        samples = source.read(start, min(start + _CHUNK, len(source)))
        # Samples of fixed shape need not be read to know their length.
        encoded: Sequence[Encoded | None] = model.encode(samples) if axes else [None] * len(samples)
        record([_row(sample, one) for sample, one in zip(samples, encoded, strict=True)])
        for axis, lengths in axes.items():
            lengths.extend(one.sizes[axis] for one in encoded if one is not None)
    return Lengths(
        len(source), {axis: np.array(lengths, dtype=np.int64) for axis, lengths in axes.items()}
    )


def longest(model: Model, source: Source) -> Lengths | None:
    """An upper bound of every length without reading the samples; None where there is none."""
    limits = model.signature.longest or {}
    axes = model.signature.free_axes
    if any(axis not in limits for axis in axes):
        return None
    return Lengths(len(source), {axis: np.full(len(source), limits[axis]) for axis in axes})


def _row(sample: Sample, encoded: Encoded | None) -> dict[str, object]:
    row: dict[str, object] = {"index": sample.index, "id": sample.id, "source": sample.source}
    if encoded is not None:
        sizes = list(encoded.sizes.values())
        row["length"] = sizes[0] if len(sizes) == 1 else dict(encoded.sizes)
        row["truncated"] = encoded.truncated
        row["tokens"] = None if encoded.tokens is None else list(encoded.tokens)
    if isinstance(sample.data, str):
        row["text"] = sample.data
    return {**sample.extra, **row}
