"""Where Keras's HDF5 files put a layer's variables. Pure Python.

Keras 3 (`.weights.h5`, `.keras`) numbers them, `layers/dense_1/vars/0`, in the order in which the
layer has them, and keeps their own names nowhere; the layer's name stands beside them as an
attribute. Older files name them: `dense_1/dense_1/kernel:0`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from extractkit.models.weight_files.weight_file import Place

_COUNT = re.compile(r"_\d+$")
_VARS = "vars"
_LAYERS = "layers"
_MODEL_WEIGHTS = "model_weights/"
_OPTIMIZER_WEIGHTS = "optimizer_weights"
_OPTIMIZER = "optimizer"


def places(keys: Iterable[str], names: Mapping[str, str]) -> dict[str, Place]:
    """The place of every dataset.

    Args:
        keys: paths of the datasets.
        names: attribute `name` by path of the group, which Keras 3 writes to each layer's `vars`.
    """
    keys = list(keys)
    layer_names = _layer_names(names)
    numbered = {key for key in keys if key.rpartition("/")[0].rpartition("/")[2] == _VARS}
    return {key: _numbered(key, layer_names) if key in numbered else _named(key) for key in keys}


def _named(key: str) -> Place:
    """`dense_1/dense_1/kernel:0`: the layer's group holds each under the variable's whole name.

    Where that leads through the model (`dense/sequential/dense/kernel`), it is left out.
    """
    *layers, variable = key.removeprefix(_MODEL_WEIGHTS).removesuffix(":0").split("/")
    training = key.startswith(f"{_OPTIMIZER_WEIGHTS}/")
    if layers[:1] and layers[0] in layers[1:]:
        del layers[: layers.index(layers[0], 1)]
    average = training and (variable.endswith("average") or "average" in layers[2:3])
    return Place(tuple(layers), variable, training=training, average=average)


def _numbered(key: str, layer_names: Mapping[str, str]) -> Place:
    """`layers/dense_1/vars/0`: the model's list of layers is left out."""
    *parts, _, variable = key.split("/")
    layers = tuple(
        layer_names.get("/".join(parts[: depth + 1]), part)
        for depth, part in enumerate(parts)
        if part != _LAYERS
    )
    return Place(layers, variable, training=parts[:1] == [_OPTIMIZER])


def _layer_names(names: Mapping[str, str]) -> dict[str, str]:
    """The layers' own names by path of their group, where that path says less.

    An item of a list stands under its class, counted (`layers/dense_1`): there the name that the
    author gave is better. One that Keras made up counts what was built earlier in the process, so
    files of one architecture would differ in it. An attribute stands under the attribute's name.
    """
    own = {path.rpartition("/")[0]: name for path, name in names.items() if _is_vars(path)}
    better = {}
    for path, name in own.items():
        above, _, group = path.rpartition("/")
        made_up = _COUNT.sub("", name) == _COUNT.sub("", group)
        if above and above not in own and not made_up:
            better[path] = name
    counts = Counter((path.rpartition("/")[0], name) for path, name in better.items())
    return {path: name for path, name in better.items() if _alone(path, name, counts, own)}


def _alone(
    path: str, name: str, counts: Mapping[tuple[str, str], int], groups: Mapping[str, str]
) -> bool:
    """Whether no sibling has this name too, or stands under it."""
    above = path.rpartition("/")[0]
    return counts[above, name] == 1 and f"{above}/{name}" not in groups


def _is_vars(path: str) -> bool:
    return path.rpartition("/")[2] == _VARS
