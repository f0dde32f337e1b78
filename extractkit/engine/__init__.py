"""Execution of jobs, and the progress events that a listener receives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from extractkit.core.plan import PlannedTensor


@dataclass(frozen=True)
class Summary:
    """Contents and cost of a finished run.

    Attributes:
        directory: the run directory.
        tensors: how many tensors are stored.
        samples: how many samples they were computed for.
        truncated: how many of those were cut off to fit the model.
        shards: how many shards were committed.
        bytes: size of the shards on disk.
        seconds: from the first sample to the last commit, without loading the model.
        non_finite: keys of floating-point tensors in which a NaN or an infinity was stored.
        missing: how many samples have no values.
        constant: keys of tensors whose elements are all the same number.
        unchanging: keys of tensors that have the same value for every sample.
        overflowing: keys of tensors with elements beyond the range of the type of a cast.
        gaps: the largest difference of completeness from 1, for each tensor of attributions.
        computed: number of samples computed by this process, once for each checkpoint; None: all.
            The others had been stored before.
        checkpoints: number of sets of weights; 0 without a checkpoint axis.
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
    overflowing: tuple[str, ...] = ()
    gaps: Mapping[str, float] = field(default_factory=dict)
    computed: int | None = None
    checkpoints: int = 0


class Listener(Protocol):
    """Receives progress events of a job.

    Every call must return at once, and may come from another thread.
    """

    def stage(self, name: str) -> None:
        """A stage without samples to count has begun, such as loading the model.

        It lasts until the next call of `stage`, `planned` or `finished`.
        """
        ...

    def planned(
        self, tensors: Sequence[PlannedTensor], samples: int, total_bytes_estimate: int
    ) -> None:
        """The plan is complete, with the number of samples and the approximate bytes to store."""
        ...

    def advanced(self, samples: int, stored: int) -> None:
        """More samples are computed, and more bytes stored."""
        ...

    def paced(self, stage: str) -> None:
        """The slowest stage of those that work at the same time, such as reading or storing."""
        ...

    def note(self, message: str) -> None:
        """A message for the user."""
        ...

    def finished(self, summary: Summary) -> None:
        """The run is complete."""
        ...


class Silent:
    """A listener that ignores all events."""

    def stage(self, name: str) -> None:
        """Do nothing."""

    def planned(
        self, tensors: Sequence[PlannedTensor], samples: int, total_bytes_estimate: int
    ) -> None:
        """Do nothing."""

    def advanced(self, samples: int, stored: int) -> None:
        """Do nothing."""

    def paced(self, stage: str) -> None:
        """Do nothing."""

    def note(self, message: str) -> None:
        """Do nothing."""

    def finished(self, summary: Summary) -> None:
        """Do nothing."""
