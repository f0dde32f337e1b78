"""Declarative extraction of tensor values from TensorFlow models.

    import extractkit

    run = extractkit.extract(["model=bert", "selectors=attention"])
    run = extractkit.open("outputs/2026-11-22/10-15-00")
    run["transformer_layer_0/self_attention_layer/softmax:output"].sample(0)

Importing this imports neither TensorFlow nor Hydra, and reading a run needs neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from extractkit.advice import RENAMED_VERBS

if TYPE_CHECKING:
    from extractkit.api import catalog, extract, join, plan, rerun, resume, verify
    from extractkit.core.catalog import Catalog, TensorRecord
    from extractkit.engine.preview import Preview
    from extractkit.errors import (
        BadSampleError,
        ConfigError,
        DiskSpaceError,
        ExtractkitError,
        FinalError,
        InputError,
        JobError,
        MissingExtraError,
        ModelError,
        RunDirectoryError,
        SampleError,
        SelectionError,
        UnknownTensorError,
        UserError,
    )
    from extractkit.exports.registry import export
    from extractkit.exports.ro_crate import crate
    from extractkit.inputs.in_memory import Labelled
    from extractkit.reports.page import report
    from extractkit.runs.checking import Verification
    from extractkit.runs.checking.signature import sign
    from extractkit.runs.comparing import diff
    from extractkit.runs.comparing.result import Comparison
    from extractkit.runs.comparing.similarity import SimilarityMatrix, similarity
    from extractkit.runs.reader import Run
    from extractkit.runs.sweeps.reader import Sweep
    from extractkit.runs.sweeps.reader import open_path as open  # noqa: A004
    from extractkit.runs.views import TensorView
    from extractkit.training import Callback

    __version__: str

__all__ = [
    "BadSampleError",
    "Callback",
    "Catalog",
    "Comparison",
    "ConfigError",
    "DiskSpaceError",
    "ExtractkitError",
    "FinalError",
    "InputError",
    "JobError",
    "Labelled",
    "MissingExtraError",
    "ModelError",
    "Preview",
    "Run",
    "RunDirectoryError",
    "SampleError",
    "SelectionError",
    "SimilarityMatrix",
    "Sweep",
    "TensorRecord",
    "TensorView",
    "UnknownTensorError",
    "UserError",
    "Verification",
    "__version__",
    "catalog",
    "crate",
    "diff",
    "export",
    "extract",
    "join",
    "open",
    "plan",
    "report",
    "rerun",
    "resume",
    "sign",
    "similarity",
    "verify",
]

# Imported on first use, so that `extractkit --help` stays fast.
_LAZY = {
    "BadSampleError": ("extractkit.errors", "BadSampleError"),
    "Callback": ("extractkit.training", "Callback"),
    "Catalog": ("extractkit.core.catalog", "Catalog"),
    "Comparison": ("extractkit.runs.comparing.result", "Comparison"),
    "ConfigError": ("extractkit.errors", "ConfigError"),
    "DiskSpaceError": ("extractkit.errors", "DiskSpaceError"),
    "ExtractkitError": ("extractkit.errors", "ExtractkitError"),
    "FinalError": ("extractkit.errors", "FinalError"),
    "InputError": ("extractkit.errors", "InputError"),
    "JobError": ("extractkit.errors", "JobError"),
    "Labelled": ("extractkit.inputs.in_memory", "Labelled"),
    "MissingExtraError": ("extractkit.errors", "MissingExtraError"),
    "ModelError": ("extractkit.errors", "ModelError"),
    "Preview": ("extractkit.engine.preview", "Preview"),
    "Run": ("extractkit.runs.reader", "Run"),
    "RunDirectoryError": ("extractkit.errors", "RunDirectoryError"),
    "SampleError": ("extractkit.errors", "SampleError"),
    "SelectionError": ("extractkit.errors", "SelectionError"),
    "SimilarityMatrix": ("extractkit.runs.comparing.similarity", "SimilarityMatrix"),
    "Sweep": ("extractkit.runs.sweeps.reader", "Sweep"),
    "TensorRecord": ("extractkit.core.catalog", "TensorRecord"),
    "TensorView": ("extractkit.runs.views", "TensorView"),
    "UnknownTensorError": ("extractkit.errors", "UnknownTensorError"),
    "UserError": ("extractkit.errors", "UserError"),
    "Verification": ("extractkit.runs.checking", "Verification"),
    "catalog": ("extractkit.api", "catalog"),
    "crate": ("extractkit.exports.ro_crate", "crate"),
    "diff": ("extractkit.runs.comparing", "diff"),
    "export": ("extractkit.exports.registry", "export"),
    "extract": ("extractkit.api", "extract"),
    "join": ("extractkit.api", "join"),
    "open": ("extractkit.runs.sweeps.reader", "open_path"),
    "plan": ("extractkit.api", "plan"),
    "report": ("extractkit.reports.page", "report"),
    "rerun": ("extractkit.api", "rerun"),
    "resume": ("extractkit.api", "resume"),
    "sign": ("extractkit.runs.checking.signature", "sign"),
    "similarity": ("extractkit.runs.comparing.similarity", "similarity"),
    "verify": ("extractkit.api", "verify"),
}


def __getattr__(name: str) -> object:
    if new := {**RENAMED_VERBS, "open_sweep": "open"}.get(name):
        raise AttributeError(
            f"extractkit.{name} is now extractkit.{new}. Write: extractkit.{new}(…)"
        )
    if name == "__version__":
        from importlib.metadata import version  # imports the parsers of mails

        return version("extractkit")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LAZY[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
