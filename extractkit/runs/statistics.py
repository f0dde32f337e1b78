"""Statistics of a run on disk: partial results of shards, and results over all samples."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from extractkit.core.shards import Position, Shard
from extractkit.core.statistics import (
    FEATURE,
    OTHER,
    TENSOR,
    Array,
    JointStatistic,
    Merging,
    Partials,
    Statistic,
)
from extractkit.core.statistics.registry import Asked, Group, groups
from extractkit.core.statistics.results import (
    Results,
    Statistics,
    TensorStatistics,
    axis_of_features,
)
from extractkit.core.values import Dense
from extractkit.errors import RunDirectoryError
from extractkit.runs.files import StoredFile
from extractkit.runs.journal import Entry
from extractkit.runs.manifest import Manifest, RunStatistics
from extractkit.sinks.npz import UNREADABLE, NpzSink

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
) -> dict[tuple[str, str], Statistic | JointStatistic]:
    """Return a run's statistics by tensor, or by group, and name."""
    found: dict[tuple[str, str], Statistic | JointStatistic] = {
        (one.key, statistic.name): statistic for one in recorded for statistic in _asked(one).single
    }
    for group in recorded_groups(recorded):
        found[group.key, group.statistic.name] = group.statistic
    return found


def _asked(recorded: RunStatistics) -> Asked:
    return Asked.parse(list(recorded.statistics), recorded.key)


def recorded_groups(recorded: Sequence[RunStatistics]) -> tuple[Group, ...]:
    """Return the groups of tensors that have a joint statistic."""
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


def _features_name(recorded: RunStatistics, outer: Iterable[str]) -> str:
    """Return the name of a tensor's last axis, which holds the features, in its results."""
    labels = recorded.spec.labels
    name = (labels[-1] if len(labels) > 1 else None) or FEATURE
    return axis_of_features(name, _asked(recorded).single, outer)


def read_statistics(
    directory: Path,
    manifest: Manifest,
    committed: Callable[[], Mapping[Shard, Entry]] | None = None,
) -> Statistics:
    """Read the results of a finished run.

    Args:
        committed: returns the committed shards, from which the results of an unfinished run are
            merged. If None, such a run is refused.

    Raises:
        RunDirectoryError: the run has statistics and is not finished, or the file is damaged.
    """
    recorded = manifest.statistics
    if not recorded:
        return Statistics({})
    file = next((file for file in manifest.files if file.name == RESULTS), None)
    if file is not None:
        found: Partials = parsed(file.content(directory), directory / RESULTS)
    else:
        planned, entries = manifest.shards, {} if committed is None else committed()
        if not planned or not entries.keys() >= set(planned):
            raise RunDirectoryError(
                f"{directory} is not finished: its statistics are computed when all samples are "
                f"stored"
            )
        found = results(directory, manifest, {shard: entries[shard] for shard in planned})
    every = recorded_groups(recorded)
    outer = {axis.name: axis.coordinates for axis in manifest.outer_axes}
    among = {one.key: dict.fromkeys((TENSOR, f"{OTHER}{TENSOR}"), one.tensors) for one in every}
    names = {one.key: _features_name(one, outer) for one in recorded}
    wanted = (*(one.key for one in recorded), *(one.key for one in every))
    each: dict[str, dict[str, Results]] = {key: {} for key in wanted}
    try:
        for (key, name), statistic in _recorded(recorded).items():
            each[key][name] = Results(
                *(statistic, found[key, name], names.get(key, FEATURE)), among.get(key, {}), outer
            )
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
