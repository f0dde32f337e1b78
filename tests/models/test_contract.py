"""What has to hold for every tensor of every kind of Keras model."""

import math
import subprocess
import sys
from collections.abc import Mapping

import numpy as np
import pytest

from extractkit.models.keras_model import KerasModel
from extractkit.models.live import live_model
from extractkit.models.protocol import Compilation, Fetch
from extractkit.tensors import SAMPLE, UNKNOWN, Kind, TensorRecord
from extractkit.values import Array
from tests.models.zoo import MODELS, drawn, lengths

SIZES = ((2, 5), (3, 7))


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> KerasModel:
    return wrapped(request.param)


def wrapped(name: str) -> KerasModel:
    return live_model(MODELS[name](), name=name)


def extractable(model: KerasModel) -> list[TensorRecord]:
    return [r for r in model.catalog.records if r.extractable and r.kind is not Kind.WEIGHT]


def test_every_extractable_tensor_comes_back_as_recorded(model: KerasModel) -> None:
    records = [record for record in extractable(model) if record.depends_on_inputs]
    assert records
    program = model.program([Fetch(record.address) for record in records], Compilation())
    for samples, length in SIZES:
        batch = drawn(model.signature, samples, length)
        sizes = {SAMPLE: samples} | dict.fromkeys(model.signature.free_axes, length)
        values = program(batch, lengths(model.signature, samples, length))
        for record, value in zip(records, values, strict=True):
            stored = "float32" if record.dtype == "bfloat16" else record.dtype
            assert value.dtype == stored, record.address
            assert_fits(record, value, sizes)


def assert_fits(record: TensorRecord, value: Array, sizes: Mapping[str, int]) -> None:
    """Fixed axes have the recorded size, named ones the size that their name says."""
    if record.dims is None or record.shape is None:  # the rank has to be measured
        assert record.dims is record.shape is None, record
        return
    assert len(record.dims) == len(record.shape) == value.ndim, record
    for dim, size, got in zip(record.dims, record.shape, value.shape, strict=True):
        if dim is None:
            assert size == got, record
        elif dim != UNKNOWN and "f(" not in dim:
            factors = [sizes[f] if f in sizes else int(f) for f in dim.split("*")]
            assert (size, got) == (None, math.prod(factors)), record


def test_every_constant_comes_back_as_recorded(model: KerasModel) -> None:
    records = [record for record in model.catalog.records if not record.depends_on_inputs]
    records = [record for record in records if record.extractable]
    values = model.constants([Fetch(record.address) for record in records])
    for record, value in zip(records, values, strict=True):
        assert value.shape == record.shape, record
        assert value.dtype == ("float32" if record.dtype == "bfloat16" else record.dtype)


def test_what_cannot_be_had_says_why(model: KerasModel) -> None:
    for record in model.catalog.records:
        assert record.extractable or len(str(record.reason)) > 20, record
        assert record.extractable is (record.reason is None)


def test_scopes_lead_from_the_model_to_the_tensors_own_layer(model: KerasModel) -> None:
    for record in model.catalog.records:
        assert record.scopes[0].path == ""
        assert record.scopes[-1].path == record.layer
        assert len(record.scopes) == record.depth + 1
        for outer, inner in zip(record.scopes[1:], record.scopes[2:], strict=False):
            assert inner.path.startswith(outer.path + "/")


def test_building_again_gives_the_same_catalog(model: KerasModel) -> None:
    again = wrapped(model.name)
    assert list(again.catalog) == list(model.catalog)
    assert [(r.dims, r.shape, r.reason) for r in again.catalog.records] == [
        (r.dims, r.shape, r.reason) for r in model.catalog.records
    ]


def test_a_model_that_was_used_before_has_the_same_catalog(model: KerasModel) -> None:
    """Nested functions are traced by then, layers built, counters moved on."""
    batch = drawn(model.signature, 2, 5)
    model.keras_model.predict_on_batch([*batch.values()] if len(batch) > 1 else batch.popitem()[1])
    again = live_model(model.keras_model, name=model.name)
    assert list(again.catalog) == list(model.catalog)


def test_another_process_gives_the_same_addresses() -> None:
    """In the reverse order, so that no counter of the process is the same."""
    code = (
        "from tests.models.test_contract import MODELS, wrapped\n"
        "for name in reversed(MODELS): print(name, *wrapped(name).catalog, sep='\\n')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = [line for name in reversed(MODELS) for line in (name, *wrapped(name).catalog)]
    assert run.stdout.splitlines() == here


def test_weights_are_the_models_own(model: KerasModel) -> None:
    records = [r for r in model.catalog.records if r.kind is Kind.WEIGHT]
    values = model.constants([Fetch(record.address) for record in records])
    expected = model.keras_model.get_weights()  # in another order: that of building
    assert sorted(v.tobytes() for v in values) == sorted(np.asarray(w).tobytes() for w in expected)
