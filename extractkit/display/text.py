"""Names, shapes, sizes and times as short texts."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from extractkit.plan import storable
from extractkit.runs.disk import human_bytes
from extractkit.tensors import SAMPLE, Kind

_PLURALS = {
    Kind.MODEL_INPUT: ("model input", "model inputs"),
    Kind.MODEL_OUTPUT: ("model output", "model outputs"),
    Kind.LAYER_INPUT: ("input", "inputs"),
    Kind.LAYER_OUTPUT: ("output", "outputs"),
    Kind.OP: ("op", "ops"),
    Kind.WEIGHT: ("weight", "weights"),
    Kind.OPTIMIZER: ("optimizer variable", "optimizer variables"),
    Kind.MOVING_AVERAGE: ("moving average", "moving averages"),
}


def safe(name: str) -> str:
    """A name with everything that a terminal would obey, or not show, as an escape sequence.

    Markup is no danger where the result goes into a `rich.text.Text`, which does not parse it.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in name
    )


def shape_text(dims: Sequence[str | None] | None, shape: Sequence[int | None] | None) -> str:
    """Axes by name where they vary and by size where they do not: `sample × token × 384`."""
    if dims is None or shape is None:
        return "any shape"
    axes = zip(dims, shape, strict=True)
    return " × ".join(_axis(dim, size) for dim, size in axes) or "scalar"


def size_text(
    dims: Sequence[str | None] | None, shape: Sequence[int | None] | None, dtype: str
) -> str:
    """Bytes as stored, for each element of the axes that vary: `1.5 kB/token`, `576 kB`."""
    try:
        size = np.dtype(storable(dtype)).itemsize
    except TypeError:
        return ""
    if dims is None or shape is None or "?" in dims or not size:
        return ""
    varying: Counter[str] = Counter()
    for dim, length in zip(dims, shape, strict=True):
        if length is not None:
            size *= length
        varying.update(factor for factor in (dim or "").split("*") if factor and length is None)
    samples = varying.pop(SAMPLE, 0)
    factors = [_power(dim, count) for dim, count in varying.items()] or ["sample"] * min(samples, 1)
    return "/".join([human_bytes(size), *factors])


def counts_text(kinds: Counter[Kind]) -> str:
    """`12 ops, 1 input`, in the order of `Kind`."""
    return ", ".join(
        f"{kinds[kind]:,} {_PLURALS[kind][kinds[kind] != 1]}" for kind in Kind if kinds[kind]
    )


def duration_text(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3:05`, `2:03:05`."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def plural(count: int, one: str) -> str:
    """`1 sample`, `2 samples`."""
    return f"{count:,} {one}{'' if count == 1 else 's'}"


def rate_text(count: int, seconds: float) -> str:
    """`110 samples/s`; nothing where nothing has been done, or in no time."""
    if not count or seconds <= 0:
        return ""
    rate = count / seconds
    return f"{rate:,.{1 if rate < 10 else 0}f} samples/s"


def _axis(dim: str | None, size: int | None) -> str:
    if size is not None:
        return f"{size}"
    return safe(dim or "?")


def _power(dim: str, count: int) -> str:
    return safe(dim) if count == 1 else f"{safe(dim)}^{count}"
