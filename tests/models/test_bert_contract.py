"""The real BERT behind the contract of every adapter."""

import pytest

from extractkit.models import Model
from extractkit.models.bert import load
from extractkit.testing.models import ModelContract


@pytest.mark.real_model
class TestBert(ModelContract):
    def model(self) -> Model:
        return load()
