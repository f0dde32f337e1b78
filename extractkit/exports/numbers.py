"""The numbers of a run at each of its steps, as TensorBoard and experiment trackers show them."""

from collections.abc import Iterator, Mapping

import numpy as np

from extractkit.core.statistics import Arrays
from extractkit.core.statistics.results import Statistics, TensorStatistics
from extractkit.runs.reader import Run

MOMENTS = "moments"


def steps(run: Run) -> Mapping[int, str | None]:
    """Return the checkpoint at each step, in order; of a run without any, None at step 0.

    If not every checkpoint has a step of its own, they are numbered.
    """
    if not run.checkpoints:
        return {0: None}
    axis = run.manifest.outer_axes[0]
    known = [at for at in axis.steps if at is not None]
    numbers = known if len({*known}) == len(axis.labels) else range(len(axis.labels))
    return dict(zip(numbers, axis.labels, strict=True))


def statistics_at(run: Run, position: int) -> Statistics:
    """Return the statistics of the run at a step, by its place among the steps."""
    return run.statistics.at(position) if run.checkpoints else run.statistics


def of_moments(moments: Arrays) -> Iterator[tuple[str, float]]:
    """Yield mean, standard deviation, minimum and maximum over all features of a tensor."""
    if not moments["count"]:
        return
    mean, variance = (np.asarray(moments[name], np.float64) for name in ("mean", "variance"))
    # Each feature has equally many elements.
    yield "mean", float(mean.mean())
    yield "standard deviation", float(np.sqrt(variance.mean() + mean.var()))
    yield "min", float(np.min(moments["min"]))
    yield "max", float(np.max(moments["max"]))


def of_statistics(found: TensorStatistics) -> Iterator[tuple[str, float]]:
    """Yield the moments over all features, and each other result that is a single number."""
    for name, results in found.items():
        if name == MOMENTS:
            yield from of_moments(dict(results.items()))
            continue
        for result, array in results.items():
            if array.ndim == 0 and array.dtype.kind in "fiub":
                yield f"{name}.{result}", float(array)


def of_drift(run: Run, position: int) -> Iterator[tuple[str, str, float]]:
    """Yield how far each tensor has moved at a step, where the measure is defined."""
    if run.drift is None:
        return
    for key, one in run.drift.tensors.items():
        for moved, since in ((one.from_first, "first"), (one.from_previous, "previous")):
            for measure, series in vars(moved).items():
                if series[position] is not None:
                    yield key, f"{measure} from {since}", float(series[position])
