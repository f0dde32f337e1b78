"""Statistics of a run on disk: the states of shards, and the results over all samples."""

import io
from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import unquote

import numpy as np

from extractkit.core.statistics import Array, Merging, States
from extractkit.core.statistics.registry import Asked
from extractkit.core.values import Dense
from extractkit.errors import RunDirectoryError, UnknownTensorError, choices
from extractkit.runs.files import StoredFile, content_of
from extractkit.runs.manifest import RunStatistics
from extractkit.sinks.npz import NpzSink

V = TypeVar("V")

STATISTICS = "statistics.npz"
"""The file with the results, in the run directory."""

_SEPARATOR = "\n"
"""Between tensor, statistic and array in the name of an array. None of these holds it."""


def serialized(states: States) -> bytes:
    """Serialise states or results as an `.npz` file."""
    return NpzSink().serialize(
        {
            _SEPARATOR.join((key, statistic, name)): Dense(np.asarray(array))
            for (key, statistic), arrays in states.items()
            for name, array in arrays.items()
        }
    )


def parsed(content: bytes) -> dict[tuple[str, str], dict[str, Array]]:
    """Return the states or results of such a file."""
    found: dict[tuple[str, str], dict[str, Array]] = {}
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        for member in archive.files:
            key, statistic, name = unquote(member).split(_SEPARATOR)
            found.setdefault((key, statistic), {})[name] = archive[member]
    return found


def results(
    directory: Path, recorded: Sequence[RunStatistics], files: Sequence[StoredFile]
) -> States:
    """Merge the states of shards, and compute the results.

    Args:
        files: the files of all shards, in the plan's order.

    Raises:
        RunDirectoryError: a file is damaged.
    """
    merging = {
        (tensor.key, statistic.name): Merging(statistic)
        for tensor in recorded
        for statistic in Asked.parse(list(tensor.statistics), tensor.key).statistics
    }
    for file in files:
        file.check(directory)
        states = parsed(content_of(directory / file.name))
        for at, one in merging.items():
            one.add(states[at])
    return {at: one.finish() for at, one in merging.items()}


def over_checkpoints(each: Sequence[States]) -> States:
    """Stack the results of several checkpoints along a first axis."""
    return {
        at: {name: np.stack([one[at][name] for one in each]) for name in arrays}
        for at, arrays in each[0].items()
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
    """The statistics of one tensor by name, also as attributes: `.moments.mean`."""

    def __init__(self, key: str, found: Mapping[str, Results]) -> None:
        super().__init__(f"{key!r} has no statistic", found)
        vars(self)["_key"] = key

    def at(self, checkpoint: int) -> "TensorStatistics":
        """Return the statistics at one position of the checkpoint axis."""
        found = {
            name: Results(name, {result: self[name][result][checkpoint] for result in self[name]})
            for name in self
        }
        return TensorStatistics(vars(self)["_key"], found)

    def __repr__(self) -> str:
        return f"<Statistics of {vars(self)['_key']!r}: {', '.join(self)}>"


class Statistics(Mapping[str, TensorStatistics]):
    """The statistics of a run, by tensor."""

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
        return f"<Statistics of {len(self)} tensors>"

    def at(self, checkpoint: int) -> "Statistics":
        """Return the statistics at one position of the checkpoint axis."""
        return Statistics({key: one.at(checkpoint) for key, one in self._found.items()})


def read_statistics(
    directory: Path, recorded: Sequence[RunStatistics], files: Sequence[StoredFile]
) -> Statistics:
    """Read the results of a finished run.

    Raises:
        RunDirectoryError: the run has statistics and is not finished, or the file is damaged.
    """
    if not recorded:
        return Statistics({})
    file = next((file for file in files if file.name == STATISTICS), None)
    if file is None:
        raise RunDirectoryError(
            f"{directory} is not finished: its statistics are computed when all samples are stored"
        )
    file.check(directory)
    found = parsed(content_of(directory / STATISTICS))
    try:
        return Statistics(
            {
                tensor.key: TensorStatistics(
                    tensor.key,
                    {name: Results(name, found[tensor.key, name]) for name in tensor.names},
                )
                for tensor in recorded
            }
        )
    except KeyError as error:
        raise RunDirectoryError(f"{directory / STATISTICS} lacks {error}: damaged") from error
