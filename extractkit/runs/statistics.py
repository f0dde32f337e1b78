"""Statistics of a run on disk: partial results of shards, and results over all samples."""

import io
from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import unquote

import numpy as np

from extractkit.core.shards import Position, Shard
from extractkit.core.statistics import Accumulator, Array, Arrays, Merging, Partials
from extractkit.core.statistics.registry import Asked, Group, groups
from extractkit.core.values import Dense
from extractkit.errors import RunDirectoryError, UnknownTensorError, choices, counted
from extractkit.runs.files import StoredFile
from extractkit.runs.journal import Entry
from extractkit.runs.manifest import Manifest, RunStatistics
from extractkit.sinks.npz import UNREADABLE, NpzSink

V = TypeVar("V")

RESULTS = "statistics.npz"
"""Name of the file with the results, in the run directory."""

_SEPARATOR = "\n"
"""Between tensor, statistic and array in the name of an array. Only a tensor's key may hold it."""


def serialized(partials: Partials) -> bytes:
    """Serialise partial results or results as an `.npz` file."""
    return NpzSink().serialize(
        {
            _SEPARATOR.join((key, statistic, name)): Dense(np.asarray(array))
            for (key, statistic), arrays in partials.items()
            for name, array in arrays.items()
        }
    )


def parsed(content: bytes, path: Path) -> dict[tuple[str, str], dict[str, Array]]:
    """Return the partial results or results of such a file.

    Args:
        path: the file, for messages.

    Raises:
        RunDirectoryError: it is not of that form.
    """
    found: dict[tuple[str, str], dict[str, Array]] = {}
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            for member in archive.files:
                key, statistic, name = unquote(member).rsplit(_SEPARATOR, 2)
                array = archive[member]
                if not isinstance(array, np.ndarray):
                    raise ValueError(f"{member!r} is not an array")
                found.setdefault((key, statistic), {})[name] = array
    except UNREADABLE as error:
        raise RunDirectoryError(f"{path} is damaged: {error}") from error
    return found


def results(directory: Path, manifest: Manifest, entries: Mapping[Shard, Entry]) -> Partials:
    """Merge the partial results of shards to results, at each position of outer axes.

    Args:
        entries: the entries of all shards, in the plan's order.

    Raises:
        RunDirectoryError: a file is damaged, or holds those of other statistics.
    """
    shards: dict[tuple[Position, ...], list[StoredFile]] = {}
    for shard, entry in entries.items():
        if entry.statistics is not None:
            shards.setdefault(shard.outer, []).append(entry.statistics)
    recorded = manifest.statistics
    return over_axes({at: _merged(directory, recorded, files) for at, files in shards.items()})


def _merged(
    directory: Path, recorded: Sequence[RunStatistics], files: Sequence[StoredFile]
) -> Partials:
    merging = {at: Merging(statistic) for at, statistic in _recorded(recorded).items()}
    first: dict[tuple[str, str], set[str]] = {}
    for file in files:
        path = directory / file.name
        partials = parsed(file.content(directory), path)
        names = {at: set(arrays) for at, arrays in partials.items()}
        first = first or names
        if set(partials) != set(merging) or names != first:
            raise RunDirectoryError(f"{path} is damaged: it holds other statistics than the run")
        try:
            for at, one in merging.items():
                one.add(partials[at])
        except (LookupError, TypeError, ValueError) as error:
            raise RunDirectoryError(
                f"{path} is damaged: its partial results cannot be merged"
            ) from error
    return {at: one.finish() for at, one in merging.items()}


def _recorded(
    recorded: Sequence[RunStatistics],
) -> dict[tuple[str, str], Accumulator[Any, Arrays, Arrays]]:
    """Return a run's statistics by tensor, or by group, and name."""
    found: dict[tuple[str, str], Accumulator[Any, Arrays, Arrays]] = {
        (one.key, statistic.name): statistic for one in recorded for statistic in _asked(one).single
    }
    for group in recorded_groups(recorded):
        found[group.key, group.statistic.name] = group.statistic
    return found


def _asked(recorded: RunStatistics) -> Asked:
    return Asked.parse(list(recorded.statistics), recorded.key)


def recorded_groups(recorded: Sequence[RunStatistics]) -> tuple[Group, ...]:
    """Return the groups of tensors with statistics of all of them together."""
    return groups((one.key, one.selectors, _asked(one)) for one in recorded)


def over_axes(each: Mapping[tuple[Position, ...], Partials]) -> Partials:
    """Stack results at positions of outer axes, which become their first axes."""
    if () in each:
        return each[()]
    outer = [
        over_axes({at[1:]: one for at, one in each.items() if at[0] == first})
        for first in dict.fromkeys(at[0] for at in each)
    ]
    return {
        at: {name: np.stack([one[at][name] for one in outer]) for name in arrays}
        for at, arrays in outer[0].items()
    }


class _Named(Generic[V]):
    """Frozen values by name, as items and as attributes.

    A value is an attribute even if its name is that of a method (`values`).
    """

    def __init__(self, what: str, found: Mapping[str, V]) -> None:
        vars(self).update(found, _what=what, _found=dict(found))

    def __getitem__(self, name: str) -> V:
        if name not in self:
            raise UnknownTensorError(self._lacks(name))
        found: dict[str, V] = vars(self)["_found"]
        return found[name]

    def __getattr__(self, name: str) -> V:
        # Copies and pickles ask for special methods before there is any state.
        if name.startswith("__") or "_found" not in vars(self):
            raise AttributeError(name)
        raise AttributeError(self._lacks(name))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name!r} cannot be set: the statistics of a run are read only")

    def __iter__(self) -> Iterator[str]:
        return iter(vars(self)["_found"])

    def __len__(self) -> int:
        return len(vars(self)["_found"])

    def __contains__(self, name: object) -> bool:
        return name in vars(self)["_found"]

    def keys(self) -> KeysView[str]:
        """Return the names."""
        found: dict[str, V] = vars(self)["_found"]
        return found.keys()

    def items(self) -> ItemsView[str, V]:
        """Return pairs of name and value."""
        found: dict[str, V] = vars(self)["_found"]
        return found.items()

    def _lacks(self, name: str) -> str:
        return f"{vars(self)['_what']} {name!r}. {choices(name, self)}"


class Results(_Named[Array]):
    """The results of one statistic: arrays by name, also as attributes."""

    def __init__(self, statistic: str, arrays: Mapping[str, Array]) -> None:
        super().__init__(f"{statistic!r} has no result", arrays)

    def __repr__(self) -> str:
        shapes = (f"{name} {list(self[name].shape)}" for name in self)
        return f"<Results: {', '.join(shapes)}>"


class TensorStatistics(_Named[Results]):
    """The statistics of one tensor by name, also as attributes: `.moments.mean`.

    Attributes:
        tensors: the keys of the tensors: one, or those of a selector with a statistic of all of
            them together.
    """

    tensors: tuple[str, ...]

    def __init__(
        self,
        key: str,
        found: Mapping[str, Results],
        tensors: Sequence[str] = (),
        elsewhere: Mapping[str, str] | None = None,
    ) -> None:
        """Hold the statistics of a tensor, or of a group.

        Args:
            key: the key of the tensor or group.
            tensors: the tensors of a group.
            elsewhere: keys of groups with the tensor, by statistic.
        """
        super().__init__(f"{key!r} has no statistic", found)
        vars(self).update(
            _key=key, tensors=tuple(tensors) or (key,), _elsewhere=dict(elsewhere or {})
        )

    def at(self, position: int) -> "TensorStatistics":
        """Return the statistics at one position of the first outer axis."""
        found = {
            name: Results(name, {result: self[name][result][position] for result in self[name]})
            for name in self
        }
        own = vars(self)
        return TensorStatistics(own["_key"], found, own["tensors"], own["_elsewhere"])

    def _lacks(self, name: str) -> str:
        if (group := vars(self)["_elsewhere"].get(name)) is None:
            return super()._lacks(name)
        return (
            f"{name!r} compares {vars(self)['_key']!r} with other tensors: "
            f"run.statistics[{group!r}].{name}"
        )

    def __repr__(self) -> str:
        return f"<Statistics of {vars(self)['_key']!r}: {', '.join(self)}>"


class Statistics(Mapping[str, TensorStatistics]):
    """The statistics of a run, by tensor, and by `@SELECTOR` those of several tensors together."""

    def __init__(self, found: Mapping[str, TensorStatistics]) -> None:
        self._found = dict(found)

    def __getitem__(self, key: str) -> TensorStatistics:
        if key not in self._found:
            raise UnknownTensorError(
                f"{key!r} is not a tensor with statistics of this run. "
                f"{choices(key, self._found) if self._found else 'The run has none.'}"
            )
        return self._found[key]

    def __contains__(self, key: object) -> bool:
        return key in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        return f"<Statistics of {counted(len(self), 'tensor')}>"

    def at(self, position: int) -> "Statistics":
        """Return the statistics at one position of the first outer axis."""
        return Statistics({key: one.at(position) for key, one in self._found.items()})


def read_statistics(
    directory: Path, recorded: Sequence[RunStatistics], files: Sequence[StoredFile]
) -> Statistics:
    """Read the results of a finished run.

    Raises:
        RunDirectoryError: the run has statistics and is not finished, or the file is damaged.
    """
    if not recorded:
        return Statistics({})
    file = next((file for file in files if file.name == RESULTS), None)
    if file is None:
        raise RunDirectoryError(
            f"{directory} is not finished: its statistics are computed when all samples are stored"
        )
    found = parsed(file.content(directory), directory / RESULTS)
    every = recorded_groups(recorded)
    wanted: dict[str, list[str]] = {
        key: [] for key in (*(one.key for one in recorded), *(one.key for one in every))
    }
    for key, name in _recorded(recorded):
        wanted[key].append(name)
    try:
        each = {
            key: {name: Results(name, found[key, name]) for name in names}
            for key, names in wanted.items()
        }
    except KeyError as error:
        raise RunDirectoryError(f"{directory / RESULTS} lacks {error}: damaged") from error
    elsewhere = {
        key: {one.statistic.name: one.key for one in every if key in one.tensors} for key in wanted
    }
    tensors = {one.key: one.tensors for one in every}
    return Statistics(
        {
            key: TensorStatistics(key, found, tensors.get(key, ()), elsewhere[key])
            for key, found in each.items()
        }
    )
