"""The reference model behind the contract of every adapter."""

from extractkit.models.protocol import Model
from extractkit.testing.models import ModelContract
from extractkit.testing.reference import ReferenceModel


class TestReferenceModel(ModelContract):
    def model(self) -> Model:
        return ReferenceModel()
