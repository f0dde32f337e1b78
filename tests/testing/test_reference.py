"""The reference model behind the contract of every adapter."""

import pytest

from extractkit.errors import ConfigError
from extractkit.models import Model
from extractkit.testing.models import ModelContract
from extractkit.testing.reference import ReferenceModel


class TestReferenceModel(ModelContract):
    def model(self) -> Model:
        return ReferenceModel()


@pytest.mark.parametrize("arguments", [{"seed": -1}, {"seed": "1"}, {"longest": True}])
def test_arguments_that_do_not_fit_are_reported(arguments: dict[str, object]) -> None:
    (key, value) = next(iter(arguments.items()))
    message = rf"^model\.{key}={value!r} is not a whole number of 0 or more$"
    with pytest.raises(ConfigError, match=message):
        ReferenceModel(**arguments)  # type: ignore[arg-type]
