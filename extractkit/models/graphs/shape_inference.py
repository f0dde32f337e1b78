"""Static shapes of a graph's tensors when its inputs have given shapes; nothing is executed."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import tensorflow as tf

from extractkit.models.axes import RawShape
from extractkit.models.graphs.imported import (
    imported_operations,
    static_sizes,
    without_python_objects,
)
from extractkit.models.graphs.rebuilding import (
    PREFIX,
    Part,
    SourceGraph,
    needed_part,
    static_shape,
)


class StaticShapes:
    """The shapes of some tensors, as TensorFlow infers them while it imports what they need.

    Args:
        source: The graph.
        features: Names of the inputs that are given shapes.
        wanted: Names of the tensors (`op:0`).
    """

    def __init__(self, source: SourceGraph, features: Iterable[str], wanted: Sequence[str]) -> None:
        self._source = source
        self._features = list(features)
        self._wanted = wanted

    def at(self, specs: Mapping[str, tf.TensorSpec]) -> list[RawShape]:
        """Return the static shapes of the tensors when the inputs have the specs' shapes.

        Raises:
            ValueError: The graph cannot have inputs of these shapes.
        """
        # A graph of its own that can capture, but that nobody makes a function of: TensorFlow
        # refuses functions with loops of TensorFlow 1 in them.
        graph = tf.__internal__.FuncGraph("shapes")
        with graph.as_default():
            replaced = self._part.replaced(
                {
                    name: tf.compat.v1.placeholder(specs[name].dtype, specs[name].shape)
                    for name in self._features
                }
            )
            with without_python_objects():
                tf.graph_util.import_graph_def(
                    self._part.graph_def, input_map=self._part.input_map(replaced), name=PREFIX
                )
        shapes = {name: static_shape(tensor) for name, tensor in replaced.items()}
        for operation in imported_operations(graph):
            name = operation.name.removeprefix(f"{PREFIX}/")
            for index, output in enumerate(operation.outputs):
                shapes.setdefault(f"{name}:{index}", static_sizes(output))
        return [shapes[name] for name in self._wanted]

    @cached_property
    def _part(self) -> Part:
        return needed_part(self._source, self._features, self._wanted)
