"""Models of Keras 2 that are built in less time."""

from collections.abc import Generator
from typing import Any

import pytest
from tf_keras.src.layers.rnn import gru_lstm_utils


@pytest.fixture(autouse=True, scope="session")
def _no_gradients() -> Generator[None]:
    """Build LSTMs and GRUs of Keras 2 without gradients, which take most of the time.

    extractkit makes none itself where it loads or traces a model, as `test_legacy.py` checks.
    """

    def register(function: Any, *args: Any, **kwargs: Any) -> Any:
        concrete = function.get_concrete_function(*args, **kwargs)
        concrete.add_to_graph()
        return concrete

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gru_lstm_utils, "function_register", register)
        yield
