"""Targets of gradients in TensorFlow: an element, the largest element or a loss of each sample.

Losses are functions of `keras.losses`, which return a number for each row. Keras remembers the
logits of a softmax or sigmoid, and computes losses from those in place of the probabilities. Then
there is no gradient with respect to the probabilities. A target is a loss of the tensor that it
names.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import tensorflow as tf

from extractkit.core.picks import (
    LABEL_FEATURE,
    BoundAtLabel,
    BoundLoss,
    BoundPick,
    LabelSpec,
    merged,
)
from extractkit.core.requests import Gradient
from extractkit.core.targets import BoundTarget
from extractkit.core.transforms import Masked, present
from extractkit.core.transforms.pipeline import BoundPipeline
from extractkit.core.transforms.reductions import farthest
from extractkit.core.values import Array
from extractkit.errors import JobError, SampleError, SelectionError, choices
from extractkit.models import Fetch
from extractkit.models.failures import error_summary


@dataclass(frozen=True, eq=False)
class Given:
    """What a graph with gradients is given beside the model's inputs.

    Attributes:
        samples: the number of samples, int32.
        lengths: int32 (samples,), the samples' lengths along each free axis.
        labels: the samples' labels, (samples, *shape); None if no target takes them.
    """

    samples: tf.Tensor
    lengths: Mapping[str, tf.Tensor]
    labels: tf.Tensor | None = None


def targets_of(fetches: Iterable[Fetch]) -> list[BoundTarget]:
    """Return the targets of the gradients among the fetches."""
    requests = (fetch.request for fetch in fetches)
    return [one.of for one in requests if isinstance(one, Gradient)]


@dataclass(frozen=True)
class Labels:
    """The labels that a program takes.

    Attributes:
        spec: their form.
        targets: the targets that take them.
    """

    spec: LabelSpec
    targets: tuple[BoundTarget, ...]

    @classmethod
    def of(cls, fetches: Iterable[Fetch]) -> "Labels | None":
        """Return the labels that the gradients among the fetches need, or None."""
        targets = tuple(one for one in targets_of(fetches) if one.label is not None)
        spec = merged(one.label for one in targets)
        return None if spec is None else cls(spec, targets)

    def placeholder(self) -> tf.Tensor:
        """Return a new placeholder in the current graph."""
        return tf.compat.v1.placeholder(self.spec.dtype, [None, *self.spec.shape])

    def among(self, features: Mapping[str, Array], lengths: Mapping[str, Array]) -> Array:
        """Return those of a batch, checked against axes that only data can show.

        Raises:
            SampleError: a label is beyond the end of its axis.
            JobError: the samples have no labels.
        """
        if LABEL_FEATURE not in features:
            raise JobError(
                f"{self.spec.at} takes the label of each sample, and inputs gives none "
                f"(Sample.label)"
            )
        labels = np.asarray(features[LABEL_FEATURE])
        for target in self.targets:
            own = {axis: np.asarray(sizes) for axis, sizes in lengths.items()}
            for at, dim, sizes in target.label_sizes(own):
                flat = labels.reshape(len(labels))
                for row in np.flatnonzero((flat < 0) | (flat >= sizes)).tolist():
                    size = int(np.broadcast_to(sizes, len(flat))[row])
                    raise SampleError(
                        f"label {flat[row]} is beyond the end of axis "
                        f"{dim.title or str(dim)!r} of {target.tensor!r}, which has {size} "
                        f"elements ({at})"
                    )
        return labels.reshape(len(labels), *self.spec.shape).astype(self.spec.dtype)


@dataclass(frozen=True, eq=False)
class Numbers:
    """The target of each sample in a graph.

    Attributes:
        values: the numbers: (samples,).
        chosen: the positions of the largest elements among them, int64 (samples,) each.
    """

    values: tf.Tensor
    chosen: tuple[tf.Tensor, ...]


def numbers(of: BoundTarget, masked: Masked, given: Given) -> Numbers:
    """Return the target of each sample.

    Args:
        masked: the tensor of the target, with samples along its first axis.
    """
    chosen: list[tf.Tensor] = []
    number, *subtracted = (_picked(one, masked, given, chosen) for one in of.picks)
    return Numbers(number - subtracted[0] if subtracted else number, tuple(chosen))


def _picked(
    pick: BoundPick, masked: Masked, given: Given, largest_at: list[tf.Tensor]
) -> tf.Tensor:
    if isinstance(pick, BoundPipeline):
        return pick.in_graph(tf, masked)
    if isinstance(pick, BoundLoss):
        return _loss(pick, masked.tensor, given)
    if isinstance(pick, BoundAtLabel):
        labels = tf.reshape(_labels(given), [given.samples])
        return tf.gather(pick.others.in_graph(tf, masked), labels, axis=1, batch_dims=1)
    tensor = masked.tensor
    inside = present(tf, masked, list(masked.lengths))
    smallest, greatest = (tf.constant(farthest(tensor, sign), tensor.dtype) for sign in (-1, 1))
    # NaN counts as ∞, as in the transform of this name.
    shown = tf.where(inside, tf.where(tf.math.is_nan(tensor), greatest, tensor), smallest)
    rows = [tf.shape(tensor)[0], -1]
    shown = tf.reshape(shown, rows)
    # An element may be as small as what hides padding.
    largest = tf.equal(shown, tf.reduce_max(shown, axis=1, keepdims=True))
    inside = tf.reshape(tf.broadcast_to(inside, tf.shape(tensor)), rows)
    chosen = tf.argmax(tf.cast(largest & inside, tf.int32), axis=1)
    largest_at.append(chosen)
    return tf.gather(tf.reshape(tensor, rows), chosen, axis=1, batch_dims=1)


def _labels(given: Given) -> tf.Tensor:
    assert given.labels is not None, "the program takes labels"
    return given.labels


def _loss(pick: BoundLoss, tensor: tf.Tensor, given: Given) -> tf.Tensor:
    # A number alone is a row of one, since losses are means over the last axis.
    shape = pick.shape or (1,)
    classes = pick.loss.takes_classes
    own = shape[:-1] if classes else shape
    labels = tf.reshape(_labels(given), [given.samples, *own])
    labels = tf.ensure_shape(labels, [None, *own])
    predicted = tf.ensure_shape(tf.reshape(tensor, [given.samples, *shape]), [None, *shape])
    return _computed(
        pick, labels if classes else tf.cast(labels, tensor.dtype), tf.identity(predicted)
    )


def _computed(pick: BoundLoss, labels: tf.Tensor, predicted: tf.Tensor) -> tf.Tensor:
    function = losses()[pick.loss.name]
    return tf.convert_to_tensor(function(labels, predicted, **dict(pick.loss.options)))


@cache
def losses() -> Mapping[str, Callable[..., Any]]:
    """Return the functions of `keras.losses` by name."""
    import keras

    functions = {name: one for name, one in vars(keras.losses).items() if inspect.isfunction(one)}
    return {
        name: one
        for name, one in functions.items()
        if next(iter(inspect.signature(one).parameters), None) == "y_true"
    }


_ROWS = 3


def check_losses(of: BoundTarget) -> None:
    """Check by trying that the losses of a target are one number of each sample.

    Raises:
        SelectionError: a loss or an option does not exist, or it is not such a number.
    """
    for pick in of.picks:
        if isinstance(pick, BoundLoss):
            _check_loss(pick, of.tensor)


def _check_loss(pick: BoundLoss, address: str) -> None:
    name, options = pick.loss.name, dict(pick.loss.options)
    if name not in losses():
        raise SelectionError(
            f"{pick.at}.loss={name} is not a function of keras.losses. {choices(name, losses())}"
        )
    _, _, *known = inspect.signature(losses()[name]).parameters
    for key in options:
        if key not in known:
            raise SelectionError(f"{pick.at}.options.{key} does not exist. {choices(key, known)}")
    shape = pick.shape or (1,)
    draw = np.random.default_rng(0)
    predicted = _distributions(draw, shape)
    if pick.loss.takes_classes:
        labels = tf.constant(draw.integers(0, shape[-1], (_ROWS, *shape[:-1])))
    else:
        labels = _distributions(draw, shape)
    try:
        together = _computed(pick, labels, predicted).numpy()
        alone = [
            _computed(pick, labels[row : row + 1], predicted[row : row + 1]).numpy()
            for row in range(_ROWS)
        ]
    except Exception as error:  # Keras and TensorFlow may raise anything
        raise SelectionError(
            f"{pick.at}: keras.losses.{name} cannot be computed of {address!r}, whose samples have "
            f"the shape {list(pick.shape)}, and labels of the shape {list(pick.label.shape)}: "
            f"{error_summary(error)}"
        ) from error
    found = f"{pick.at}: keras.losses.{name} of {address!r}"
    if together.ndim == 0:
        raise SelectionError(
            f"{found} is one number for all samples of a batch. Choose a loss that is one number "
            f"per sample{', or give its axes: options.axis' if 'axis' in known else ''}"
        )
    if together.shape != (_ROWS,):
        raise SelectionError(
            f"{found} is {together[0].size} numbers per sample, of shape "
            f"{list(together.shape[1:])}, not one, and is neither added up nor averaged. Choose a "
            f"tensor with one axis besides the samples, such as an output after pooling"
        )
    if any(one.shape != (1,) for one in alone) or not np.allclose(
        together, np.concatenate(alone), rtol=1e-3, atol=1e-5, equal_nan=True
    ):
        raise SelectionError(
            f"{found} depends on the other samples of the batch. Choose a loss that is one number "
            f"per sample"
        )


def _distributions(draw: np.random.Generator, shape: tuple[int, ...]) -> tf.Tensor:
    """Return rows of positive numbers that add up to 1 along the last axis."""
    drawn = draw.uniform(0.1, 0.9, (_ROWS, *shape))
    return tf.constant(drawn / drawn.sum(-1, keepdims=True) if shape[-1] > 1 else drawn, tf.float32)
