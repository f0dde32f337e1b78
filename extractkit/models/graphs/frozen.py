"""Graphs without variables, reduced to the operations between their inputs and outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tensorflow as tf

from extractkit.models.graphs import COLOCATION


@dataclass(frozen=True, eq=False)
class FrozenGraph:
    """A TensorFlow graph without variables.

    Attributes:
        graph: The graph, to which operations may be added.
        inputs: Its placeholders by input.
        outputs: Its results, in order.
    """

    graph: tf.Graph
    inputs: Mapping[str, tf.Tensor]
    outputs: Sequence[tf.Tensor]


def data_flow(frozen: FrozenGraph) -> FrozenGraph:
    """Return what the outputs need, without control edges and branches that are decided."""
    same = _decided(frozen.graph)
    graph_def = frozen.graph.as_graph_def()
    for node in graph_def.node:
        edges = [
            same.get(edge if ":" in edge else f"{edge}:0", edge)
            for edge in node.input
            if edge[0] != "^"
        ]
        del node.input[:]
        node.input.extend(edges)
        node.attr.pop(COLOCATION, None)
    outputs = [same.get(one.name, one.name) for one in frozen.outputs]
    inputs = {name: one.name for name, one in frozen.inputs.items()}
    edges_of = {node.name: node.input for node in graph_def.node}
    needed: set[str] = set()
    waiting = [*outputs, *inputs.values()]
    while waiting:
        if (name := waiting.pop().partition(":")[0]) not in needed:
            needed.add(name)
            waiting.extend(edges_of[name])
    pruned = tf.compat.v1.GraphDef(versions=graph_def.versions, library=graph_def.library)
    pruned.node.extend(node for node in graph_def.node if node.name in needed)
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(pruned, name="")
        return FrozenGraph(
            graph,
            {name: graph.get_tensor_by_name(tensor) for name, tensor in inputs.items()},
            [tf.identity(graph.get_tensor_by_name(tensor)) for tensor in outputs],
        )


def _decided(graph: tf.Graph) -> dict[str, str]:
    """Return tensors of branches by name with the tensors that they equal, if it is known which."""
    same: dict[str, str] = {}
    dead: set[str] = set()
    for operation in graph.get_operations():
        inputs, outputs = operation.inputs, operation.outputs
        if operation.type in ("Switch", "RefSwitch"):
            predicate = inputs[1]
            while predicate.op.type == "Identity":
                predicate = predicate.op.inputs[0]
            if (taken := tf.get_static_value(predicate)) is not None:
                name = inputs[0].name
                same[outputs[int(taken)].name] = same.get(name, name)
                dead.add(outputs[1 - int(taken)].name)
        elif operation.type in ("Merge", "RefMerge"):
            alive = [one.name for one in inputs if one.name not in dead]
            if len(alive) == 1:
                same[outputs[0].name] = same.get(alive[0], alive[0])
        elif any(one.name in dead for one in inputs) or any(
            one.outputs and all(output.name in dead for output in one.outputs)
            for one in operation.control_inputs
        ):
            dead.update(one.name for one in outputs)
    return same
