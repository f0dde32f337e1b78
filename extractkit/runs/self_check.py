"""What a job found when it held its model's outputs against the model's own call."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SelfCheck:
    """The check for one set of weights.

    Attributes:
        checkpoint: label of the weights; None: the model has one set of weights.
        loaded_by: what loaded the model for comparison ("keras.models.load_model").
        outputs: addresses of the outputs that were compared.
        samples: how many samples of the first batch they are for.
        largest_difference: the largest absolute difference of two numbers.
        relative_difference: the largest such difference in units of its output's largest number.
        tolerance: how far numbers may be apart.
        not_applicable: why nothing was compared; None: the outputs were.
    """

    checkpoint: str | None = None
    loaded_by: str | None = None
    outputs: tuple[str, ...] = ()
    samples: int = 0
    largest_difference: float = 0.0
    relative_difference: float = 0.0
    tolerance: str | None = None
    not_applicable: str | None = None


def joined(parts: Iterable[Sequence[SelfCheck]]) -> tuple[SelfCheck, ...]:
    """The checks of a run from those of its parts: of each set of weights the one that differs
    most, and any that was made in place of one that was not."""
    found: dict[str | None, SelfCheck] = {}
    for one in (one for checks in parts for one in checks):
        other = found.get(one.checkpoint)
        if other is None or _weight(one) > _weight(other):
            found[one.checkpoint] = one
    return tuple(found.values())


def _weight(one: SelfCheck) -> tuple[bool, float]:
    return one.not_applicable is None, one.largest_difference
