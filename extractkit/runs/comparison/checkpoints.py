"""Which checkpoint of one run belongs to which of the other: by its label, or else its step."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from extractkit.errors import RunDirectoryError
from extractkit.runs.reader import Run


@dataclass(frozen=True, eq=False)
class PairedCheckpoints:
    """The second run's label by the first's, in the first's order; and labels in one run alone."""

    a: Run
    b: Run
    labels: Mapping[str, str]
    only_in_a: tuple[str, ...] = ()
    only_in_b: tuple[str, ...] = ()

    @property
    def both(self) -> Iterator[tuple[str | None, str | None, Run, Run]]:
        """Both labels and both runs, checkpoint by checkpoint; once, where they have none."""
        if not self.a.checkpoints:
            yield None, None, self.a, self.b
        for label, other in self.labels.items():
            yield label, other, self.a.at(label), self.b.at(other)


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
    common = _paired(a, b) if a.checkpoints else {}
    if a.checkpoints and not common:
        first, other_first = a.checkpoints[0], b.checkpoints[0]
        raise RunDirectoryError(
            f"{a.path} and {b.path} have no checkpoint in common, neither a label nor a step: the "
            f"first ones are {first!r} and {other_first!r}. Compare two of them in Python: "
            f"extractkit.diff(a.at({first!r}), b.at({other_first!r}))"
        )
    return PairedCheckpoints(
        a,
        b,
        common,
        tuple(label for label in a.checkpoints if label not in common),
        tuple(label for label in b.checkpoints if label not in common.values()),
    )


def _paired(a: Run, b: Run) -> dict[str, str]:
    by_label = set(a.checkpoints) & set(b.checkpoints)
    by_step: dict[int | None, str] = {
        one.step: one.label
        for one in b.manifest.checkpoints
        if one.step is not None and one.label not in by_label
    }
    paired = {}
    for one in a.manifest.checkpoints:
        other = one.label if one.label in by_label else by_step.get(one.step)
        if other is not None:
            paired[one.label] = other
    return paired
