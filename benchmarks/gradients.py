"""Gradients of MiniLM and ResNet50 against their forward passes.

The forward job stores the last layer. The gradient job of MiniLM stores as much: the gradient of
one number of the last layer with respect to the embeddings of the tokens. The third stores totals
of gradients with respect to the weights of the last layer's feed-forward network. For ResNet50,
with random weights, gradients are with respect to the pixels, and `gradcam` stores a map.
"""

from statistics import median

import numpy as np

from benchmarks.pooled import LAST, Jobs, compare

MOST = 2.5
"""The most that a gradient job may cost, as a multiple of the forward job."""

OF = {"of": {"tensor": "transformer_layer_5:output", "index": [0, 7]}}
JOBS: Jobs = {
    "forward": LAST,
    "gradients": {"path": "token_embedding:output", "gradient": OF},
    "totals": {
        "regex": "^transformer_layer_5/feedforward.*:kernel",
        "gradient": OF,
        "statistics": ["total"],
    },
}

PICTURES = 32
PICTURE_JOBS: Jobs = {
    "forward": {"path": "conv5_block3_out:output"},
    "gradients": {"kind": "model_input", "gradient": {"of": "argmax"}},
    "gradcam": {"path": "conv5_block3_out:output", "gradient": {"of": "argmax", "cam": True}},
}


def main() -> None:
    """Print what each job costs as a multiple of the forward job."""
    import keras

    print("MiniLM")
    report(compare(JOBS))
    print("ResNet50")
    keras.utils.set_random_seed(0)
    model = keras.applications.ResNet50(weights=None)
    pixels = np.random.default_rng(0).uniform(-128, 128, (PICTURES, 224, 224, 3))
    report(compare(PICTURE_JOBS, model, list(pixels.astype("float32"))))
    print(f"  asked for gradients: {MOST} at most")


def report(shares: dict[str, list[tuple[float, float]]]) -> None:
    """Print the costs of jobs, from their shares of the forward job's rate."""
    for job, each in shares.items():
        seconds, cpu = (median(1 / share for share in column) for column in zip(*each, strict=True))
        print(f"  {job}: costs {seconds:.2f} times the forward job, CPU time {cpu:.2f} times")
