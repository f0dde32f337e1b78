"""No samples at all: what a job reads that stores nothing but weights and other constants."""

from collections.abc import Sequence
from dataclasses import dataclass

from extractkit.inputs.protocol import Sample


@dataclass(frozen=True)
class NoSamples:
    """A source that is empty."""

    fingerprint: str = ""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return 0

    def read(self, start: int, stop: int) -> Sequence[Sample]:
        """Nothing."""
        return ()
