"""Samples that are found to be no good while a source is bound.

A source does not refuse them then: reading one fails, so that a job may skip it. A source that
holds nothing else is refused, for what is wrong with its first sample.
"""

import hashlib

from extractkit.errors import InputError

FAULT = hashlib.sha256(b"no good").digest()
"""What stands for such a sample in a fingerprint: what would be read of it is not there."""


class Faults:
    """How many samples are no good, and what is wrong with the first that was found."""

    def __init__(self) -> None:
        self._first: InputError | None = None
        self._count = 0

    def add(self, error: InputError) -> None:
        """One more cannot be read, or does not fit."""
        self._first = self._first or error
        self._count += 1

    def check(self, count: int) -> None:
        """Refuse a source of so many samples if none of them is any good.

        Raises:
            InputError: what is wrong with the first.
        """
        if self._first is not None and self._count == count:
            raise self._first
