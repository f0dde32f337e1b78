"""What sections are made of: a run, the samples to show, and values that are whole."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np

from extractkit.core.values import Array
from extractkit.errors import RunDirectoryError, counted
from extractkit.reports import Note
from extractkit.runs import JOURNAL
from extractkit.runs.journal import places
from extractkit.runs.manifest import Manifest, Status
from extractkit.runs.overview import Overview
from extractkit.runs.reader import Run
from extractkit.runs.samples import Row
from extractkit.runs.views import TensorView

T = TypeVar("T")

_LONGEST_LABEL = 60
_DRAWN_SAMPLES = 4
_DRAWN_VALUES = 4096


@dataclass(frozen=True, eq=False)
class Material:
    """A run as sections see it.

    Attributes:
        overview: what is notable about the run.
        manifest: the run's description of itself.
        run: the run, at its last checkpoint if it has some; None if it cannot be opened.
        checkpoint: the label of that checkpoint; None without checkpoints.
        over_checkpoints: the run at all of its checkpoints; None without checkpoints.
        damage: what could not be read, and why; filled while sections are made.
        tensors: the keys of the tensors to show; None: all.
        samples: the samples to show, which have values; None: all that have.
        umap: whether the map of samples is drawn by UMAP, too.
        limit: how many tokens or channels of a sample, or samples of a map, are shown; None: as
            many as fit on a page.
    """

    overview: Overview
    manifest: Manifest
    run: Run | None
    checkpoint: str | None = None
    over_checkpoints: Run | None = None
    damage: dict[str, None] = field(default_factory=dict)
    tensors: Collection[str] | None = None
    samples: Sequence[int] | None = None
    umap: bool = False
    limit: int | None = None

    @classmethod
    def of(cls, opened: Run, damage: dict[str, None] | None = None) -> "Material":
        """Return an open run as sections see it.

        Args:
            damage: what could not be read so far.
        """
        damage = {} if damage is None else damage

        def whole(read: Callable[[], T]) -> T | None:
            try:
                return read()
            except RunDirectoryError as error:
                damage[str(error)] = None
                return None

        unfinished = opened.status is not Status.FINISHED
        found = Overview.of(
            opened.path,
            opened.manifest,
            whole(lambda: len(places(opened.path / JOURNAL))) if unfinished else None,
            whole(lambda: opened.drift),
            None if unfinished else whole(lambda: opened.statistics),
        )
        if not opened.checkpoints:
            return cls(found, opened.manifest, opened, damage=damage)
        last = opened.checkpoints[-1]
        return cls(found, opened.manifest, opened.at(last), last, opened, damage)

    @property
    def views(self) -> Mapping[str, TensorView]:
        """The tensors with a value per sample, by key, and constants."""
        if self.run is None or self.tensors is None:
            return {} if self.run is None else self.run
        return {key: view for key, view in self.run.items() if self.shows(key)}

    def shows(self, key: str) -> bool:
        """Return whether a tensor is to be shown."""
        return self.tensors is None or key in self.tensors

    def most(self, usual: int) -> int:
        """Return how many samples, tokens or channels are shown, which is usually so many."""
        return usual if self.limit is None else self.limit

    @cached_property
    def missing(self) -> Mapping[int, str]:
        """The samples without values, with the reason."""
        try:
            return {} if self.run is None else self.run.missing
        except RunDirectoryError as error:
            self.damage[str(error)] = None
            return {}

    @cached_property
    def at_hand(self) -> Sequence[int]:
        """The samples to show, which have values, in order."""
        if self.samples is not None:
            return self.samples
        ranges = () if self.run is None else self.run.committed
        return [index for one in ranges for index in one if index not in self.missing]

    @cached_property
    def drawn(self) -> Mapping[str, Array]:
        """At most 4,096 finite values of each numeric tensor, from a few samples, as float64."""
        some = spread(self.at_hand, _DRAWN_SAMPLES)
        found = {}
        for key, view in self.views.items():
            if view.dtype.kind not in "fiub":
                continue
            if view.constant:
                each = [self._constant(view)]
            else:
                each = [self.sample(view, index) for index in some]
            parts = [_thinned(one, _DRAWN_VALUES // len(each)) for one in each if one is not None]
            values = np.concatenate(parts) if parts else np.zeros(0)
            found[key] = values[np.isfinite(values)]
        return found

    def row(self, index: int) -> Row:
        """Return what is known about a sample; without rows, its index only."""
        try:
            if self.run is not None:
                return self.run.samples[index]
        except (IndexError, RunDirectoryError) as error:
            self.damage[str(error)] = None
        return {"id": str(index), "index": index}

    def sample(self, view: TensorView, index: int) -> Array | None:
        """Return the value of a sample; None if it is damaged."""
        try:
            return view.sample(index)
        except RunDirectoryError as error:
            self.damage[str(error)] = None
            return None

    def _constant(self, view: TensorView) -> Array | None:
        try:
            return np.asarray(view)
        except RunDirectoryError as error:
            self.damage[str(error)] = None
            return None


def _thinned(values: Array, most: int) -> Array:
    """Return at most so many values at even distances, as float64."""
    flat = values.reshape(-1)
    return flat[:: max(1, -(-flat.size // most))].astype(np.float64)


def sample_label(row: Row) -> str:
    """Return what a sample is called in a picker: its text if it has one, else its id."""
    text = str(row.get("text") or row["id"])
    if text == str(row["index"]):
        return text
    cut = text if len(text) <= _LONGEST_LABEL else f"{text[:_LONGEST_LABEL]}…"
    return f"{row['index']}: {cut}"


def tokens_along(view: TensorView, axis: int, row: Row, count: int) -> tuple[str, ...]:
    """Return the tokens of a sample along an axis, or numbers where they are not known.

    Args:
        axis: the number of the axis, as stored.
        count: how many are needed.
    """
    tokens, length, follows = row.get("tokens"), row.get("length"), view.spec.axes[axis].free
    if isinstance(length, Mapping):
        length = length.get(follows)
    if isinstance(tokens, list) and follows is not None and len(tokens) == length:
        return tuple(str(one) for one in tokens[:count])
    return tuple(map(str, range(count)))


def spread(found: Sequence[T], most: int) -> Sequence[T]:
    """Return at most so many items, the first and the last among them, at even distances."""
    if len(found) <= most or most < 1:
        return found[: max(0, most)]
    if most == 1:
        return found[:1]
    return [found[round(at * (len(found) - 1) / (most - 1))] for at in range(most)]


def fitting(sizes: Mapping[int, float], room: int) -> Sequence[int]:
    """Return as many samples as fit into so many bytes, far apart; one even if it does not.

    Args:
        sizes: the bytes of each sample, in order.
    """
    every = list(sizes)
    for most in range(len(every), 1, -1):
        some = spread(every, most)
        if sum(sizes[index] for index in some) <= room:
            return some
    return every[:1]


def not_all(shown: int, of: int, one: str, several: str = "") -> list[Note]:
    """Return a note on how many are shown, if not all are.

    Args:
        one, several: what they are, as `counted` takes them.
    """
    if shown == of:
        return []
    every = counted(of, one, several)
    return [Note(f"{shown:,} of {every} are shown, so that the page stays small.")]


def more(rest: int, one: str, where: str) -> list[Note]:
    """Return a note on how many more there are, and where to find them, if there are any.

    Args:
        one: what they are, as `counted` takes it.
    """
    are = "is" if rest == 1 else "are"
    return [Note(f"{counted(rest, one)} more {are} {where}.")] if rest > 0 else []


def cut_short(rows: Iterable[Row], tokens: int) -> list[Note]:
    """Return a note on how many samples have more tokens than are shown, if some have."""
    longer = 0
    for row in rows:
        length = row.get("length")
        sizes = length.values() if isinstance(length, Mapping) else [length]
        longer += max((one for one in sizes if isinstance(one, int)), default=0) > tokens
    if not longer:
        return []
    are = "is" if longer == 1 else "are"
    text = f"{counted(longer, 'sample')} {are} longer: the first {tokens} tokens are shown."
    return [Note(text)]


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Return each key without the parts of its path that all keys share."""
    every = list(keys)
    paths = {key: key.replace(":", "/:").split("/") for key in every}
    if len({len(path) for path in paths.values()}) != 1 or len(every) < 2:
        return {key: key for key in every}
    varying = [
        at for at, parts in enumerate(zip(*paths.values(), strict=True)) if len({*parts}) > 1
    ]
    return {
        key: "/".join(path[at] for at in varying).replace("/:", ":") for key, path in paths.items()
    }
