"""Where the keys of a TensorFlow checkpoint put a variable.

TF1's Saver writes a variable's name, `conv/kernel`, and an optimizer's slots below it,
`conv/kernel/Adam_1`. TF2 writes the attributes that lead to a variable,
`model/layer-1/kernel/.ATTRIBUTES/VARIABLE_VALUE`.
"""

import re
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from extractkit.models.moving_averages import DEFAULT as AVERAGE
from extractkit.models.moving_averages import SLOTS
from extractkit.models.weight_files.weight_file import Place

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
"""Key of the graph of objects that TF2 writes beside their values."""

_ATTRIBUTES = "/.ATTRIBUTES/"
_SLOTS = "/.OPTIMIZER_SLOT/"
_VALUE = "VARIABLE_VALUE"
# Keras's optimizers refer to the model's own variables, and the shortest way to each is its key.
_OF_THE_MODEL = "_trainable_variables"
_ESCAPED = re.compile(r"\.([S.])")

_COUNTERS = re.compile(r"(?:.*/)?(?:global_step|save_counter|beta[12]_power(?:_\d+)?)")
_SLOT_NAMES = re.compile(
    r"(?:Adam|AdaMax|Adagrad|Adadelta|Ftrl|LARSOptimizer|LAMB|Momentum|RMSProp)(?:_\d+)?"
)
_KEPT_BY_KERAS = "_model_variables_moving_average"
_ITERATIONS = ("_iterations", "iterations", "iter")
_METRICS = "keras_api/metrics/"

Shape = tuple[int, ...]


def places(
    shapes: Mapping[str, Shape], names: Mapping[str, str], averages: Collection[str] = ()
) -> dict[str, Place]:
    """The place of every variable.

    Args:
        shapes: of all variables, by key.
        names: better names than their keys for some, as `object_names` gives them.
        averages: keys of moving averages, as `object_averages` gives them.
    """
    paths = {key: names.get(key, key).partition(_ATTRIBUTES)[0] for key in shapes}
    optimizers = _optimizers(paths.values())
    several = len({_slot_parts(path)[1] for path in paths.values() if _SLOTS in path}) > 1
    found = {}
    for key, path in paths.items():
        if _SLOTS in path:
            found[key] = _object_slot(path, several)
        elif _ATTRIBUTES in key:
            attribute = key.partition(_ATTRIBUTES)[2]
            found[key] = _object(path, attribute, optimizers)
        else:
            found[key] = _graph_variable(key, shapes, optimizers)
    return {
        key: replace(place, average=key in averages or _last(place.slot) in SLOTS)
        for key, place in found.items()
    }


def _last(slot: str | None) -> str | None:
    return slot and slot.rpartition("/")[2]


def object_averages(graph: bytes) -> list[str]:
    """Keys of the averages that an optimizer of Keras keeps, in the order of the weights.

    Args:
        graph: what the checkpoint holds under `OBJECT_GRAPH`.
    """
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    nodes = TrackableObjectGraph.FromString(graph).nodes
    lists = {
        child.node_id
        for node in nodes
        for child in node.children
        if child.local_name == _KEPT_BY_KERAS
    }
    if len(lists) != 1:  # of two optimizers nobody knows whose weights are meant
        return []
    items = nodes[lists.pop()].children
    in_order = sorted(
        (int(item.local_name), item.node_id) for item in items if item.local_name.isdecimal()
    )
    return [
        attribute.checkpoint_key for _, number in in_order for attribute in nodes[number].attributes
    ]


def object_names(graph: bytes) -> dict[str, str]:
    """Names for the model's variables whose keys lead through an optimizer.

    Args:
        graph: what the checkpoint holds under `OBJECT_GRAPH`.

    Returns:
        by key the attributes on the shortest way to the variable that leads through no optimizer.
    """
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    nodes = TrackableObjectGraph.FromString(graph).nodes
    names: dict[str, str] = {}
    seen, queue = {0}, deque([(0, "")])
    while queue:
        number, path = queue.popleft()
        for attribute in nodes[number].attributes:
            key = attribute.checkpoint_key
            if f"/{_OF_THE_MODEL}/" in key and path:
                names.setdefault(key, f"{path}{_ATTRIBUTES}{attribute.name}")
        for child in nodes[number].children:
            inside = nodes[child.node_id].children
            is_optimizer = any(one.local_name in _ITERATIONS for one in inside)
            if child.node_id not in seen and not is_optimizer:
                seen.add(child.node_id)
                name = child.local_name.replace(".", "..").replace("/", ".S")
                queue.append((child.node_id, f"{path}/{name}" if path else name))
    return names


def _optimizers(paths: Iterable[str]) -> set[str]:
    """Paths of objects (TF1: scopes) that count iterations, and of those that have slots."""
    found = {"optimizer"}
    for path in paths:
        above, _, name = path.rpartition("/")
        if _SLOTS in path:
            found.add(_slot_parts(path)[1])
        elif above and name in _ITERATIONS:
            found.add(above)
    return found


def _slot_parts(path: str) -> tuple[str, str, str]:
    """Variable, optimizer and slot of `VARIABLE/.OPTIMIZER_SLOT/OPTIMIZER/SLOT`."""
    variable, _, rest = path.partition(_SLOTS)
    optimizer, _, slot = rest.rpartition("/")
    return variable, optimizer, slot


def _object_slot(path: str, several: bool) -> Place:
    variable, optimizer, slot = _slot_parts(path)
    *layers, name = _unescaped(variable)
    return Place(tuple(layers), name, f"{optimizer}/{slot}" if several else slot, training=True)


def _object(path: str, attribute: str, optimizers: set[str]) -> Place:
    parts = _unescaped(path)
    training = (
        path == "save_counter"
        or path.startswith(_METRICS)
        or (_within(path, optimizers) and _OF_THE_MODEL not in parts)
    )
    if attribute != _VALUE:  # the keys of a table, say
        return Place(parts, attribute, training=training)
    return Place(parts[:-1], parts[-1], training=training)


def _graph_variable(key: str, shapes: Mapping[str, Shape], optimizers: set[str]) -> Place:
    parent, _, slot = key.rpartition("/")
    if _is_slot(parent, slot, shapes[key], shapes):
        *layers, variable = parent.split("/")
        return Place(tuple(layers), variable, slot, training=slot != AVERAGE)
    *layers, variable = key.split("/")
    training = _within(key, optimizers) or _COUNTERS.fullmatch(key) is not None
    return Place(tuple(layers), variable, training=training)


def _is_slot(parent: str, slot: str, shape: Shape, shapes: Mapping[str, Shape]) -> bool:
    """Whether a variable is kept for the one that its name begins with."""
    if parent in shapes:
        return shape in (shapes[parent], ())
    if _SLOT_NAMES.fullmatch(slot) is None:
        return False
    # An optimizer made inside a variable scope puts that before the variable's name.
    while parent := parent.partition("/")[2]:
        if parent in shapes:
            return shape == shapes[parent]
    return False


def _within(path: str, above: set[str]) -> bool:
    return any(path == one or path.startswith(f"{one}/") for one in above)


def _unescaped(path: str) -> tuple[str, ...]:
    """The attributes of a path; inside one `.S` stands for a slash and `..` for a dot."""
    return tuple(
        _ESCAPED.sub(lambda found: "/" if found[1] == "S" else ".", part)
        for part in path.split("/")
    )
