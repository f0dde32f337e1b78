"""Weights into a Keras model by their names: TensorFlow checkpoints and safetensors.

Understood are the paths of Keras's variables (`encoder/dense/kernel`, TF1's names among them) and
the objects of TF2 checkpoints (`layer_with_weights-0/kernel`, `model/dense/kernel`). Numbers that
Keras counts up over a process (`dense_7`) stand for the order of layers so named.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from extractkit.errors import ModelError, choices
from extractkit.models.weight_files import WeightFile

_OBJECT = "/.ATTRIBUTES/VARIABLE_VALUE"
_TRAINING = re.compile(r"(^|/)(_?optimizer|save_counter|keras_api|_CHECKPOINTABLE\w+)(/|$)")
_NTH = re.compile(r"layer(_with_weights)?-(\d+)")
_COUNTED = re.compile(r"(.*?)(?:_(\d+))?")


def assign_by_name(model: Any, weights: WeightFile, at: str) -> None:
    """Assign every weight of a built model; nothing is assigned unless all of them fit.

    Raises:
        ModelError: a weight without a counterpart on the other side, or of another shape.
    """
    keys = [
        key
        for key in weights
        if not (weights.place(key).training or weights.place(key).slot or _TRAINING.search(key))
    ]
    if any(key.endswith(_OBJECT) for key in keys):
        variables = _by_object(model, keys, at)
    else:
        variables = _by_path(model, keys)
    own = {id(variable): path for path, variable in _paths(model)}
    given = {id(variable) for variable in variables.values()}
    missing = [path for identity, path in own.items() if identity not in given]
    extra = [key for key in keys if key not in variables]
    if missing or extra:
        raise ModelError(f"{at} does not fit the model: {_unpaired(missing, extra, keys)}")
    for key, variable in variables.items():
        stored, shape = weights.entry(key).shape, tuple(variable.shape)
        if stored != shape:
            raise ModelError(
                f"{at} does not fit the model: {key!r} is {list(stored)} in the file, "
                f"{own.get(id(variable), key)!r} {list(shape)} in the model"
            )
    for key, variable in variables.items():
        variable.assign(np.asarray(weights.read(key)))


def _paths(model: Any) -> list[tuple[str, Any]]:
    """The model's variables by Keras's path for them."""
    return [
        (getattr(variable, "path", variable.name).partition(":")[0], variable)
        for variable in model.weights
    ]


def _by_path(model: Any, keys: Sequence[str]) -> dict[str, Any]:
    paths = _paths(model)
    exact = dict(paths)
    plain = {key: key.partition(":")[0] for key in keys}
    if set(plain.values()) == set(exact):
        return {key: exact[name] for key, name in plain.items()}
    by_rank = dict(zip(ranked([path for path, _ in paths]), (v for _, v in paths), strict=True))
    ranks = zip(keys, ranked(plain.values()), strict=True)
    return {key: by_rank[rank] for key, rank in ranks if rank in by_rank}


def ranked(paths: Iterable[str]) -> list[str]:
    """Paths whose numbered parts are counted anew among their siblings, from 0 without gaps.

    `dense_4/kernel`, `dense_7/kernel` → `dense-0/kernel`, `dense-1/kernel`.
    """
    paths = list(paths)
    siblings: dict[tuple[str, str], set[int]] = {}
    for path in paths:
        for above, base, number in _parts(path):
            siblings.setdefault((above, base), set()).add(number)
    order = {key: sorted(numbers) for key, numbers in siblings.items()}
    return [
        "/".join(f"{base}-{order[above, base].index(n)}" for above, base, n in _parts(path))
        for path in paths
    ]


def _parts(path: str) -> list[tuple[str, str, int]]:
    """For each part of a path: the path above it, its name, its number (-1: none)."""
    parts = path.split("/")
    found = []
    for depth, part in enumerate(parts):
        match = _COUNTED.fullmatch(part)
        base, number = (match[1], match[2]) if match else (part, None)
        found.append(("/".join(parts[:depth]), base, -1 if number is None else int(number)))
    return found


def _by_object(model: Any, keys: Sequence[str], at: str) -> dict[str, Any]:
    """By the attributes that lead from the model to each variable.

    The model may be the checkpoint's root, or stand under a name (`tf.train.Checkpoint(model=…)`).
    """
    found: dict[str, Any] = {}
    holders: dict[int, str] = {}
    for key in keys:
        steps = key.removesuffix(_OBJECT).split("/")
        variable = _follow(model, steps)
        if variable is None:
            variable = _follow(model, steps[1:])
        if variable is None:
            continue
        if id(variable) in holders:
            raise ModelError(
                f"{at} holds more than one model: both {holders[id(variable)]!r} and {key!r} are "
                f"one weight of this"
            )
        holders[id(variable)] = key
        found[key] = variable
    return found


def _follow(model: Any, steps: Sequence[str]) -> Any:
    """The variable at the end of a chain of attributes; None: it leads to none of the model's."""
    owned = {id(variable): variable for variable in model.weights}
    place = model
    for step in steps:
        try:
            if nth := _NTH.fullmatch(step):
                layers = [layer for layer in place.layers if layer.weights or not nth[1]]
                place = layers[int(nth[2])]
            elif isinstance(place, Mapping):
                place = place[step]
            elif step.isdecimal():
                place = place[int(step)]
            else:
                place = getattr(place, step)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError):
            return None
    return owned.get(id(place))


def _unpaired(missing: Sequence[str], extra: Sequence[str], keys: Sequence[str]) -> str:
    if missing:
        return f"{missing[0]!r} of the model is not in the file. {choices(missing[0], keys)}"
    return f"{extra[0]!r} of the file is not in the model"
