"""What a survey found, read back from the rows that it left."""

from array import array
from collections.abc import Iterable

import numpy as np

from extractkit.engine.survey import Survey
from extractkit.errors import RunDirectoryError
from extractkit.inputs.protocol import Signature
from extractkit.plan import Lengths
from extractkit.runs.samples import Row

_LONGEST = 2**40


def recorded_survey(signature: Signature, rows: Iterable[Row], count: int) -> Survey:
    """Every sample's length along each free axis, and which are skipped.

    Args:
        count: how many samples there must be.

    Raises:
        RunDirectoryError: a row tells none, or there are more or fewer.
    """
    axes = {axis: array("q") for axis in signature.free_axes}
    skipped = {}
    samples = 0
    for samples, row in enumerate(rows, start=1):
        if "skipped" in row:
            skipped[samples - 1] = str(row["skipped"])
        told = row.get("length")
        for axis, lengths in axes.items():
            length = told.get(axis) if isinstance(told, dict) else told
            if type(length) is not int or not 0 <= length <= _LONGEST:
                raise RunDirectoryError(f"sample {samples - 1} has no length along {axis!r}")
            lengths.append(length)
    if samples != count:
        raise RunDirectoryError(f"{samples} samples have a row, {count} were recorded")
    known = {axis: np.array(n, np.int64) for axis, n in axes.items()}
    return Survey(Lengths(samples, known), skipped)
