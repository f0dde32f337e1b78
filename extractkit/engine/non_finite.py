"""What is done about NaN and infinite values: `runtime.non_finite`."""

from collections.abc import Callable, Mapping

from extractkit.errors import FinalError
from extractkit.value_checks import ValueStats, non_finite_samples
from extractkit.values import Values


def refuse_non_finite(stats: Mapping[str, ValueStats], name: Callable[[int], str]) -> None:
    """Fail the job where any value is NaN or infinite.

    Args:
        stats: of each tensor, by key.
        name: how a message names the sample of this index.

    Raises:
        FinalError: a tensor has such values; it is named, with the first sample that has some.
    """
    for key, found in stats.items():
        if found.finite:
            continue
        counts, where, skip = (found.nan, found.inf), "", ""
        if found.first:
            index, counts = next(iter(found.first.items()))
            where = f" for sample {name(int(index))}"
            # What does not depend on the samples, a weight say, is not mended by leaving some out.
            skip = ". To leave out samples that have some: runtime.non_finite=skip"
        if found.samples > 1:
            where += f", and {found.samples - 1} more of its shard have some"
        raise FinalError(
            f"{key!r} holds {_told(*counts)}{where}. To store them: runtime.non_finite=warn{skip}. "
            f"That takes a new run, as this one keeps its settings"
        )


def non_finite_reasons(values: Mapping[str, Values]) -> dict[int, str]:
    """The samples with NaN or infinite values in any tensor: by position, where and how many."""
    reasons: dict[int, str] = {}
    more: dict[int, int] = {}
    for key, value in values.items():
        for position, counts in non_finite_samples(value).items():
            if position in reasons:
                more[position] = more.get(position, 0) + 1
            else:
                reasons[position] = f"{key!r} holds {_told(*counts)}"
    for position, count in more.items():
        reasons[position] += f" (and {count} more tensor{'s' if count > 1 else ''})"
    return dict(sorted(reasons.items()))


def _told(nan: int, inf: int) -> str:
    counts = [f"{nan} NaN" if nan else "", f"{inf} infinite" if inf else ""]
    return f"{' and '.join(filter(None, counts))} value{'s' if nan + inf > 1 else ''}"
