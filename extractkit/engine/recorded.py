"""What a survey found, read back from the rows that it left."""

from array import array
from collections.abc import Iterable

import numpy as np

from extractkit.engine.survey import Survey
from extractkit.errors import RunDirectoryError
from extractkit.inputs.protocol import Signature
from extractkit.plan import Lengths
from extractkit.runs.samples import Row


def recorded_survey(signature: Signature, rows: Iterable[Row]) -> Survey:
    """Every sample's length along each free axis, and which are skipped.

    Raises:
        RunDirectoryError: a row tells none.
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
            if not isinstance(length, int):
                raise RunDirectoryError(f"sample {samples - 1} has no length along {axis!r}")
            lengths.append(length)
    known = {axis: np.array(n, np.int64) for axis, n in axes.items()}
    return Survey(Lengths(samples, known), skipped)
