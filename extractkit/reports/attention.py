"""Attention: maps of queries and keys by layer and head, over the tokens of a sample."""

from collections.abc import Iterator, Sequence

import numpy as np

from extractkit.core.requests import request_text
from extractkit.core.values import Array
from extractkit.reports import Cube, Figure, Note, Picker, Section
from extractkit.reports.budget import ENCODED, HALF, compact
from extractkit.reports.charts import heatmap
from extractkit.reports.material import (
    Material,
    cut_short,
    fitting,
    not_all,
    sample_label,
    short_names,
    spread,
    tokens_along,
)
from extractkit.runs.samples import Row
from extractkit.runs.views import TensorView

_QUERY, _KEY, _HEAD, _LAYER, _HABIT = "query", "key", "head", "layer", "heads by"
_MOST_TOKENS = 48
_FEWEST_TOKENS = 8
_MOST_SAMPLES = 24
_MOST_GROUPS = 4
_MEAN = "mean of all heads"

_HABITS = (
    "entropy, in bits",
    "share on the token itself",
    "share on the token before",
    "share on the token after",
    "share on the first token",
)
"""What the map of heads can show of each head, over the queries of a sample."""


def attention(material: Material, room: int) -> Iterator[Section]:
    """Yield a section for each group of attention maps of one kind."""
    groups = _groups(material)
    for number, views in enumerate(groups[:_MOST_GROUPS]):
        section = _section(material, views, room // len(groups[:_MOST_GROUPS]), number)
        if section is not None:
            yield section
    if len(groups) > _MOST_GROUPS:
        rest = len(groups) - _MOST_GROUPS
        note = Note(
            f"{rest} more groups of attention maps are not shown, so that the page stays small"
        )
        yield Section("attention-more", "Further attention", "", (note,))


def _groups(material: Material) -> list[list[TensorView]]:
    """Return the maps of queries and keys that have the same axes."""
    groups: dict[object, list[TensorView]] = {}
    for view in material.views.values():
        if is_map(view):
            lengths = tuple(str(axis) for axis in view.spec.axes[1:])
            groups.setdefault((lengths, bool(view.request)), []).append(view)
    return list(groups.values())


def is_map(view: TensorView) -> bool:
    """Return whether the last axes are queries and keys, by name or as both are along tokens."""
    if view.constant or view.result or view.dtype.kind != "f" or len(view.dims) not in (3, 4):
        return False
    down, across = view.spec.axes[-2:]
    return view.dims[-2:] == (_QUERY, _KEY) or (down.free is not None and down.free == across.free)


def _section(
    material: Material, views: Sequence[TensorView], room: int, number: int
) -> Section | None:
    every = len(views)
    views = _distinct(material, views)
    shown = _fitting(material, views, room)
    if shown is None:
        return None
    samples, tokens, layers = shown
    kept = [views[at] for at in layers]
    each = [_read(material, kept, index, tokens) for index in samples]
    whole = [(index, maps) for index, maps in zip(samples, each, strict=True) if maps is not None]
    if not whole:
        return None
    rows = [material.row(index) for index, _ in whole]
    names = [*short_names(view.key for view in kept).values()]
    heads = whole[0][1].shape[1]
    of_heads = [f"head {at}" for at in range(heads)]
    pickers = [Picker("sample", tuple(map(sample_label, rows))), Picker(_LAYER, tuple(names))]
    if heads > 1:
        pickers.append(Picker(_HEAD, (_MEAN, *of_heads)))
    maps = _figure_of_maps(kept, whole, rows, number)
    notes = _notes(material, views, kept, len(whole), tokens, rows)
    if len(views) < every:
        notes.append(Note(f"{every - len(views)} further maps repeat these, as those of dropout."))
    figures: tuple[Figure, ...] = (maps,)
    if heads > 1 or len(kept) > 1:
        pickers.append(Picker(_HABIT, _HABITS))
        figures = (_figure_of_habits(whole, names, of_heads, number), maps)
    what = request_text(kept[0].request).capitalize() or "Attention"
    return Section(
        f"attention-{number}" if number else "attention",
        f"{what} {number + 1}" if number else what,
        f"Each row is a token that looks, each column a token that is looked at. {len(kept)} "
        f"{'maps' if len(kept) > 1 else 'map'} of {heads} {'heads' if heads > 1 else 'head'}.",
        (*figures, *notes),
        tuple(pickers),
    )


def _fitting(
    material: Material, views: Sequence[TensorView], room: int
) -> tuple[Sequence[int], int, Sequence[int]] | None:
    """Return the samples, the number of tokens and the layers that fit into so many bytes."""
    some = spread(material.at_hand, _MOST_SAMPLES)
    first = [(index, material.sample(views[0], index)) for index in some]
    sizes = {index: value.shape for index, value in first if value is not None and value.size}
    if not sizes:
        return None
    shape = next(iter(sizes.values()))
    heads = shape[0] + 1 if len(shape) == 3 else 1
    each = heads * HALF * ENCODED
    most = material.most(_MOST_TOKENS)
    tokens = min(max(max(one[-2:]) for one in sizes.values()), most)
    while tokens > _FEWEST_TOKENS and tokens**2 * len(views) * each > room / 2:
        tokens -= 1
    layers = spread(range(len(views)), max(1, int(room / (tokens**2 * each))))
    bytes_of = {
        index: min(one[-2], tokens) * min(one[-1], tokens) * len(layers) * each
        for index, one in sizes.items()
    }
    return fitting(bytes_of, room), tokens, layers


def _distinct(material: Material, views: Sequence[TensorView]) -> list[TensorView]:
    """Return the maps without those that repeat another, as layers of dropout do."""
    known: dict[bytes, TensorView] = {}
    index = next(iter(material.at_hand), None)
    for view in views:
        value = None if index is None else material.sample(view, index)
        known.setdefault(view.key.encode() if value is None else value.tobytes(), view)
    return list(known.values())


def _read(material: Material, views: Sequence[TensorView], index: int, tokens: int) -> Array | None:
    """Return the maps of a sample, (layers, heads, queries, keys); None if one is damaged."""
    maps = []
    for view in views:
        value = material.sample(view, index)
        if value is None or not value.size:
            return None
        cut = value[..., :tokens, :tokens]
        maps.append(cut if cut.ndim == 3 else cut[np.newaxis])
    if len({one.shape for one in maps}) != 1:
        return None
    return np.stack(maps)


def _figure_of_maps(
    views: Sequence[TensorView],
    whole: Sequence[tuple[int, Array]],
    rows: Sequence[Row],
    number: int,
) -> Figure:
    cubes = []
    for (_, maps), row in zip(whole, rows, strict=True):
        if maps.shape[1] > 1:
            values = np.concatenate([maps.mean(axis=1, keepdims=True), maps], axis=1)
        else:
            values = maps[:, 0]
        labels = tuple(tokens_along(views[0], at, row, maps.shape[at]) for at in (-2, -1))
        cubes.append(Cube(compact(values), labels))
    signed = any(float(np.nanmin(maps, initial=0)) < 0 for _, maps in whole)
    by_head = (_HEAD,) if whole[0][1].shape[1] > 1 else ()
    names = {_QUERY: "from", _KEY: "to"}
    return Figure(
        f"attention-{number}-map" if number else "attention-map",
        "Tokens",
        heatmap(_KEY, _QUERY, "share", names=names, signed=signed),
        ("sample", _LAYER, *by_head),
        (_QUERY, _KEY),
        tuple(cubes),
        caption="Point at a cell for its value. Values have three digits.",
    )


def _figure_of_habits(
    whole: Sequence[tuple[int, Array]], names: Sequence[str], heads: Sequence[str], number: int
) -> Figure:
    cubes = [Cube(compact(habits(maps)), (tuple(names), tuple(heads))) for _, maps in whole]
    return Figure(
        f"attention-{number}-heads" if number else "attention-heads",
        "Heads",
        heatmap(_HEAD, _LAYER, "mean"),
        ("sample", _HABIT),
        (_LAYER, _HEAD),
        tuple(cubes),
        clicks={_LAYER: _LAYER, _HEAD: _HEAD},
        caption="The mean over the tokens of the sample. Choose a cell to see its map.",
    )


def habits(maps: Array) -> Array:
    """Return the habits of heads, (habits, layers, heads), from maps of one sample.

    Args:
        maps: (layers, heads, queries, keys).
    """
    shares = maps.astype(np.float64)
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    queries, keys = maps.shape[-2:]
    found = [-(shares * logs).sum(-1).mean(-1)]
    for offset in (0, -1, 1):
        at = np.arange(max(0, -offset), min(queries, keys - offset))
        on = shares[..., at, at + offset] if len(at) else np.zeros((*maps.shape[:2], 1))
        found.append(on.mean(-1))
    found.append(shares[..., 0].mean(-1))
    return np.stack(found)


def _notes(
    material: Material,
    views: Sequence[TensorView],
    kept: Sequence[TensorView],
    samples: int,
    tokens: int,
    rows: Sequence[Row],
) -> list[Note]:
    notes = not_all(samples, len(material.at_hand), "sample")
    notes += not_all(len(kept), len(views), "map")
    return notes + cut_short(rows, tokens)
