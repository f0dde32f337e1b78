"""Files of weights, whatever wrote them: arrays by key, listed without reading, read one by one.

    weights = open_weights("model.safetensors")
    weights.keys()
    weights.entry("encoder.layer.0.output.dense.weight")  # Entry(dtype="float32", shape=(384, 384))
    weights.read("encoder.layer.0.output.dense.weight")  # the array

`open_weights` tells the format by the content. Only TensorFlow's own checkpoints import TensorFlow.
"""

from extractkit.models.weight_files.opening import open_each, open_weights
from extractkit.models.weight_files.weight_file import Entry, Place, WeightFile

__all__ = ["Entry", "Place", "WeightFile", "open_each", "open_weights"]
