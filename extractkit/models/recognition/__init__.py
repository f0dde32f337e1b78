"""Recognition of the format of a path from its content, or of why it is not supported.

recognize("model.pb").model  # "frozen_graph"
recognize("model.pt").what  # "a pickle of PyTorch"

Files are looked at, never loaded: no TensorFlow, no HDF5, no pickle is opened.
"""

from extractkit.models.recognition.content import Recognized
from extractkit.models.recognition.paths import (
    held,
    recognize,
    refuse_damaged,
    refuse_missing,
    refuse_others,
    refuse_unknown,
    refuse_unreachable,
)

__all__ = [
    "Recognized",
    "held",
    "recognize",
    "refuse_damaged",
    "refuse_missing",
    "refuse_others",
    "refuse_unknown",
    "refuse_unreachable",
]
