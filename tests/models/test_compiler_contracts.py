"""The contract of models with each compiler, on three real models each (`make thorough`)."""

import pytest

from extractkit.core.catalog import TensorRecord
from extractkit.models import Compilation, Model, bert
from extractkit.models.in_memory import live_model
from extractkit.testing.models import ModelContract
from tests.models.test_openvino import transformer
from tests.oracles.test_own_outputs import REAL, fer, musicnn, pitch
from tests.real_models import real_model

thorough = [pytest.mark.real_model, pytest.mark.thorough]


class OpenVino(ModelContract):
    """OpenVINO, for floats. Further results of a batch normalisation are for its gradient."""

    compilation = Compilation("openvino")

    def compiles(self, record: TensorRecord) -> bool:
        """See `ModelContract`."""
        floats = record.spec.dtype == "float32"
        return floats and not str(record.op_type).startswith("FusedBatchNorm")


class Xla(ModelContract):
    """XLA."""

    compilation = Compilation("xla")


class SavedModel:
    """basic-pitch."""

    pytestmark = thorough

    def model(self) -> Model:
        """See `ModelContract`."""
        return pitch(real_model(*REAL[pitch]))


class MetaGraph:
    """musicnn."""

    pytestmark = thorough

    def model(self) -> Model:
        """See `ModelContract`."""
        return musicnn(real_model(*REAL[musicnn]))


class Keras:
    """fer."""

    pytestmark = thorough

    def model(self) -> Model:
        """See `ModelContract`."""
        return fer(real_model(*REAL[fer]))


class Bert:
    """MiniLM."""

    pytestmark = thorough

    def model(self) -> Model:
        """See `ModelContract`."""
        return bert.load()


class TestOpenVino(OpenVino):
    def model(self) -> Model:
        """A small one, in the gate."""
        return live_model(transformer(), name="net")


class TestOpenVinoOnSavedModel(SavedModel, OpenVino): ...


class TestOpenVinoOnMetaGraph(MetaGraph, OpenVino): ...


class TestOpenVinoOnKeras(Keras, OpenVino): ...


class TestOpenVinoOnBert(Bert, OpenVino): ...


class TestXlaOnSavedModel(SavedModel, Xla): ...


class TestXlaOnKeras(Keras, Xla): ...


class TestXlaOnBert(Bert, Xla): ...
