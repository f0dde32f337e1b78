"""The adapter of Keras 3 models, wherever they come from: traced once, then any tensor of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import tensorflow as tf

from extractkit.errors import ModelError
from extractkit.models.foreign import told
from extractkit.models.function_model import FunctionModel
from extractkit.models.graph_records import Found
from extractkit.models.keras_catalog import find_tensors
from extractkit.models.tracing import Trace, trace


@dataclass(frozen=True, eq=False)
class KerasModel(FunctionModel):
    """A Keras model behind the `Model` protocol.

    Attributes:
        keras_model: the model.
        pack: from the inputs by name to the structure that the model is called with.
    """

    keras_model: keras.Model
    pack: Callable[[Mapping[str, tf.Tensor]], Any]

    @cached_property
    def graph(self) -> Trace:
        """The one trace of it, from which catalog and programs come."""
        specs = [
            tf.TensorSpec([None, *spec.shape], spec.dtype, name=spec.name)
            for spec in self.signature.specs
        ]
        model = self.keras_model

        def forward(features: Mapping[str, tf.Tensor]) -> Any:
            return model(self.pack(features), training=False)

        try:
            if not all(layer.built for layer in model._flatten_layers()):
                # Building calls layers symbolically; those calls must not end up in the catalog.
                trace(forward, specs)
            return trace(forward, specs)
        except (ValueError, TypeError, tf.errors.OpError) as error:
            raise ModelError(
                f"model {self.name!r} ({type(model).__name__}) cannot be called with inputs "
                f"{', '.join(map(str, specs))}: "
                f"{told(error)}"
            ) from error

    @cached_property
    def found(self) -> Sequence[Found]:
        """Every layer call's tensors, the operations in it, and weights."""
        return find_tensors(self.graph)

    def describe(self) -> Mapping[str, object]:
        """Class, number of parameters, and where the model comes from."""
        return {"class": type(self.keras_model).__name__, **super().describe()}
