"""The adapter of Keras models, wherever they come from: traced once, then any tensor of it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import tensorflow as tf

from extractkit.errors import ModelError
from extractkit.inputs.protocol import InputSpec
from extractkit.models.foreign import told
from extractkit.models.functions.model import FunctionModel
from extractkit.models.graphs.records import Found
from extractkit.models.keras_models.catalog import find_tensors
from extractkit.models.keras_models.dialects import KERAS_3, Dialect
from extractkit.models.keras_models.tracing import Trace, trace
from extractkit.models.structure import ports
from extractkit.tensors import Kind


@dataclass(frozen=True, eq=False)
class KerasModel(FunctionModel):
    """A Keras model behind the `Model` protocol.

    Attributes:
        keras_model: the model.
        pack: from the inputs by name to the structure that the model is called with.
        dialect: the Keras that it is made with.
    """

    keras_model: Any
    pack: Callable[[Mapping[str, tf.Tensor]], Any]
    dialect: Dialect = field(default=KERAS_3, kw_only=True)

    @cached_property
    def graph(self) -> Trace:
        """The one trace of it, from which catalog and programs come."""
        specs = [_whole(spec) for spec in self.signature.specs]
        model = self.keras_model

        def forward(features: Mapping[str, tf.Tensor]) -> Any:
            return model(self.pack(features), training=False)

        try:
            if not all(layer.built for layer in model._flatten_layers()):
                # Building calls layers symbolically; those calls must not end up in the catalog.
                trace(forward, specs, self.dialect)
            return trace(forward, specs, self.dialect)
        except Exception as error:  # whatever a layer of somebody's own raises
            raise ModelError(
                f"model {self.name!r} ({type(model).__name__}) cannot be called with inputs "
                f"{', '.join(map(str, specs))}: "
                f"{told(error)}"
            ) from error

    @cached_property
    def found(self) -> Sequence[Found]:
        """Every layer call's tensors, the operations in it, and weights."""
        return find_tensors(self.graph)

    @property
    def variables(self) -> Iterable[Any]:
        """The model's own, generators' states among them."""
        return tuple(self.keras_model.variables)

    def called(self, arguments: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """What calling the model returns, by address: in a graph, as `predict` calls it.

        Nothing but the outputs is asked of that graph. Run operation by operation a model may give
        something else: TensorFlow's fused kernels are for graphs alone, and turn a NaN into 0.
        """
        addresses = [
            one.record.address for one in self.found if one.record.kind is Kind.MODEL_OUTPUT
        ]

        def call(given: Mapping[str, tf.Tensor]) -> list[tf.Tensor]:
            return [*ports("output", self.keras_model(self.pack(given), training=False)).values()]

        with self.dialect.repaired():
            returned = tf.function(call, autograph=False)(dict(arguments))
        return dict(zip(addresses, returned, strict=True))

    def describe(self) -> Mapping[str, object]:
        """Class, number of parameters, and where the model comes from."""
        return {"class": type(self.keras_model).__name__, **super().describe()}


def _whole(spec: InputSpec) -> tf.TensorSpec:
    """An input as the model itself takes it, samples included."""
    shape = list(spec.shape)
    if spec.sample_axis is not None:
        shape.insert(spec.sample_axis, None)
    return tf.TensorSpec(shape, spec.dtype, name=spec.name)
