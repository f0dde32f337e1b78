"""Presets of keras-hub behind the contract of every adapter."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from extractkit.models import Model
from extractkit.models.hub import load
from extractkit.testing.models import ModelContract
from tests.models import tiny_presets


@pytest.mark.parametrize(
    ("build", "task"),
    [
        pytest.param(tiny_presets.gpt2, None, marks=pytest.mark.thorough),
        (tiny_presets.gpt2, "CausalLM"),
        pytest.param(tiny_presets.llama, None, marks=pytest.mark.thorough),
        (tiny_presets.vit, None),
        (tiny_presets.resnet, None),
    ],
)
class TestPreset(ModelContract):
    @pytest.fixture(autouse=True)
    def _saved(self, build: Callable[[], Any], task: str | None, tmp_path: Path) -> None:
        self.task = task
        self.directory = tiny_presets.saved(build, tmp_path / "preset")

    def model(self) -> Model:
        return load(str(self.directory), self.task)
