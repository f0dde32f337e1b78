"""A Keras model loaded a second time, as its users load it: what a job checks itself against."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from extractkit.checkpoints import KEY
from extractkit.models.given_weights import GivenWeights
from extractkit.models.keras_models.weights import load_plainly
from extractkit.models.weight_files import WeightFile


@dataclass(frozen=True, eq=False)
class LoadedAgain:
    """The model, which may still lack weights that come from a file of their own.

    Attributes:
        model: of any Keras.
        loaded_by: what has loaded it, for records and messages.
        load_weights: loads those weights; None: it has all.
    """

    model: Any
    loaded_by: str
    load_weights: Callable[[], None] | None = None

    def complete(self, inputs: Any) -> None:
        """Load the weights that are not there yet; a model without variables is called first.

        Args:
            inputs: what the model is called with.

        Raises:
            ModelError: they do not fit.
        """
        if self.load_weights is None:
            return
        if not all(layer.built for layer in self.model._flatten_layers()):
            self.model(inputs, training=False)
        self.load_weights()


Again = Callable[[int | None], LoadedAgain]
"""Loads a model again; the argument is that of `HasOwnCall.own_call`."""


def loaded_again(
    model: Any,
    made_by: str,
    weights: GivenWeights,
    checkpoint: int | None,
    load: Callable[[Any, WeightFile, str], None] = load_plainly,
    by: str | None = None,
) -> LoadedAgain:
    """A model that has just been made, with the weights that it was configured with.

    Args:
        made_by: what has made it.
        checkpoint: place on the axis of the weights; None: there is no axis.
        load: gives a model the weights of a file, which the key names.
        by: what `load` loads them by. If None, what loaded them into the first model, whose
            weights are there already.
    """
    file = weights.file(checkpoint)
    if file is None:
        return LoadedAgain(model, made_by)
    return LoadedAgain(
        model,
        f"{made_by} and {by or weights.loaded_by(checkpoint)}",
        lambda: load(model, file, "model.checkpoint" if checkpoint is None else KEY),
    )
