"""The numbers that targets consist of: of each sample, from a tensor and perhaps its label.

A `Pick` is a number as written, and a `BoundPick` the same for one tensor of a model.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from extractkit.core.spec import Dim
from extractkit.core.transforms.pipeline import BoundPipeline
from extractkit.errors import ConfigError, SelectionError

LABELS = "inputs.labels"
"""The key of the labels' place in the source."""

LABEL_FEATURE = "extractkit.label"
"""The name of labels among the features of a batch, if targets take them."""


@dataclass(frozen=True)
class LabelSpec:
    """The form of the labels that targets take.

    Attributes:
        at: the configuration key of the target, for messages.
        whole: whether they are whole numbers, such as the number of a class.
        shape: the shape of a sample's label.
        below: whole numbers are 0 or more and less than this; None: not known yet.
        ignored: a number outside this range that is allowed nevertheless.
    """

    at: str
    whole: bool
    shape: tuple[int, ...] = ()
    below: int | None = None
    ignored: int | None = None

    @property
    def dtype(self) -> str:
        """The dtype in which labels are given to programs. Targets convert them to their own."""
        return "int64" if self.whole else "float64"

    def __str__(self) -> str:
        """Return the form for messages: "a whole number of 0 to 9", "10 numbers"."""
        if self.whole:
            limit = "" if self.below is None else f" of 0 to {self.below - 1}"
            limit += "" if self.ignored is None else f" or {self.ignored}"
            count = prod(self.shape)
            return f"a whole number{limit}" if count == 1 else f"{count} whole numbers{limit}"
        axes = " × ".join(map(str, self.shape))
        return f"{axes} numbers" if prod(self.shape) != 1 else "a number"


def merged(specs: Iterable[LabelSpec | None]) -> LabelSpec | None:
    """Return the form of labels that suits every target, or None if no target takes labels.

    Raises:
        SelectionError: targets take labels of different forms.
    """
    found: LabelSpec | None = None
    for one in specs:
        if one is None:
            continue
        if found is None:
            found = one
            continue
        if prod(one.shape) != prod(found.shape) or one.ignored != found.ignored:
            raise SelectionError(
                f"{found.at} takes {found} as a sample's label, and {one.at} takes {one}. A job "
                f"has one label for each sample ({LABELS}): make two runs"
            )
        limits = [limit for limit in (found.below, one.below) if limit is not None]
        least = min(limits, default=None)
        found = replace(found, whole=found.whole or one.whole, below=least)
    return found


ARGMAX, LABEL = "argmax", "label"
"""Words for an index: the largest element, and that at the sample's label."""


@dataclass(frozen=True)
class Element:
    """The element of a sample at an index: one number for each axis but that of the samples.

    Along free axes, negative numbers count from the end of each sample.
    """

    index: tuple[int, ...]


@dataclass(frozen=True)
class Largest:
    """The largest element of each sample, such as the class that the model chooses.

    The first of several equal ones. Padding is ignored.
    """


@dataclass(frozen=True)
class AtLabel:
    """The element at the sample's label: as `Element`, but with None for the axis of the label."""

    index: tuple[int | None, ...]


@dataclass(frozen=True)
class Loss:
    """A loss of Keras between a tensor of the sample and its label.

    Attributes:
        name: the name of the function in `keras.losses`.
        options: its further arguments, sorted.
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def written(self) -> Mapping[str, Any]:
        """The loss as plain data."""
        return {"loss": self.name, "options": {key: _listed(one) for key, one in self.options}}

    @property
    def takes_classes(self) -> bool:
        """Whether its labels are numbers of classes, one fewer axis than the tensor has."""
        return self.name == "sparse_categorical_crossentropy"


Index = Element | AtLabel | Largest
"""The choice of an element of a sample."""

Pick = Index | Loss
"""A number of a sample, made of a tensor."""


def parse_index(value: object, at: str) -> Index:
    """Parse an index.

    Raises:
        ConfigError: it is not of a known form.
    """
    if value == ARGMAX:
        return Largest()
    listed: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
    numbers = [one for one in listed if isinstance(one, int) and not isinstance(one, bool)]
    if len(numbers) == len(listed):
        return Element(tuple(numbers))
    if len(numbers) == len(listed) - 1 and LABEL in listed:
        return AtLabel(tuple(None if one == LABEL else one for one in listed))
    raise ConfigError(
        f"{at}={value!r} is not an index. Write a number, {LABEL} for the sample's own number "
        f"({LABELS}), one for each axis as in [0, 3] or [-1, {LABEL}], or {ARGMAX}"
    )


LOSS_ALIASES: Mapping[str, str] = {
    "bce": "binary_crossentropy",
    "kld": "kl_divergence",
    "mae": "mean_absolute_error",
    "mape": "mean_absolute_percentage_error",
    "mse": "mean_squared_error",
    "msle": "mean_squared_logarithmic_error",
}
"""Short names of losses that Keras knows, in small or capital letters."""


def parse_loss(name: object, options: object, at: str) -> Loss:
    """Parse the name of a loss and its options.

    Args:
        at: the key of the target.

    Raises:
        ConfigError: they are not a name and a mapping.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigError(
            f"{at}.loss={name!r} is not the name of a function in keras.losses, such as "
            f"sparse_categorical_crossentropy"
        )
    if not isinstance(options, Mapping):
        raise ConfigError(
            f"{at}.options={options!r} is not a mapping of arguments of {name}, as in "
            f"{{from_logits: true}}"
        )
    given = {str(key): _hashable(one) for key, one in options.items()}
    return Loss(LOSS_ALIASES.get(name.lower(), name), tuple(sorted(given.items())))


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


def _listed(value: Any) -> Any:
    return list(map(_listed, value)) if isinstance(value, tuple) else value


def written_index(pick: Index) -> Any:
    """Return an index as plain data."""
    if isinstance(pick, Largest):
        return ARGMAX
    return [LABEL if one is None else one for one in pick.index]


@dataclass(frozen=True)
class BoundAtLabel:
    """An element at the sample's label, for one tensor.

    Attributes:
        others: the slice of all other axes. It leaves (samples, elements).
        dim: the axis of these elements.
        axis: its position in the tensor, after that of the samples.
        at: the configuration key, for messages.
    """

    others: BoundPipeline
    dim: Dim
    axis: int
    at: str

    @property
    def label(self) -> LabelSpec:
        """The form of the labels."""
        return LabelSpec(self.at, whole=True, below=self.dim.size)


@dataclass(frozen=True)
class BoundLoss:
    """A loss for one tensor.

    Attributes:
        loss: the loss.
        shape: the shape of a sample of the tensor.
        at: the configuration key, for messages.
    """

    loss: Loss
    shape: tuple[int, ...]
    at: str

    @property
    def label(self) -> LabelSpec:
        """The form of the labels: numbers of classes along the last axis, or as the tensor."""
        if not self.loss.takes_classes:
            return LabelSpec(self.at, whole=False, shape=self.shape)
        ignored = dict(self.loss.options).get("ignore_class")
        below = self.shape[-1] if self.shape else None
        return LabelSpec(self.at, True, self.shape[:-1], below, ignored)


BoundPick = BoundPipeline | Largest | BoundAtLabel | BoundLoss
"""A `Pick` for one tensor: an element is a slice."""
