"""Whether anything is left of a run whose samples were skipped."""

from collections.abc import Iterable

from extractkit.errors import FinalError
from extractkit.runs.journal import Entry


def check_some_left(entries: Iterable[Entry], samples: int) -> None:
    """Refuse to call a run finished in which no sample has a value.

    Args:
        entries: of all shards.
        samples: how many the run has, counted for each checkpoint where it has several; 0: it is of
            constants alone, and all is well.

    Raises:
        FinalError: all of them were skipped.
    """
    count, first = 0, ""
    for entry in entries:
        count += len(entry.skipped)
        first = first or next(iter(entry.skipped.values()), "")
    if samples and count == samples:
        raise FinalError(
            f"nothing is left: all samples, {samples} of them, were skipped. "
            f"The first: {first.removesuffix('.')}. To store values that are not finite: "
            f"runtime.non_finite=warn. To see where a model fails: runtime.bad_samples=fail. "
            f"That takes a new run, as this one keeps its settings"
        )
