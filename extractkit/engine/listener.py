"""What the engine tells whoever watches a job."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from extractkit.core.plan import PlannedTensor


@dataclass(frozen=True)
class Summary:
    """What a finished run holds and took.

    Attributes:
        directory: the run directory.
        tensors: how many tensors are stored.
        samples: how many samples they were computed for.
        truncated: how many of those were cut off to fit the model.
        shards: how many shards were committed.
        bytes: size of the shards on disk.
        seconds: from the first sample to the last commit, loading the model left out.
        non_finite: keys of floating-point tensors in which a NaN or an infinity was stored.
        missing: how many samples have no values.
        constant: keys of tensors whose elements are all the same number.
        unchanging: keys of tensors that have the same value for every sample.
        computed: how many samples were computed now, the rest having been stored before; with
            checkpoints, samples count for each of them. None: all.
        checkpoints: with how many sets of weights; 0 where there is no axis of checkpoints.
    """

    directory: Path
    tensors: int
    samples: int
    truncated: int
    shards: int
    bytes: int
    seconds: float
    non_finite: tuple[str, ...] = ()
    missing: int = 0
    constant: tuple[str, ...] = ()
    unchanging: tuple[str, ...] = ()
    computed: int | None = None
    checkpoints: int = 0


class Listener(Protocol):
    """Told how a job goes; every call returns at once, and may come from another thread."""

    def stage(self, name: str) -> None:
        """A stage without samples to count has begun, such as loading the model.

        It lasts until the next call of `stage`, `planned` or `finished`.
        """
        ...

    def planned(
        self, tensors: Sequence[PlannedTensor], samples: int, total_bytes_estimate: int
    ) -> None:
        """The plan is made: so many samples, and about so many bytes to store."""
        ...

    def advanced(self, samples: int, stored: int) -> None:
        """So many more samples are done, and so many more bytes stored."""
        ...

    def note(self, message: str) -> None:
        """Something that the user should know."""
        ...

    def finished(self, summary: Summary) -> None:
        """The run is complete."""
        ...


class Silent:
    """A listener that says nothing."""

    def stage(self, name: str) -> None:
        """Nothing."""

    def planned(
        self, tensors: Sequence[PlannedTensor], samples: int, total_bytes_estimate: int
    ) -> None:
        """Nothing."""

    def advanced(self, samples: int, stored: int) -> None:
        """Nothing."""

    def note(self, message: str) -> None:
        """Nothing."""

    def finished(self, summary: Summary) -> None:
        """Nothing."""
