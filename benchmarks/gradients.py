"""Gradients of the MiniLM against its forward pass.

The forward job stores the last layer. The gradient job stores as much: the gradient of one number
of the last layer with respect to the embeddings of the tokens. The third stores totals of gradients
with respect to the weights of the last layer's feed-forward network.
"""

from statistics import median

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


def main() -> None:
    """Print what each job costs as a multiple of the forward job."""
    for job, each in compare(JOBS).items():
        seconds, cpu = (median(1 / share for share in column) for column in zip(*each, strict=True))
        print(f"  {job}: costs {seconds:.2f} times the forward job, CPU time {cpu:.2f} times")
    print(f"  asked for gradients: {MOST} at most")
