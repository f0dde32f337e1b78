"""Loaders are imported before their arguments are checked, and so without what takes seconds."""

import subprocess
import sys

import pytest

from extractkit.core.trust import OWN

LOADERS = sorted(name for name in OWN if name.startswith("extractkit.models."))
HEAVY = ("tensorflow", "keras", "keras_hub", "tf_keras", "transformers", "ai_edge_litert")


def test_there_are_loaders() -> None:
    assert "extractkit.models.bert.load" in LOADERS


@pytest.mark.parametrize("loader", LOADERS)
def test_a_loader_imports_no_framework(loader: str) -> None:
    module = loader.rpartition(".")[0]
    code = f"import sys, {module}\nprint(sorted({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"
