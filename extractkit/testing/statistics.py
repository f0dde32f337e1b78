"""The contract tests of statistics.

A test module of a statistic subclasses `StatisticContract` and provides the class and options:

    class TestRange(StatisticContract):
        def statistic(self) -> type[Statistic]:
            return Range

        def options(self) -> Sequence[object]:
            return [{}]             # as written in configuration; empty without options

pytest then collects the tests below. They cut examples into shards in every way.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from extractkit.core.spec import Dim
from extractkit.core.statistics import (
    SHAPE,
    Array,
    Arrays,
    Block,
    Merging,
    Statistic,
    registry,
)
from extractkit.core.transforms import Operand
from extractkit.core.values import Dense, Ragged, Values
from extractkit.errors import SelectionError
from extractkit.runs.statistics import parsed, serialized
from extractkit.testing.registered import RegisteredContract
from extractkit.testing.transforms import operand_of

AT = "selectors.mine.statistics.0"

_DTYPES = ("float32", "float16", "uint8", "bool")
_DIMS = ((Dim.along("token"), Dim(size=3)), (Dim(size=4),), ())
_LENGTHS = (2, 0, 3, 1, 1)
_CUTS = ((), (1,), (2, 4), (0, 1, 2, 3, 4, 5))
"""The samples before which a shard begins, except the first shard. Some shards are empty."""


_VALUES = (-1.5, -1.0, 0.0, 0.25, 2.0, 7.5)
_NEGATIVE = (-7.5, -2.0, -1.0)
_NOT_FINITE = ((1.0, 2.0, np.inf), (1.0, -np.inf), (0.5, np.inf, -np.inf), (1.0, np.nan, np.inf))
"""Numbers to draw from, so that some features have infinities or NaN and others may not."""


def values_of(operand: Operand, values: Sequence[float] = _VALUES) -> list[Array]:
    """Draw five samples of a spec, of few distinct values, so that there are ties.

    A type without NaN and infinities gets none of these.
    """
    draw = np.random.default_rng(0)
    if np.dtype(operand.dtype).kind != "f":
        values = [value for value in values if np.isfinite(value)]
    found = []
    for length in _LENGTHS:
        shape = [length if one.dim.size is None else one.dim.size for one in operand.axes[1:]]
        drawn = draw.choice(values, shape)
        drawn = np.abs(drawn) if operand.dtype.startswith("u") else drawn
        found.append(np.asarray(drawn).astype(operand.dtype))
    return found


def block(operand: Operand, samples: Sequence[Array], start: int) -> Block:
    """Return the block of consecutive samples, the first of which has index `start`."""
    sizes = [one.dim.size for one in operand.axes[1:]]
    values: Values
    if None in sizes:
        offsets = np.cumsum([0, *map(len, samples)]).astype(np.int64)
        empty = np.zeros([size or 0 for size in sizes], operand.dtype)
        values = Ragged(np.concatenate([*samples, empty]), offsets)
    else:
        fixed = [size or 0 for size in sizes]
        values = Dense(np.asarray(samples, operand.dtype).reshape(len(samples), *fixed))
    width = sizes[-1] if sizes else 1
    return Block(values, np.arange(start, start + len(samples)), width or 1)


class StatisticContract(RegisteredContract):
    """Tests that every statistic must pass."""

    at = AT

    def statistic(self) -> type[Statistic]:
        """Return the class under test."""
        raise NotImplementedError

    def registered(self) -> type[Statistic]:
        """Return the class under test."""
        return self.statistic()

    def own(self, name: str) -> type[Any] | None:
        """Return the class of one of extractkit's own statistics; None if there is none."""
        return registry.own(name)

    def options(self) -> Sequence[object]:
        """Return options as written in configuration, each of which is tested."""
        return [{}]

    def operands(self) -> Sequence[Operand]:
        """Return specs to apply it to. Those that it refuses are omitted.

        It has to accept at least one with each of its options.
        """
        return [operand_of(dims, dtype) for dims in _DIMS for dtype in _DTYPES]

    def free(self) -> Sequence[str]:
        """Return names of results that may differ if shards do, within what is documented."""
        return ()

    def cases(self) -> Iterator[tuple[Statistic, Operand]]:
        """Yield the statistic with each of its options, and specs that it accepts."""
        for options in self.options():
            statistic = self.statistic().parse(options, AT)
            accepted = False
            for operand in self.operands():
                try:
                    statistic.check(operand)
                except SelectionError:
                    continue
                accepted = True
                yield statistic, operand
            assert accepted, f"options {options!r} fit none of the specs of operands()"

    def test_partial_results_have_the_predicted_size(self) -> None:
        for statistic, operand in self.cases():
            samples = values_of(operand)
            for stop in (0, 1, len(samples)):
                partial = statistic.of(block(operand, samples[:stop], 0))
                size = sum(array.nbytes for array in partial.values())
                assert size == statistic.partial_bytes(operand), (operand, stop)

    def test_partial_results_are_stored_whole(self) -> None:
        for statistic, operand in self.cases():
            partial = statistic.of(block(operand, values_of(operand), 0))
            again = _stored(partial)
            assert again.keys() == partial.keys()
            for name, array in partial.items():
                assert again[name].dtype == array.dtype, name
                np.testing.assert_array_equal(again[name], array)

    def test_shards_change_nothing_beyond_rounding(self) -> None:
        for statistic, operand in self.cases():
            for values in (_VALUES, *_NOT_FINITE):
                samples = values_of(operand, values)
                whole = self._over(statistic, operand, samples, ())
                for cuts in _CUTS[1:]:
                    apart = self._over(statistic, operand, samples, cuts)
                    self._assert_close(apart, whole, operand)

    def test_the_same_shards_give_the_same_bits(self) -> None:
        for statistic, operand in self.cases():
            samples = values_of(operand)
            for cuts in _CUTS:
                one, two = (self._over(statistic, operand, samples, cuts) for _ in range(2))
                assert one.keys() == two.keys()
                for name, array in one.items():
                    assert array.tobytes() == two[name].tobytes(), name

    def test_a_partial_result_of_no_samples_changes_nothing(self) -> None:
        for statistic, operand in self.cases():
            nothing = statistic.of(block(operand, [], 0))
            for values in (_VALUES, _NEGATIVE):
                partial = statistic.of(block(operand, values_of(operand, values), 0))
                expected = statistic.finish(partial)
                for both in ((nothing, partial), (partial, nothing)):
                    found = statistic.finish(statistic.merge(*both))
                    self._assert_close(found, expected, operand)

    def test_it_keeps_the_values_and_partial_results_it_is_given(self) -> None:
        for statistic, operand in self.cases():
            samples = values_of(operand)
            before = [sample.copy() for sample in samples]
            one, other = (statistic.of(block(operand, samples, at)) for at in (0, 5))
            kept = [{name: array.copy() for name, array in each.items()} for each in (one, other)]
            statistic.finish(statistic.merge(one, other))
            for sample, expected in zip(samples, before, strict=True):
                np.testing.assert_array_equal(sample, expected)
            for each, expected_arrays in zip((one, other), kept, strict=True):
                for name, array in expected_arrays.items():
                    np.testing.assert_array_equal(each[name], array)

    def test_no_samples_at_all_have_a_result(self) -> None:
        for statistic, operand in self.cases():
            full = statistic.finish(statistic.of(block(operand, values_of(operand), 0)))
            found = statistic.finish(statistic.of(block(operand, [], 0)))
            assert found.keys() == full.keys()
            for name, array in found.items():
                assert isinstance(array, np.ndarray), name
                assert array.dtype == full[name].dtype, name

    def test_axes_are_named_and_results_summed_up_in_a_line(self) -> None:
        for statistic, operand in self.cases():
            for samples in (values_of(operand), []):
                results = statistic.finish(statistic.of(block(operand, samples, 0)))
                for name, array in results.items():
                    axes = statistic.dims.get(name, ())
                    own = len(operand.axes) - 1 if axes == (SHAPE,) else len(axes)
                    assert own == array.ndim, (name, operand)
                assert len(statistic.summary(results).splitlines()) == 1

    def _over(
        self, statistic: Statistic, operand: Operand, samples: list[Array], cuts: Sequence[int]
    ) -> Mapping[str, Array]:
        """Return the results over shards that end at these samples."""
        merging: Merging[Arrays, Arrays] = Merging(statistic)
        for start, stop in pairwise([0, *cuts, len(samples)]):
            partial = statistic.of(block(operand, samples[start:stop], start))
            merging.add(_stored(partial))
        return merging.finish()

    def _assert_close(self, found: Arrays, expected: Arrays, operand: Operand) -> None:
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert isinstance(array, np.ndarray), name
            assert found[name].dtype == array.dtype, (name, operand)
            assert found[name].shape == array.shape, (name, operand)
            if name in self.free():
                continue
            if array.dtype.kind == "f":
                np.testing.assert_allclose(found[name], array, 1e-9, 1e-9, True, name)
            else:
                np.testing.assert_array_equal(found[name], array, name)


def _stored(partial: Arrays) -> Arrays:
    """Return a partial result after it was written and read."""
    content = serialized({("example:output", "mine"): partial})
    return parsed(content, Path("partials.npz"))["example:output", "mine"]
