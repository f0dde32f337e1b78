"""The rows of `samples.jsonl`: one for each sample, in order, each with what it says of it."""

from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from extractkit.errors import RunDirectoryError
from extractkit.runs.directory import SAMPLES
from extractkit.runs.manifest import Manifest
from extractkit.runs.samples import Samples
from extractkit.runs.verification.files import UNRECORDED
from extractkit.runs.verification.result import Check, Finding, Outcome, counted

_ONLY = ""
"""Stands for the free axis of a model that has one: rows then tell a length without a name."""


@dataclass(frozen=True, eq=False)
class Told:
    """What the rows say of all samples.

    Attributes:
        lengths: int64 (samples,) for each free axis; under `""` where a model has but one.
        skipped: the samples that were found to be of no use before any value was computed.
    """

    lengths: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    skipped: frozenset[int] = frozenset()

    def along(self, dim: str | None) -> npt.NDArray[np.int64] | None:
        """The samples' lengths along an axis of this name; None where they tell none."""
        if dim is None or not dim.isidentifier():  # computed by the model, or a product
            return None
        return self.lengths.get(dim, self.lengths.get(_ONLY))


def sample_rows(directory: Path, manifest: Manifest, files: Check) -> tuple[Check, Told]:
    """Count, order and contents of the rows.

    Args:
        files: whether the file is what was written; otherwise it is not read.
    """
    name = "samples"
    recorded = any(file.name == SAMPLES for file in manifest.files)
    if any(finding.file == SAMPLES for finding in files.findings):
        return Check.left_out(name, f"{SAMPLES} is damaged or missing"), Told()
    if manifest.plan is None:
        return Check.left_out(name, "the samples had not all been read"), Told()
    if not recorded and manifest.records_files:
        message = f"{directory / SAMPLES} is not among the recorded files"
        return Check.of(name, "0 rows", [Finding(SAMPLES, message)]), Told()
    reading = _Reading()
    try:
        reading.take(Samples(directory / SAMPLES))
    except RunDirectoryError as error:
        return Check.of(name, counted(reading.count, "row"), [Finding(SAMPLES, str(error))]), Told()
    messages = reading.wrong(manifest)
    check = Check.of(
        name,
        counted(reading.count, "row"),
        [Finding(SAMPLES, f"{directory / SAMPLES}: {message}") for message in messages],
        [] if recorded else [f"{SAMPLES}: {UNRECORDED}"],
    )
    return check, reading.told() if check.outcome is Outcome.OK else Told()


class _Reading:
    """What is gathered in one pass over the rows: eight bytes a sample and axis."""

    def __init__(self) -> None:
        self.count = 0
        self._truncated = 0
        self._out_of_order: list[int] = []
        self._lengths: dict[str, array[int]] = defaultdict(lambda: array("q"))
        self._skipped: list[int] = []

    def take(self, rows: Iterable[object]) -> None:
        for row in rows:
            number, self.count = self.count, self.count + 1
            if not isinstance(row, dict) or row.get("index") != number or "id" not in row:
                self._out_of_order.append(number)
                continue
            self._truncated += bool(row.get("truncated"))
            if "skipped" in row:
                self._skipped.append(number)
            told = row.get("length")
            for axis, length in (told if isinstance(told, dict) else {_ONLY: told}).items():
                if isinstance(length, int):
                    self._lengths[axis].append(length)

    def wrong(self, manifest: Manifest) -> list[str]:
        """What cannot be, in messages."""
        found = []
        if self.count != manifest.samples:
            found.append(f"{self.count} rows for {manifest.samples} samples")
        if self._out_of_order:
            first = self._out_of_order[0]
            found.append(
                f"{len(self._out_of_order)} rows are not those of their samples, first row {first}"
            )
        truncated = manifest.inputs.truncated if manifest.inputs else 0
        if self._truncated != truncated:
            found.append(
                f"{self._truncated} samples are marked as cut off, {truncated} were counted"
            )
        for axis, lengths in self._lengths.items():
            if len(lengths) != self.count:
                of = f" along {axis!r}" if axis else ""
                found.append(f"{len(lengths)} of {self.count} samples have a length{of}")
        return found

    def told(self) -> Told:
        lengths = {axis: np.array(n, np.int64) for axis, n in self._lengths.items()}
        return Told(lengths, frozenset(self._skipped))
