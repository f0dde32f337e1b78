"""Images: feature maps of convolutions, and attributions over the pixels of a sample."""

from collections.abc import Iterator, Sequence

import numpy as np

from extractkit.core.requests import request_text
from extractkit.core.values import Array
from extractkit.reports import Cube, Figure, Note, Picker, Section
from extractkit.reports.budget import ENCODED, HALF, compact
from extractkit.reports.charts import picture
from extractkit.reports.material import Material, not_all, sample_label, spread
from extractkit.runs.views import TensorView

_HEIGHT, _WIDTH, _CHANNEL = "height", "width", "channel"
_LONGEST_SIDE = 56
_MOST_SAMPLES = 12
_MOST_CHANNELS = 16
_MOST_TENSORS = 6
_MEAN = "mean of all channels"
_COLOURS = 4
_CAM = "cam"


def images(material: Material, room: int) -> Iterator[Section]:
    """Yield the maps over pictures: a figure for each tensor, all of the same sample."""
    views = [view for view in material.views.values() if is_map(view)]
    shown = views[:_MOST_TENSORS]
    samples = spread(material.at_hand, _MOST_SAMPLES)
    pickers = [Picker("sample", tuple(sample_label(material.row(index)) for index in samples))]
    figures: list[Figure] = []
    for number, view in enumerate(shown):
        made = _figure(material, view, samples, room // len(shown), number)
        if made is not None:
            figures.append(made[0])
            pickers += made[1]
    if not figures:
        return
    notes = [*not_all(len(samples), len(material.at_hand), "sample")]
    notes += not_all(len(figures), len(views), "tensor", "tensors with a map")
    if any(max(_sides(view)) > _LONGEST_SIDE for view in shown):
        notes.append(Note(f"Larger maps are reduced to {_LONGEST_SIDE} pixels, as means."))
    yield Section(
        "images",
        "Images",
        "What layers hold, and what predictions are due to, over the pixels of a sample.",
        (*figures, *notes),
        tuple(pickers),
    )


def is_map(view: TensorView) -> bool:
    """Return whether a tensor has a height and a width: by name, or as attribution of a picture."""
    if view.constant or view.result or view.dtype.kind not in "fiu":
        return False
    sizes = view.spec.sample_shape
    if any(size is None for size in sizes) or len(sizes) not in (2, 3):
        return False
    named = {_HEIGHT, _WIDTH} <= set(view.dims)
    gradient = view.gradient or {}
    pixels = min(_sides(view)) > _COLOURS and len(sizes) == 3 and 0 < (sizes[-1] or 0) <= _COLOURS
    of_picture = _CAM in gradient if len(sizes) == 2 else bool(gradient) and pixels
    return (named or of_picture) and min(_sides(view)) > 1


def _sides(view: TensorView) -> tuple[int, int]:
    """Return height and width."""
    sizes = [size or 0 for size in view.spec.sample_shape]
    dims = list(view.dims[1:])
    if {_HEIGHT, _WIDTH} <= set(dims):
        return sizes[dims.index(_HEIGHT)], sizes[dims.index(_WIDTH)]
    return sizes[0], sizes[1]


def channels_first(view: TensorView, value: Array) -> Array:
    """Return a sample's maps as (channels, height, width)."""
    dims = list(view.dims[1:])
    if value.ndim == 2:
        ordered = value[np.newaxis]
    elif {_HEIGHT, _WIDTH} <= set(dims):
        rest = next(at for at, dim in enumerate(dims) if dim not in (_HEIGHT, _WIDTH))
        ordered = np.transpose(value, (rest, dims.index(_HEIGHT), dims.index(_WIDTH)))
    else:
        ordered = np.moveaxis(value, -1, 0)
    return ordered.astype(np.float64)


def _figure(
    material: Material, view: TensorView, samples: Sequence[int], room: int, number: int
) -> tuple[Figure, list[Picker]] | None:
    values = [material.sample(view, index) for index in samples]
    maps = [None if one is None else reduced(channels_first(view, one)) for one in values]
    known = next((one for one in maps if one is not None), None)
    if known is None:
        return None
    channels, height, width = known.shape
    of_channel = len(samples) * height * width * HALF * ENCODED
    kept = spread(
        range(channels), max(1, min(material.most(_MOST_CHANNELS), int(room / of_channel) - 1))
    )
    blank = np.full(known.shape, np.nan)
    every = [blank if one is None else one for one in maps]
    side = [tuple(map(str, range(size))) for size in (height, width)]
    several = channels > 1
    if several:
        every = [np.concatenate([one.mean(0, keepdims=True), one[list(kept)]]) for one in every]
    else:
        every = [one[0] for one in every]
    drawn = np.stack(every)
    signed = bool(np.nanmin(drawn) < 0)
    channel = f"channel of {view.key}"
    what = request_text(view.request)
    caption = f"{what}." if what else f"{len(kept)} of {channels} channels." if several else ""
    pickers = ("sample", channel) if several else ("sample",)
    figure = Figure(
        f"image-{number}",
        view.key,
        picture(_WIDTH, _HEIGHT, max(height, width), signed=signed),
        pickers,
        (_HEIGHT, _WIDTH),
        tuple(Cube(compact(one), (side[0], side[1])) for one in drawn),
        caption=caption,
    )
    options = (_MEAN, *(f"channel {at}" for at in kept))
    return figure, [Picker(channel, options)] if several else []


def reduced(maps: Array) -> Array:
    """Return maps with sides of at most 56, each value the mean of a block.

    Args:
        maps: (channels, height, width). Rows and columns beyond the last whole block are dropped.
    """
    channels, height, width = maps.shape
    block = -(-max(height, width) // _LONGEST_SIDE)
    if block == 1:
        return maps
    rows, columns = max(1, height // block), max(1, width // block)
    cut = maps[:, : rows * block, : columns * block]
    tall, wide = min(block, height), min(block, width)
    return np.asarray(cut.reshape(channels, rows, tall, columns, wide).mean((2, 4)))
