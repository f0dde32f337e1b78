"""A BERT behind the contract of every adapter: a tiny one, and the real one."""

from pathlib import Path

import pytest

from extractkit.models import Model
from extractkit.models.bert import load
from extractkit.testing.models import ModelContract
from tests.models import tiny_bert


class TestTinyBert(ModelContract):
    @pytest.fixture(autouse=True)
    def _written(self, tmp_path: Path) -> None:
        self.directory = tiny_bert.hugging_face(tmp_path / "bert")

    def model(self) -> Model:
        return load(str(self.directory), max_length=12)


@pytest.mark.real_model
@pytest.mark.thorough
class TestBert(ModelContract):
    def model(self) -> Model:
        return load()
