"""What happens to a model's layers in training, from the outputs of its layers alone."""

from dataclasses import dataclass

import numpy as np

import extractkit
from experiments.similarity import cka, planar

SETTLED = 0.95
"""Linear CKA with the last checkpoint from which on a layer counts as settled."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer in one training of `n` checkpoints.

    Attributes:
        alike: linear CKA of all pairs of checkpoints: (n, n).
        plane: the two principal components of its outputs for all samples: (n, 2).
        shown: the share of the variance that each of these has.
        moved: ‖x − y‖ / ‖y‖, y being what the outputs were at the first checkpoint: (n,).
        step_sizes: the same, y being what they were at the checkpoint before: (n,).
    """

    alike: np.ndarray
    plane: np.ndarray
    shown: np.ndarray
    moved: np.ndarray
    step_sizes: np.ndarray

    def settled(self) -> int:
        """The place of the first checkpoint from which on all are as the last one."""
        unlike = np.flatnonzero(self.alike[-1] < SETTLED)
        return int(unlike[-1]) + 1 if len(unlike) else 0


@dataclass(frozen=True, eq=False)
class Training:
    """One training: cross entropy (nats) and accuracy at each checkpoint, its layers, logits."""

    steps: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray
    layers: dict[str, Layer]
    logits: np.ndarray


def training(run: extractkit.Run, labels: np.ndarray) -> Training:
    """Return the dynamics in a run over checkpoints.

    Args:
        labels: the labels of all samples, or of more.
    """
    data = run.to_xarray()
    values = {key.removesuffix(":output"): data[key].values for key in run}
    logits = values["logits"]
    wanted = labels[: logits.shape[1]]
    shifted = logits - logits.max(axis=2, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=2, keepdims=True))
    loss = -log_p[:, np.arange(len(wanted)), wanted].mean(axis=1)
    drift = run.drift
    assert drift is not None, "a finished run over checkpoints has its drift"
    layers = {}
    for name, outputs in values.items():
        moved = drift.tensors[f"{name}:output"]
        layers[name] = Layer(
            cka(outputs),
            *planar(outputs),
            np.array(moved.from_first.relative_norm, np.float64),
            np.array(moved.from_previous.relative_norm, np.float64),
        )
    accuracy = (logits.argmax(axis=2) == wanted).mean(axis=1)
    return Training(data["checkpoint"].values, loss, accuracy, layers, logits)
