"""The results of statistics, by tensor and name: as arrays, tables and labelled arrays."""

from collections.abc import Hashable, ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence
from itertools import chain
from math import prod
from typing import Any, Generic, TypeVar

import numpy as np

from extractkit.core.component import require
from extractkit.core.notebook import Shown
from extractkit.core.spec import unique_dims
from extractkit.core.statistics import (
    BIN,
    EDGE,
    FEATURE,
    OTHER,
    QUANTILE,
    QUANTILES,
    SHAPE,
    TENSOR,
    Array,
    Configured,
)
from extractkit.errors import UnknownTensorError, choices, counted

V = TypeVar("V")

LOWER, UPPER = "lower", "upper"
"""Columns with the edges of an interval."""

VALUE = "value"
_FIRST_COLUMNS = (TENSOR, "statistic", "result")
"""Columns of the table of all results, beside the axes."""


class _Named(Shown, Generic[V]):
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
    """The results of one statistic: arrays by name, also as attributes.

    Attributes:
        dims: the axes of each result by name.
        labels: the labels along axes that have some, such as checkpoints and tensors.
    """

    dims: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, tuple[Any, ...]]

    def __init__(
        self,
        statistic: Configured,
        arrays: Mapping[str, Array],
        feature: str = FEATURE,
        labels: Mapping[str, Sequence[Any]] | None = None,
        outer: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        """Hold results.

        Args:
            arrays: the results, whose first axes are the outer ones.
            feature: the name of the axis of features. It is `feature` if a column of a table or
                another axis has that name.
            labels: the labels along axes.
            outer: those along outer axes, such as that of checkpoints, the slowest first.
        """
        super().__init__(f"{statistic.name!r} has no result", arrays)
        first, inner = dict(outer or {}), dict(labels or {})
        known = {axis: tuple(each) for axis, each in (first | inner).items()}
        feature = axis_of_features(feature, [statistic], first)
        renamed = {FEATURE: feature, f"{OTHER}{FEATURE}": f"{OTHER}{feature}"}
        dims = {
            name: (*first, *(renamed.get(axis, axis) for axis in _axes(statistic, name, own)))
            for name, array in arrays.items()
            for own in [np.ndim(array) - len(first)]
        }
        used = {axis for axes in dims.values() for axis in axes}
        vars(self).update(
            _statistic=statistic,
            _feature=feature,
            _inner=inner,
            _outer=first,
            dims=dims,
            labels={axis: known[axis] for axis in known if axis in used},
        )

    def at(self, position: int) -> "Results":
        """Return the results at one position of the first outer axis."""
        own = vars(self)
        arrays = {name: array[position] for name, array in own["_found"].items()}
        outer = dict(list(own["_outer"].items())[1:])
        return Results(own["_statistic"], arrays, own["_feature"], own["_inner"], outer)

    def columns(self, most: int | None = None) -> dict[str, Array]:
        """Return the results as columns of one table with a row for each element.

        The axes come first, by label or number. A result without an axis is repeated along it.
        Edges of intervals are the columns `lower` and `upper`.

        Args:
            most: return only the first rows, at most this many.
        """
        arrays, labels = self._on_axes()
        sizes: dict[str, int] = {}
        for axes, array in sorted(arrays.values(), key=lambda one: -len(one[0])):
            sizes |= zip(axes, array.shape, strict=True)
        every = _first(tuple(sizes.values()), most)
        at = dict(zip(sizes, every, strict=True))
        count = len(every[0]) if every else 1
        found = {axis: labels[axis][at[axis]] if axis in labels else at[axis] for axis in sizes}
        for name, (axes, array) in arrays.items():
            found[name] = np.broadcast_to(array[tuple(at[axis] for axis in axes)], count)
        return found

    def rows(self, result: str) -> dict[str, Array]:
        """Return one result as columns: its axes, by label or number, and `value` as float64."""
        own = vars(self)
        array = self[result]
        every = _first(array.shape)
        labels = {axis: np.asarray(each) for axis, each in own["labels"].items()}
        found = {
            axis: labels[axis][numbers] if axis in labels else numbers
            for axis, numbers in zip(own["dims"][result], every, strict=True)
        }
        return {**found, VALUE: array.reshape(-1).astype(np.float64)}

    def summary(self) -> str:
        """Return what the results show, in one line.

        Of several checkpoints, only the last counts.
        """
        own = vars(self)
        for axis, labels in own["_outer"].items():
            return f"{self.at(-1).summary()} ({axis} {labels[-1]})"
        statistic: Configured = own["_statistic"]
        return statistic.summary(own["_found"])

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with a row for each element and a column for each result.

        Axes are columns too. A result without one of the axes is repeated along it.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return require("pandas", "to_pandas").DataFrame(self.columns())

    def to_xarray(self) -> Any:
        """Return an `xarray.Dataset` with a variable for each result, whose axes have names.

        The edges of a histogram are the coordinates `lower` and `upper` along `bin`.

        Raises:
            MissingExtraError: xarray is not installed.
        """
        variables, labels = self._on_axes()
        edges = {name: variables.pop(name) for name in [*variables] if name not in self}
        coordinates: dict[str, Any] = {**labels, **edges}
        return require("xarray", "to_xarray").Dataset(variables, coords=coordinates)

    def _on_axes(self) -> tuple[dict[str, tuple[tuple[str, ...], Array]], dict[str, Array]]:
        """Return axes and array of each result, and the labels along axes.

        Edges are `lower` and `upper` along `bin`, and quantiles are labels.
        """
        own = vars(self)
        labels = {axis: np.asarray(each) for axis, each in own["labels"].items()}
        arrays: dict[str, tuple[tuple[str, ...], Array]] = {}
        for name, array in own["_found"].items():
            axes = own["dims"][name]
            if self._has_edges(name):
                arrays[LOWER] = ((*axes[:-1], BIN), array[..., :-1])
                arrays[UPPER] = ((*axes[:-1], BIN), array[..., 1:])
            elif name == QUANTILES:
                labels[QUANTILE] = array.reshape(-1, array.shape[-1])[0]
            else:
                arrays[name] = (axes, array)
        return arrays, labels

    def _has_edges(self, result: str) -> bool:
        statistic: Configured = vars(self)["_statistic"]
        return statistic.dims[result][-1:] == (EDGE,)

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
        own = vars(self)
        found = {name: one.at(position) for name, one in own["_found"].items()}
        return TensorStatistics(own["_key"], found, own["tensors"], own["_elsewhere"])

    def to_pandas(self) -> Any:
        """Return all results as one `pandas.DataFrame`; see `Statistics.to_pandas`."""
        return Statistics({vars(self)["_key"]: self}).to_pandas()

    def to_xarray(self) -> Any:
        """Return all results as one `xarray.Dataset`; see `Statistics.to_xarray`."""
        return _dataset((f"{name}.", found) for name, found in vars(self)["_found"].items())

    def _lacks(self, name: str) -> str:
        if (group := vars(self)["_elsewhere"].get(name)) is None:
            return super()._lacks(name)
        return (
            f"{name!r} compares {vars(self)['_key']!r} with other tensors: "
            f"run.statistics[{group!r}].{name}"
        )

    def __repr__(self) -> str:
        return f"<Statistics of {vars(self)['_key']!r}: {', '.join(self)}>"


class Statistics(Shown, Mapping[str, TensorStatistics]):
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

    def to_pandas(self) -> Any:
        """Return all results as one long `pandas.DataFrame`, with a row for each number.

        Its columns are `tensor`, `statistic`, `result`, the axes, and `value` as float64. A row of
        a result without an axis has a missing value there.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        pandas = require("pandas", "to_pandas")
        tables = [
            pandas.DataFrame({**dict(zip(_FIRST_COLUMNS, at, strict=True)), **results.rows(at[-1])})
            for key, one in self._found.items()
            for statistic, results in one.items()
            for at in ((key, statistic, result) for result in results)
        ]
        if not tables:
            return pandas.DataFrame(columns=[*_FIRST_COLUMNS, VALUE])
        whole = pandas.concat(tables, ignore_index=True)
        axes = [name for name in whole if name not in {*_FIRST_COLUMNS, VALUE}]
        # Axes without labels are numbers, also where some rows have none.
        numbers = {axis: "Int64" for axis in axes if pandas.api.types.is_float_dtype(whole[axis])}
        return whole[[*_FIRST_COLUMNS, *axes, VALUE]].astype(numbers)

    def to_xarray(self) -> Any:
        """Return all results as one `xarray.Dataset`, with variables `TENSOR STATISTIC.RESULT`.

        An axis that has another size or other labels than one of the same name gets a number, as in
        `feature_1`.

        Raises:
            MissingExtraError: xarray is not installed.
        """
        return _dataset(
            (f"{key} {statistic}.", results)
            for key, one in self._found.items()
            for statistic, results in one.items()
        )


def axis_of_features(name: str, statistics: Iterable[Configured], outer: Iterable[str] = ()) -> str:
    """Return a name for the axis of features in the results of a tensor's statistics.

    Args:
        name: the name of the tensor's last axis, which is taken unless it is that of an outer axis,
            or of another axis or a column of one of the statistics.
    """
    dims = [one.dims for one in statistics]
    axes = {axis for one in dims for several in one.values() for axis in several}
    edges = {BIN, LOWER, UPPER} if EDGE in axes else set()
    others = axes - {FEATURE, f"{OTHER}{FEATURE}"}
    taken = {*others, *edges, *chain.from_iterable(dims), *outer, *_FIRST_COLUMNS, VALUE}
    return FEATURE if {name, f"{OTHER}{name}"} & taken else name


def _axes(statistic: Configured, result: str, count: int) -> tuple[str, ...]:
    """Return the names of a result's own axes, of which there are so many."""
    axes = statistic.dims[result]
    return tuple(f"axis{at}" for at in range(count)) if axes == (SHAPE,) else axes


def _first(shape: tuple[int, ...], most: int | None = None) -> tuple[Array, ...]:
    """Return the numbers of the first elements, in C order, along each axis."""
    size = prod(shape)
    rows = np.arange(size if most is None else min(size, most))
    return np.unravel_index(rows, shape) if shape else ()


def _dataset(every: Iterable[tuple[str, Results]]) -> Any:
    """Return the results of several statistics as one Dataset, their names after these prefixes."""
    known: dict[str, Hashable] = {}
    variables: dict[str, Any] = {}
    coordinates: dict[str, Any] = {}
    for prefix, results in every:
        for name, array in results.items():
            axes = results.dims[name]
            forms = [
                (size, results.labels.get(axis))
                for axis, size in zip(axes, array.shape, strict=True)
            ]
            names = unique_dims(axes, forms, known)
            variables[f"{prefix}{name}"] = (names, array)
            coordinates |= {
                axis: list(labels)
                for axis, (_, labels) in zip(names, forms, strict=True)
                if labels is not None
            }
    return require("xarray", "to_xarray").Dataset(variables, coords=coordinates)
