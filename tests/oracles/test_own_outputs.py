"""Extraction leaves the outputs of real models as they are; each has one definition wherever."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from extractkit.core.requests import Value
from extractkit.engine.batches import Batch, collate
from extractkit.inputs import Sample
from extractkit.models import (
    Compilation,
    Fetch,
    Model,
    bert,
    frozen_graph,
    keras_file,
    meta_graph,
    saved_model,
    tflite,
)
from extractkit.testing.models import assert_close, drawn, own_call
from tests.oracles import test_cutkum, test_musicnn
from tests.real_models import real_model

pytestmark = pytest.mark.real_model

_PITCH = "basic_pitch/saved_models/icassp_2022/nmp"


def cutkum(path: Path) -> Model:
    constants = {test_cutkum.KEEP: 1.0}
    return frozen_graph.load(str(path), input_axes=test_cutkum.INPUTS, constants=constants)


def musicnn(path: Path) -> Model:
    constants = {test_musicnn.TRAINS: False}
    return meta_graph.load(str(path), input_axes=[test_musicnn.X], constants=constants)


def pitch(path: Path) -> Model:
    return saved_model.load(str(path))


def lite(path: Path) -> Model:
    return tflite.load(str(path))


def guesslang(path: Path) -> Model:
    return saved_model.load(str(path))


def fer(path: Path) -> Model:
    return keras_file.load(str(path))


REAL: dict[Callable[[Path], Model], tuple[str, str]] = {
    pitch: ("basic-pitch", _PITCH),
    lite: ("basic-pitch", f"{_PITCH}.tflite"),
    cutkum: ("cutkum", "cutkum/frozen_model.pb"),
    musicnn: ("musicnn", "musicnn/MSD_vgg"),
    guesslang: ("guesslang", "guesslang/data/model"),
    fer: ("fer", "fer/data/emotion_model.hdf5"),
}

# One of each format: `guesslang` is a SavedModel, too.
COPIED = [
    pytest.param(load, marks=pytest.mark.thorough) if load is pitch else load for load in REAL
]


def batch_for(model: Model) -> Batch:
    if not model.signature.takes_text:
        return drawn(model, model.signature.batch or 2)
    # Of one length, so that values of a loop over the texts have one shape.
    texts = ("def add(x, y): return x + y", "#include <stdio.h> // input")
    samples = [Sample(i, str(i), "test", text) for i, text in enumerate(texts)]
    return collate(model.signature, model.encode(samples))


def check_outputs(model: Model) -> None:
    """With every tensor that can be extracted fetched besides."""
    batch = batch_for(model)
    records = [one for one in model.catalog.records if one.extractable and one.depends_on_inputs]
    program = model.program([Fetch(Value(record.address)) for record in records], Compilation())
    values = program(batch.features, batch.lengths)
    found = {record.address: value for record, value in zip(records, values, strict=True)}
    own = own_call(model).outputs(batch.features, batch.lengths)
    assert own
    for address, value in own.items():
        assert_close(found[address], value)


@pytest.mark.parametrize("load", REAL, ids=lambda load: load.__name__)
def test_extraction_leaves_the_outputs_as_they_are(load: Callable[[Path], Model]) -> None:
    check_outputs(load(real_model(*REAL[load])))


def test_extraction_leaves_the_outputs_of_minilm_as_they_are() -> None:
    check_outputs(bert.load())


@pytest.mark.parametrize("load", COPIED, ids=lambda load: load.__name__)
def test_a_copy_elsewhere_has_the_same_definition(
    load: Callable[[Path], Model], tmp_path: Path
) -> None:
    path = real_model(*REAL[load])
    copy = tmp_path / path.name
    shutil.copytree(path, copy) if path.is_dir() else shutil.copy(path, copy)
    digest = load(path).definition_digest()
    assert digest is not None
    assert load(copy).definition_digest() == digest
