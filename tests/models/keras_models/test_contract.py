"""Every kind of Keras model behind the contract of every adapter, and what Keras adds to it."""

import subprocess
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest

from extractkit.core.catalog import Kind
from extractkit.core.requests import Value
from extractkit.models import Fetch, Model
from extractkit.models.in_memory import live_model
from extractkit.models.keras_models.model import KerasModel
from extractkit.testing.models import ModelContract
from tests.models.zoo import MODELS, drawn


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> KerasModel:
    return wrapped(request.param)


def wrapped(name: str) -> KerasModel:
    keras.utils.set_random_seed(0)
    return live_model(MODELS[name](), name=name)


@pytest.mark.parametrize("name", MODELS)
class TestKerasModel(ModelContract):
    @pytest.fixture(autouse=True)
    def _named(self, name: str) -> None:
        self.name = name

    def model(self) -> Model:
        return wrapped(self.name)


def test_scopes_lead_from_the_model_to_the_tensors_own_layer(model: KerasModel) -> None:
    for record in model.catalog.records:
        assert record.scopes[0].path == ""
        assert record.scopes[-1].path == record.layer
        assert len(record.scopes) == record.depth + 1
        for outer, inner in zip(record.scopes[1:], record.scopes[2:], strict=False):
            assert inner.path.startswith(outer.path + "/")


def test_a_model_that_was_used_before_has_the_same_catalog(model: KerasModel) -> None:
    """Nested functions are traced by then, layers built, counters moved on."""
    batch = drawn(model.signature, 2, 5)
    model.keras_model.predict_on_batch([*batch.values()] if len(batch) > 1 else batch.popitem()[1])
    again = live_model(model.keras_model, name=model.name)
    assert list(again.catalog) == list(model.catalog)


@cache
def reported(name: str) -> list[str]:
    """What must be the same in every process: definition and addresses."""
    model = wrapped(name)
    return [name, str(model.definition_digest()), *model.catalog]


def test_another_process_gives_the_same_addresses_and_definition(preloaded: Path) -> None:
    """In the reverse order, so that no counter of the process is the same."""
    code = (
        "from tests.models.keras_models.test_contract import MODELS, reported\n"
        "for name in reversed(MODELS): print(*reported(name), sep='\\n')"
    )
    command = [preloaded / "python", "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [line for name in reversed(MODELS) for line in reported(name)]


def test_every_model_has_a_definition_of_its_own() -> None:
    definitions = {reported(name)[1] for name in MODELS}
    assert "None" not in definitions
    assert len(definitions) == len(MODELS)


def test_weights_are_the_models_own(model: KerasModel) -> None:
    records = [r for r in model.catalog.records if r.kind is Kind.WEIGHT]
    values = model.constants([Fetch(Value(record.address)) for record in records])
    expected = model.keras_model.get_weights()  # in another order: that of building
    assert sorted(v.tobytes() for v in values) == sorted(np.asarray(w).tobytes() for w in expected)
