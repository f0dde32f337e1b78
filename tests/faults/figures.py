"""The faults of a campaign: which of them are brought about, and what they came to."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

Item = TypeVar("Item")


@dataclass
class Figures:
    """Counts by what was counted, in the order of their first mention, and what must not be.

    Attributes:
        counts: how often each thing happened.
        faults: each in a sentence that tells how to repeat it.
    """

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def table(self) -> str:
        """For a terminal and for the documentation: a line for each count, then the faults'."""
        width = max(map(len, self.counts), default=0)
        lines = [f"  {what:<{width}}  {count:>6}" for what, count in self.counts.items()]
        lines.append(f"  {'faults':<{width}}  {len(self.faults):>6}")
        return "\n".join(lines)


def every_nth(found: Sequence[Item], count: int | None, seed: int) -> Sequence[Item]:
    """At most so many, evenly spaced; None: all.

    Seeds that follow one another shift the choice by one, so that together they choose each.
    """
    if count is None or count >= len(found):
        return found
    step = -(-len(found) // count)
    return found[seed % step :: step]
