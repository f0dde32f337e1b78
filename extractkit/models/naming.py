"""Canonical paths of layer calls, independent of build counters. Pure Python.

A component is the layer's name; names that Keras makes up (`softmax_7`) count what was built
earlier in the process, so they are replaced by their order among siblings (`softmax`,
`softmax.1`). The second call of a layer within one call of its parent is `name@2`.
"""

import re
from collections.abc import Hashable
from dataclasses import dataclass, field

from extractkit.tensors import escape


def snake_case(class_name: str) -> str:
    """The name that Keras makes up for a class: `LSTMCell` → `lstm_cell`.

    Source: `to_snake_case` of keras/src/utils/naming.py.
    """
    name = re.sub(r"\W+", "", class_name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def base_name(class_name: str, name: str) -> str:
    """A layer's or variable's name without the counter, where it is one that Keras made up.

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
        """The component for a layer, unique among its siblings."""
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
        """Path of a layer inside its parent, without counting a call."""
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
        """Path of one call: `@2` and up where the parent's call makes it more than once."""
        path = self.child(parent_layer, parent_path, layer, class_name, name)
        count = self._calls[parent_call, layer] = self._calls.get((parent_call, layer), 0) + 1
        return path if count == 1 else f"{path}@{count}"


class Ports:
    """Makes ports unique within one layer call: the second `op/MatMul` is `op/MatMul.1`."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._counts: dict[str, int] = {}

    def unique(self, port: str) -> str:
        """The port itself the first time, then with `.1`, `.2` …"""
        candidate, count = port, self._counts.get(port, 0)
        while candidate in self._taken:
            count += 1
            candidate = f"{port}.{count}"
        self._counts[port] = count
        self._taken.add(candidate)
        return candidate
