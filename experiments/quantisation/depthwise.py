"""What the error of each depthwise convolution in 8 bits is made of.

    python -m experiments.quantisation.depthwise FOLDER

FOLDER holds the runs `keras`, `saved_model` and `int8`. The convolution is computed once more from
their values, with only its inputs or only its weights as the 8 bits have them; what is missing then
is the rounding of its own outputs. Each part is ‖part‖ / ‖original output‖.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

import extractkit

INPUTS = ("activation_2", "activation_3", "add_1", "activation_4", "add_2", "activation_5", "add_3",
          "activation_6")  # fmt: skip
"""What the separable convolutions 1 to 8 take."""

PARTS = ("all", "from its inputs", "from its weights", "from rounding its outputs")


def parts(folder: Path, number: int) -> dict[str, float]:
    """The relative size of each part of the error of one convolution."""
    keras, saved_model, int8 = (
        extractkit.open(folder / name) for name in ("keras", "saved_model", "int8")
    )
    given = INPUTS[number - 1]
    operation = "Relu" if given.startswith("activation") else "add"
    inputs = np.asarray(keras[f"{given}:output"])
    inputs_int8 = np.asarray(int8[f"model_1/{given}/{operation}:dequantized"])
    weights = np.asarray(keras[f"separable_conv2d_{number}:depthwise_kernel"])
    address = f"model_1/separable_conv2d_{number}/separable_conv2d/depthwise"
    weights_int8 = np.asarray(int8[f"{address}:dequantized"])[0, ..., np.newaxis]
    original = np.asarray(saved_model[f"{address}:0"])
    outputs_int8 = np.asarray(int8[f"{address}1:dequantized"])
    errors = (
        outputs_int8 - original,
        _convolved(inputs_int8, weights) - original,
        _convolved(inputs, weights_int8) - original,
        outputs_int8 - _convolved(inputs_int8, weights_int8),
    )
    sizes = (float(np.linalg.norm(error) / np.linalg.norm(original)) for error in errors)
    return dict(zip(PARTS, sizes, strict=True))


def _convolved(inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return tf.nn.depthwise_conv2d(inputs, weights, [1, 1, 1, 1], "SAME").numpy()


if __name__ == "__main__":
    print("| depthwise half of |", " | ".join(PARTS), "|")
    print("|---" * (1 + len(PARTS)), "|", sep="")
    for convolution in range(1, len(INPUTS) + 1):
        found = parts(Path(sys.argv[1]), convolution)
        sizes = (f"{found[part]:.3f} |" for part in PARTS)
        print(f"| separable_conv2d_{convolution} |", *sizes)
