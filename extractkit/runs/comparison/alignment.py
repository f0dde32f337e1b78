"""Which sample of one run belongs to which of the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from extractkit.errors import RunDirectoryError
from extractkit.runs.comparison.result import OneSided, Place, SampleComparison
from extractkit.runs.directory import SAMPLES
from extractkit.runs.reader import Run

BY_ID, BY_NUMBER = "id", "number"

_FEW = 3

Pairs = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Alignment:
    """Pairs of samples, in the first run's order.

    Attributes:
        ids: of the first run's samples, all of them.
        a, b: for each pair the sample's number in each run.
        found: how they were paired, and what was left out.
    """

    ids: Sequence[str]
    a: Pairs
    b: Pairs
    found: SampleComparison

    def __len__(self) -> int:
        return len(self.a)

    def place(self, pair: int) -> Place:
        """The sample of one pair."""
        number = int(self.a[pair])
        return Place(self.ids[number], number, int(self.b[pair]))


def align(a: Run, b: Run) -> Alignment:
    """Pair the samples by their ids, or by their numbers where ids of a run are not unique.

    Samples that a run skipped have no values there and make no pair.

    Raises:
        RunDirectoryError: the list of samples is missing or damaged.
    """
    ids_a, ids_b = _ids(a), _ids(b)
    unique = len({*ids_a}) == len(ids_a) and len({*ids_b}) == len(ids_b)
    names_a: Sequence[object] = ids_a if unique else range(len(ids_a))
    names_b: Sequence[object] = ids_b if unique else range(len(ids_b))
    numbers_b = {name: number for number, name in enumerate(names_b)}
    both = [(n, numbers_b[name]) for n, name in enumerate(names_a) if name in numbers_b]
    skipped_a = {n for n, _ in both if n in a.skipped}
    skipped_b = {n for n, other in both if other in b.skipped}
    without = skipped_a | skipped_b
    pairs = [pair for pair in both if pair[0] not in without]
    numbers_a = {name: number for number, name in enumerate(names_a)}
    found = SampleComparison(
        aligned_by=BY_ID if unique else BY_NUMBER,
        compared=len(pairs),
        skipped=len(skipped_a & skipped_b),
        skipped_in_a=_one_sided(sorted(skipped_a - skipped_b), ids_a),
        skipped_in_b=_one_sided(sorted(skipped_b - skipped_a), ids_a),
        only_in_a=_one_sided(_missing(names_a, numbers_b), ids_a),
        only_in_b=_one_sided(_missing(names_b, numbers_a), ids_b),
    )
    columns = np.array(pairs, np.int64).reshape(-1, 2)
    return Alignment(ids_a, columns[:, 0], columns[:, 1], found)


def _ids(run: Run) -> list[str]:
    ids = [str(row["id"]) for row in run.samples]
    if len(ids) != run.manifest.samples:
        raise RunDirectoryError(
            f"{run.path / SAMPLES} is damaged: it lists {len(ids)} samples, the run has "
            f"{run.manifest.samples}"
        )
    return ids


def _missing(names: Sequence[object], others: Mapping[object, int]) -> list[int]:
    return [number for number, name in enumerate(names) if name not in others]


def _one_sided(numbers: Sequence[int], ids: Sequence[str]) -> OneSided:
    return OneSided(len(numbers), tuple(ids[number] for number in numbers[:_FEW]))
