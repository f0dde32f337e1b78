"""What a path holds, found from its content: which format reads it, or why none does.

recognize("model.pb").model  # "frozen_graph"
recognize("model.pt").what  # "a pickle of PyTorch"

Files are looked at, never loaded: no TensorFlow, no HDF5, no pickle is opened.
"""

from extractkit.models.recognition.paths import recognize
from extractkit.models.recognition.recognized import Recognized
from extractkit.models.recognition.refusing import refuse_others, refuse_remote

__all__ = ["Recognized", "recognize", "refuse_others", "refuse_remote"]
