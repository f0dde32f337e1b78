"""Which checkpoint of one run belongs to which of the other: those of one label."""

from collections.abc import Iterator
from dataclasses import dataclass

from extractkit.errors import RunDirectoryError
from extractkit.runs.reader import Run


@dataclass(frozen=True, eq=False)
class PairedCheckpoints:
    """Labels in both runs, in the first run's order, and those in one of them alone."""

    a: Run
    b: Run
    labels: tuple[str, ...]
    only_in_a: tuple[str, ...] = ()
    only_in_b: tuple[str, ...] = ()

    @property
    def both(self) -> Iterator[tuple[str | None, Run, Run]]:
        """The runs checkpoint by checkpoint; once, without a label, where they have none."""
        if not self.a.checkpoints:
            yield None, self.a, self.b
        for label in self.labels:
            yield label, self.a.at(label), self.b.at(label)


def pair(a: Run, b: Run) -> PairedCheckpoints:
    """Pair the checkpoints of two runs.

    Raises:
        RunDirectoryError: one has checkpoints and the other has none, or they have none in common.
    """
    if bool(a.checkpoints) != bool(b.checkpoints):
        several, other = (a, b) if a.checkpoints else (b, a)
        raise RunDirectoryError(
            f"{several.path} has {len(several.checkpoints)} checkpoints, {other.path} has none. "
            f"Compare one of them in Python: extractkit.diff(a.at({several.checkpoints[0]!r}), b)"
        )
    common = tuple(label for label in a.checkpoints if label in b.checkpoints)
    if a.checkpoints and not common:
        raise RunDirectoryError(
            f"{a.path} and {b.path} have no checkpoint in common: the first ones are "
            f"{a.checkpoints[0]!r} and {b.checkpoints[0]!r}"
        )
    return PairedCheckpoints(
        a,
        b,
        common,
        tuple(label for label in a.checkpoints if label not in common),
        tuple(label for label in b.checkpoints if label not in common),
    )
