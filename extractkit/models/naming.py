"""Names of layer calls, and of the tensors that a layer or function returns.

The component of a path is the layer's name. Names that Keras generates (`softmax_7`) depend on what
the process has built before, so they are replaced by the order among siblings (`softmax`,
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
from extractkit.models.tensorflow_internals import is_composite


def snake_case(class_name: str) -> str:
    """Return the name that Keras generates for a class: `LSTMCell` → `lstm_cell`.

    Source: `to_snake_case` of keras/src/utils/naming.py.
    """
    name = re.sub(r"\W+", "", class_name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def base_name(class_name: str, name: str) -> str:
    """Return the name of a layer or variable, without the counter if Keras generated it.

    `Bidirectional` puts forward_ and backward_ before the name of its layer.
    """
    made_up = re.escape(snake_case(class_name))
    counted = re.fullmatch(rf"((?:forward_|backward_)?{made_up})_\d+", name)
    return counted[1] if counted else name


@dataclass
class Siblings:
    """Unique names for the layers called inside one layer, in the order of their first calls."""

    _names: dict[Hashable, str] = field(default_factory=dict)

    def name(self, layer: Hashable, class_name: str, given: str) -> str:
        """Return the path component of a layer, unique among its siblings."""
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
    """Paths of layer calls, assigned in the order of the calls."""

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
        """Return the path of one call: `@2` and up for repeated calls within a parent's call."""
        path = self.child(parent_layer, parent_path, layer, class_name, name)
        count = self._calls[parent_call, layer] = self._calls.get((parent_call, layer), 0) + 1
        return path if count == 1 else f"{path}@{count}"


class Ports:
    """Unique ports within one layer call: the second `op/MatMul` is `op/MatMul.1`."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._counts: dict[str, int] = {}

    def unique(self, port: str) -> str:
        """Return the port itself the first time, then with `.1`, `.2` and so on."""
        candidate, count = port, self._counts.get(port, 0)
        while candidate in self._taken:
            count += 1
            candidate = f"{port}.{count}"
        self._counts[port] = count
        self._taken.add(candidate)
        return candidate


VALUES = (tf.Variable, np.ndarray, np.generic, bool, int, float, complex, str, bytes)
"""Types that TensorFlow converts to tensors, besides those with `__tf_tensor__`."""

_TENSORS = (tf.Tensor, tf.RaggedTensor, tf.SparseTensor)
_COMPONENTS = (
    (tf.RaggedTensor, ("values", "row_splits")),
    (tf.SparseTensor, ("indices", "values", "dense_shape")),
)
_PROBABILITY = "tensorflow_probability"


def ports(name: str, value: Any) -> dict[str, Any]:
    """Return the tensors of a nested structure by port: `output`, `output.1`, `output.key`.

    Other values are ignored. Ragged and sparse tensors are not split; see `components`.
    """
    unique = Ports()
    found: dict[str, Any] = {}
    for path, leaf in _leaves(plain(value)):
        if isinstance(leaf, _TENSORS):
            # The first of a plain list has the bare name, as a single tensor does.
            port = name if path == (0,) else ".".join([name, *map(str, path)])
            found[unique.unique(port)] = _in_graph(leaf)
    return found


def components(named: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """Return the tensors with each ragged and sparse one replaced by its components.

    Ragged: `output.values` and `output.row_splits`. Sparse: `output.indices`, `output.values` and
    `output.dense_shape`. Nested ragged rows: `output.values.values`.
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
    """Return a structure as dictionaries and lists, which TensorFlow and Keras can flatten.

    Mappings, named tuples, data classes, attrs classes, extension types, indexed slices and the
    distributions of TensorFlow Probability become dictionaries by field. Other composite tensors
    become lists of their components. All other objects become None.
    """
    return _plain(value, ())


def _plain(value: Any, around: tuple[int, ...]) -> Any:
    if isinstance(value, (*_TENSORS, *VALUES)) or value is None:
        return value
    if id(value) in around:  # a structure that contains itself
        return None
    inside = (*around, id(value))
    if (fields := _fields(value)) is not None:
        return OrderedDict(_named(fields, inside))
    if (items := _items(value)) is not None:
        return [_plain(item, inside) for item in items]
    return value if _converts_itself(value) else None


def _named(fields: Iterable[tuple[Any, Any]], inside: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the keys as unique texts: 1 and "1" stay distinct."""
    unique = Ports()
    for key, value in fields:
        yield unique.unique(str(key)), _plain(value, inside)


def _fields(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """Return key and value of each named part of a structure, or None if parts have no names."""
    if isinstance(value, Mapping):
        # Equal dictionaries give the same order. Keras sorts keys as well.
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
        # The distribution's arguments by name (`loc`, `scale`), nested ones included.
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
    """Return the parts of a sequence or composite tensor, or None for anything else."""
    if isinstance(value, list | tuple):
        return value
    if is_composite(value):
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
    """Return a tensor that a layer made before the trace (its position ids), as captured."""
    symbolic = not isinstance(tensor, tf.Tensor) or tf.is_symbolic_tensor(tensor)
    if symbolic or not tf.inside_function():
        return tensor
    return tf.compat.v1.get_default_graph().capture(tensor)
