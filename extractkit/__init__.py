"""Declarative extraction of tensor values from TensorFlow models.

    import extractkit

    run = extractkit.extract(["model=bert", "selectors=attention"])
    run = extractkit.open("outputs/2026-11-22/10-15-00")
    run["transformer_layer_0/self_attention_layer/softmax:op/Softmax"].sample(0)

Importing this imports neither TensorFlow nor Hydra; reading a run back needs neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from extractkit.advice import RENAMED_VERBS

if TYPE_CHECKING:
    from extractkit.api import extract, join, rerun, resume, verify
    from extractkit.runs.comparing import diff
    from extractkit.runs.reader import Run
    from extractkit.runs.sweeps.reader import Sweep
    from extractkit.runs.sweeps.reader import open_path as open  # noqa: A004

__all__ = [
    "Run",
    "Sweep",
    "diff",
    "extract",
    "join",
    "open",
    "rerun",
    "resume",
    "verify",
]

# Looked up on first use, so that `extractkit --help` pays for none of them.
_LAZY = {
    "Run": ("extractkit.runs.reader", "Run"),
    "Sweep": ("extractkit.runs.sweeps.reader", "Sweep"),
    "diff": ("extractkit.runs.comparing", "diff"),
    "extract": ("extractkit.api", "extract"),
    "join": ("extractkit.api", "join"),
    "open": ("extractkit.runs.sweeps.reader", "open_path"),
    "rerun": ("extractkit.api", "rerun"),
    "resume": ("extractkit.api", "resume"),
    "verify": ("extractkit.api", "verify"),
}


def __getattr__(name: str) -> object:
    if new := {**RENAMED_VERBS, "open_sweep": "open"}.get(name):
        raise AttributeError(
            f"extractkit.{name} is now extractkit.{new}. Write: extractkit.{new}(…)"
        )
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LAZY[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
