"""Which samples make a model fail: found by running each of a batch by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from extractkit.engine.batches import Batch
from extractkit.errors import JobError
from extractkit.models.protocol import Program
from extractkit.values import Array


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a batch.

    Attributes:
        rows: those of the batch that have values.
        values: of these, an array for each fetch; none where no row has any.
        failed: the other rows, and what the model says of each.
    """

    rows: Sequence[int]
    values: Sequence[Array]
    failed: Mapping[int, str] = field(default_factory=dict)


def run_isolated(program: Program, batch: Batch) -> Outcome:
    """Run a batch; if the model fails on it, without the samples on which it fails alone.

    What comes of a batch follows from it alone, as the others are run together again, not one by
    one: values may depend on how many share a batch.

    Raises:
        JobError: the model fails on samples together that it can do alone. None is to blame then.
    """
    every = range(len(batch))
    try:
        return Outcome(every, program(batch.features, batch.lengths))
    except JobError as error:
        failed = {0: str(error)} if len(batch) == 1 else _failing_alone(program, batch)
        if not failed:
            raise
    rows = [row for row in every if row not in failed]
    if not rows:
        return Outcome((), (), failed)
    rest = batch.take(rows)
    return Outcome(rows, program(rest.features, rest.lengths), failed)


def _failing_alone(program: Program, batch: Batch) -> dict[int, str]:
    failed = {}
    for row in range(len(batch)):
        alone = batch.take([row])
        try:
            program(alone.features, alone.lengths)
        except JobError as error:
            failed[row] = str(error)
    return failed
