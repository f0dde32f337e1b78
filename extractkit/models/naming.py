"""Names of layer calls, and of the tensors in whatever a layer or function returns.

A component is the layer's name; names that Keras makes up (`softmax_7`) count what was built
earlier in the process, so they are replaced by their order among siblings (`softmax`,
`softmax.1`). The second call of a layer within one call of its parent is `name@2`.
"""

import dataclasses
import re
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from extractkit.core.catalog import escape


def snake_case(class_name: str) -> str:
    """Return the name that Keras makes up for a class: `LSTMCell` → `lstm_cell`.

    Source: `to_snake_case` of keras/src/utils/naming.py.
    """
    name = re.sub(r"\W+", "", class_name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def base_name(class_name: str, name: str) -> str:
    """Return a layer's or variable's name without the counter, where it is one that Keras made up.

    `Bidirectional` puts forward_ and backward_ before the name of the layer that it is given.
    """
    made_up = re.escape(snake_case(class_name))
    counted = re.fullmatch(rf"((?:forward_|backward_)?{made_up})_\d+", name)
    return counted[1] if counted else name


@dataclass
class Siblings:
    """Names given to the layers called inside one layer, in the order of their first calls."""

    _names: dict[Hashable, str] = field(default_factory=dict)

    def name(self, layer: Hashable, class_name: str, given: str) -> str:
        """Return the component for a layer, unique among its siblings."""
        if layer not in self._names:
            base = escape(base_name(class_name, given))
            taken = set(self._names.values())
            candidate, count = base, 0
            while candidate in taken:
                count += 1
                candidate = f"{base}.{count}"
            self._names[layer] = candidate
        return self._names[layer]


class Paths:
    """Hands out the paths of layer calls; ask in the order in which the calls were made."""

    def __init__(self) -> None:
        self._siblings: dict[Hashable, Siblings] = {}
        self._calls: dict[tuple[Hashable, Hashable], int] = {}

    def child(
        self, parent_layer: Hashable, parent_path: str, layer: Hashable, class_name: str, name: str
    ) -> str:
        """Return the path of a layer inside its parent, without counting a call."""
        siblings = self._siblings.setdefault(parent_layer, Siblings())
        component = siblings.name(layer, class_name, name)
        return f"{parent_path}/{component}" if parent_path else component

    def call(
        self,
        parent_call: Hashable,
        parent_layer: Hashable,
        parent_path: str,
        layer: Hashable,
        class_name: str,
        name: str,
    ) -> str:
        """Return path of one call: `@2` and up where the parent's call makes it more than once."""
        path = self.child(parent_layer, parent_path, layer, class_name, name)
        count = self._calls[parent_call, layer] = self._calls.get((parent_call, layer), 0) + 1
        return path if count == 1 else f"{path}@{count}"


class Ports:
    """Makes ports unique within one layer call: the second `op/MatMul` is `op/MatMul.1`."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._counts: dict[str, int] = {}

    def unique(self, port: str) -> str:
        """Return the port itself the first time, then with `.1`, `.2` …"""
        candidate, count = port, self._counts.get(port, 0)
        while candidate in self._taken:
            count += 1
            candidate = f"{port}.{count}"
        self._counts[port] = count
        self._taken.add(candidate)
        return candidate


VALUES = (tf.Variable, np.ndarray, np.generic, bool, int, float, complex, str, bytes)
"""What TensorFlow makes a tensor of by itself, besides what converts itself (`__tf_tensor__`)."""

_TENSORS = (tf.Tensor, tf.RaggedTensor, tf.SparseTensor)
_COMPONENTS = (
    (tf.RaggedTensor, ("values", "row_splits")),
    (tf.SparseTensor, ("indices", "values", "dense_shape")),
)
_PROBABILITY = "tensorflow_probability"


def ports(name: str, value: Any) -> dict[str, Any]:
    """Return the tensors of a nested structure by port: `output`, `output.1`, `output.key`.

    What is no tensor is left out. Ragged and sparse tensors stay whole; see `components`.
    """
    unique = Ports()
    found: dict[str, Any] = {}
    for path, leaf in _leaves(plain(value)):
        if isinstance(leaf, _TENSORS):
            # The first of a plain list has the bare name, so that it is the same as a single one.
            port = name if path == (0,) else ".".join([name, *map(str, path)])
            found[unique.unique(port)] = _in_graph(leaf)
    return found


def components(named: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """Return the same, with the tensors in place of each ragged and sparse one.

    Ragged: `output.values` and `output.row_splits`; sparse: `output.indices`, `output.values` and
    `output.dense_shape`. Where rows are ragged again: `output.values.values`.
    """
    found: dict[str, tf.Tensor] = {}
    for port, value in named.items():
        parts = next((names for kind, names in _COMPONENTS if isinstance(value, kind)), None)
        if parts is None:
            found[port] = value
        else:
            found |= components({f"{port}.{part}": getattr(value, part) for part in parts})
    return found


def plain(value: Any) -> Any:
    """Return a structure as dictionaries and lists alone, which TensorFlow and Keras take apart.

    Mappings, named tuples, data classes, attrs classes, extension types, indexed slices and the
    distributions of TensorFlow Probability become dictionaries by field; other composite tensors
    lists of their components. Objects of any other kind become None.
    """
    return _plain(value, ())


def _plain(value: Any, around: tuple[int, ...]) -> Any:
    if isinstance(value, (*_TENSORS, *VALUES)) or value is None:
        return value
    if id(value) in around:  # a structure that holds itself
        return None
    inside = (*around, id(value))
    if (fields := _fields(value)) is not None:
        return OrderedDict(_named(fields, inside))
    if (items := _items(value)) is not None:
        return [_plain(item, inside) for item in items]
    return value if _converts_itself(value) else None


def _named(fields: Iterable[tuple[Any, Any]], inside: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    """Yield keys as texts; 1 and "1" stay two."""
    unique = Ports()
    for key, value in fields:
        yield unique.unique(str(key)), _plain(value, inside)


def _fields(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """Key and value of each part of a structure whose parts have names; None: they have none."""
    if isinstance(value, Mapping):
        # Of two dictionaries that are equal, so is the order; Keras sorts keys as well.
        keys = list(value) if isinstance(value, OrderedDict) else _sorted(value)
        return [(key, value[key]) for key in keys]
    if isinstance(value, type):
        return None
    if isinstance(value, tuple):
        return _attributes(value, getattr(value, "_fields", None))
    if dataclasses.is_dataclass(value):
        return _attributes(value, [field.name for field in dataclasses.fields(value)])
    if (attrs_fields := getattr(type(value), "__attrs_attrs__", None)) is not None:
        return _attributes(value, [field.name for field in attrs_fields])
    if isinstance(value, tf.experimental.ExtensionType):
        return _attributes(value, [n for n in vars(value) if not n.startswith("_")])
    if isinstance(value, tf.IndexedSlices):
        return _attributes(value, ("values", "indices", "dense_shape"))
    if _is_distribution(value):
        # What it was made from, by the names of its arguments: `loc`, `scale`, nested ones too.
        return [(k, v) for k, v in sorted(value.parameters.items()) if not isinstance(v, VALUES)]
    return None


def _sorted(mapping: Mapping[Any, Any]) -> list[Any]:
    try:
        return sorted(mapping)
    except TypeError:  # keys of several types
        return sorted(mapping, key=lambda key: (type(key).__qualname__, str(key)))


def _attributes(value: Any, names: Iterable[str] | None) -> list[tuple[str, Any]] | None:
    if names is None:
        return None
    return [(name, getattr(value, name)) for name in names if hasattr(value, name)]


def _items(value: Any) -> Iterable[Any] | None:
    """Return the parts of a structure whose parts are counted; None: it is no structure."""
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, tf.__internal__.CompositeTensor):
        parts: Iterable[Any] = tf.nest.flatten(value, expand_composites=True)
        return parts
    return None


def _is_distribution(value: Any) -> bool:
    return any(
        base.__name__ == "Distribution" and base.__module__.partition(".")[0] == _PROBABILITY
        for base in type(value).__mro__
    )


def _converts_itself(value: Any) -> bool:
    return not isinstance(value, type) and (
        hasattr(value, "__tf_tensor__") or hasattr(value, "__array__")
    )


def _leaves(structure: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the path and value of each leaf of a plain structure."""
    if isinstance(structure, dict | list):
        entries = structure.items() if isinstance(structure, dict) else enumerate(structure)
        for key, entry in entries:
            yield from _leaves(entry, (*path, key))
    else:
        yield path, structure


def _in_graph(tensor: Any) -> Any:
    """A tensor that a layer made before the trace (its position ids) as the graph captures it."""
    symbolic = not isinstance(tensor, tf.Tensor) or tf.is_symbolic_tensor(tensor)
    if symbolic or not tf.inside_function():
        return tensor
    return tf.compat.v1.get_default_graph().capture(tensor)
