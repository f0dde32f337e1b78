"""Static shapes of a graph's tensors when its inputs have given shapes; nothing is executed.

TensorFlow infers all shapes while it imports a graph, in a fraction of a second for 30,000
operations. `tf.graph_util.import_graph_def` then makes several Python objects of each operation,
which takes five times as long and is of no use here, so that step is left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

# No public function infers shapes, or reads them without Python objects.
from tensorflow.python.framework import importer
from tensorflow.python.framework.ops import Operation, SymbolicTensor

from extractkit.models.axes import RawShape
from extractkit.models.graphs.rebuilding import PREFIX, SourceGraph, needed_part, static_shape
from extractkit.models.patching import patched


def shapes_at(
    source: SourceGraph, specs: Mapping[str, tf.TensorSpec], wanted: Sequence[str]
) -> list[RawShape]:
    """Return the static shapes of tensors when the inputs have the specs' shapes.

    Args:
        wanted: Names of the tensors (`op:0`).

    Raises:
        ValueError: The graph cannot have inputs of these shapes.
    """
    # A graph of its own that can capture, but that nobody makes a function of: TensorFlow refuses
    # functions with loops of TensorFlow 1 in them.
    graph = tf.__internal__.FuncGraph("shapes")
    with graph.as_default():
        features = {
            name: tf.compat.v1.placeholder(spec.dtype, spec.shape) for name, spec in specs.items()
        }
        part = needed_part(source, features, wanted)
        with _without_python_objects():
            tf.graph_util.import_graph_def(part.graph_def, input_map=part.input_map, name=PREFIX)
    shapes = {name: static_shape(tensor) for name, tensor in part.replaced.items()}
    needed = {name.partition(":")[0] for name in wanted if name not in shapes}
    for handle in graph.new_operations():
        operation = Operation(handle, SymbolicTensor)
        name = operation.name.removeprefix(f"{PREFIX}/")
        if name in needed:
            shapes |= _output_shapes(graph, operation, name)
    return [shapes[name] for name in wanted]


@contextmanager
def _without_python_objects() -> Iterator[None]:
    """Within it, a graph that is imported has no Python object for its operations."""
    with patched(importer, "_ProcessNewOps", lambda original: lambda graph: None):
        yield


def _output_shapes(graph: tf.Graph, operation: Any, name: str) -> dict[str, RawShape]:
    operation.graph = graph
    operation._init_outputs()
    shapes: dict[str, RawShape] = {}
    for index, output in enumerate(operation.outputs):
        sizes, unknown_rank = output._shape
        shapes[f"{name}:{index}"] = None if unknown_rank else tuple(sizes)
    return shapes
