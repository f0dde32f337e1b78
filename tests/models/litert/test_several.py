"""Calls on several samples at once have the bits of single calls, or are not made."""

from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from extractkit.core.requests import Value
from extractkit.core.values import Array
from extractkit.models import Compilation, Fetch
from extractkit.models.litert.interpreter import Interpreter
from extractkit.models.litert.model import TFLiteModel
from extractkit.models.tflite import load
from extractkit.testing.models import drawn
from tests.models.tflite_zoo import MODELS, written

SAMPLES = 7
TOGETHER = {"flex", "noise", "float32", "float16", "int8"}
"""The files that take several samples at once. In others a size is constant, or a mean is over all
samples, or a state is kept."""


def taken_together(path: Path) -> tuple[TFLiteModel, list[Fetch]]:
    """The model, and all of its tensors that may have an axis of several samples."""
    model = load(str(path))
    found = [one for one in model.found.values() if one.bare and one.record.extractable]
    return model, [
        Fetch(Value(one.record.address)) for one in found if one.record.depends_on_inputs
    ]


def values_and_calls(
    model: TFLiteModel, fetches: list[Fetch], parts: int
) -> tuple[list[Array], int]:
    """Values of samples in so many calls of a program, and how often it called LiteRT then."""
    batch = drawn(model, SAMPLES)
    program = model.program(fetches, Compilation())
    program(batch.features, batch.lengths)  # the trial
    with mock.patch.object(
        Interpreter, "call", autospec=True, side_effect=Interpreter.call
    ) as calls:
        found = [
            program(part.features, part.lengths)
            for rows in np.array_split(np.arange(SAMPLES), parts)
            for part in [batch.take(rows.tolist())]
        ]
    return [np.concatenate(each) for each in zip(*found, strict=True)], calls.call_count


@pytest.mark.parametrize("name", MODELS)
def test_all_values_of_a_file(name: str, tmp_path: Path) -> None:
    model, fetches = taken_together(written(name, tmp_path))
    if not fetches:
        return
    together, calls = values_and_calls(model, fetches, 1)
    alone, single = values_and_calls(model, fetches, SAMPLES)
    assert single == SAMPLES
    assert calls == (1 if name in TOGETHER else SAMPLES)
    for one, other, fetch in zip(together, alone, fetches, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=str(fetch), strict=True)
