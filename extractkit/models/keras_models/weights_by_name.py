"""Assignment of weights to a Keras model by name: TensorFlow checkpoints and safetensors.

Keys may be paths of Keras variables (`encoder/dense/kernel`), including names of TensorFlow 1, or
object paths of TensorFlow 2 checkpoints (`layer_with_weights-0/kernel`, `model/dense/kernel`).
Generated numbers (`dense_7`) only give the order of layers of that name. If the file has the
model's weights under another scope, for example beside a head, that scope is found.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import tensorflow as tf

from extractkit.core.values import Array
from extractkit.errors import ModelError, choices
from extractkit.models.failures import error_summary
from extractkit.models.hugging_face_library import (
    are_pytorch_names,
    is_of_transformers,
    may_be_left,
    may_be_missing,
    variables_by_pytorch_name,
)
from extractkit.models.keras_models.dialects import variables_of
from extractkit.models.keras_models.layer_state import adapting_state, derive_state
from extractkit.models.weight_files import WeightFile
from extractkit.models.weight_files.weight_file import find_scope

_log = logging.getLogger(__name__)

_ATTRIBUTES = "/.ATTRIBUTES/"
_OBJECT = f"{_ATTRIBUTES}VARIABLE_VALUE"
_TABLE = ("table-keys", "table-values")
_TRAINING = re.compile(r"(^|/)(_?optimizer|save_counter|keras_api|_CHECKPOINTABLE\w+)(/|$)")
_NTH = re.compile(r"layer(_with_weights)?-(\d+)")
_COUNTED = re.compile(r"(.*?)(?:_(\d+))?")


Arrange = Callable[[Array], Array]


def assign_by_name(model: Any, weights: WeightFile, at: str) -> None:
    """Assign every weight of a built model, or none if one does not fit.

    Raises:
        ModelError: A weight of the model or file has no counterpart, or another shape.
    """
    keys = [
        key
        for key in weights
        if not (
            weights.location(key).training or weights.location(key).slot or _TRAINING.search(key)
        )
    ]
    if any(key.endswith(_OBJECT) for key in keys):
        keys = _without_adapting(model, keys)
        variables = _by_object(model, keys, at)
    elif is_of_transformers(model):
        if are_pytorch_names(keys):
            _assign_pytorch(model, weights, keys, at)
        else:
            names = {key: key.partition(":")[0] for key in keys}
            assign_of_transformers(model, weights, names, at)
        return
    else:
        variables = _by_path(model, keys)
    own = {id(variable): path for path, variable in _paths(model)}
    given = {id(variable) for variable in variables.values()}
    missing = [path for identity, path in own.items() if identity not in given]
    extra = [key for key in keys if key not in variables]
    if not (missing or extra):
        _assign(model, variables, own, weights, at)
    elif not assign_by_scope(model, weights, {key: key.partition(":")[0] for key in keys}, at):
        missing, extra = _fewest(missing, extra)
        raise ModelError(f"{at} does not fit the model: {_unpaired(missing, extra, keys)}")


def assign_by_scope(model: Any, weights: WeightFile, names: Mapping[str, str], at: str) -> bool:
    """Assign every weight of a model whose weights are under another scope in the file.

    Weights outside that scope are not used, which is logged.

    Args:
        names: The path of each weight in the file, by its key. For a transformers model, without
            the model's own name.

    Returns:
        Whether there is such a scope. If not, nothing is assigned.

    Raises:
        ModelError: There are several, or a weight has another shape.
    """
    paths = dict(_paths(model))
    if transformers := is_of_transformers(model):
        # The model's own name, which the files of transformers omit.
        paths = {stored_name(path): variable for path, variable in paths.items()}

    def left(key: str) -> bool:
        return transformers and may_be_left(model, key, weights.entry(key).dtype)

    # Files of transformers may also omit the name of the base model (`bert/`).
    own_name = str(getattr(model, "name", ""))
    named_first = all(path.startswith(f"{own_name}/") for path in paths)
    droppable = len(paths) if transformers else int(named_first)
    scope = find_scope(list(paths), names, at, left, droppable=droppable)
    if scope is None and transformers:
        needed = {path: v for path, v in paths.items() if not may_be_missing(model, path)}
        if len(needed) < len(paths):
            paths = needed
            scope = find_scope(list(needed), names, at, left, droppable=droppable)
    if scope is None:
        return False
    own = {id(variable): path for path, variable in paths.items()}
    _assign(model, dict(zip(scope.keys, paths.values(), strict=True)), own, weights, at)
    if not transformers:
        _log.warning("%s: %r of the model is %r of the file", at, next(iter(paths)), scope.keys[0])
    _log_left(scope.outside, at)
    return True


def assign_of_transformers(
    model: Any, weights: WeightFile, names: Mapping[str, str], at: str
) -> None:
    """Assign the weights of a transformers model from a file with the same or another head.

    Args:
        names: The path of each weight in the file, without the model's own name, by its key.

    Raises:
        ModelError: A weight of the model or file has no counterpart, or another shape.
    """
    if assign_by_scope(model, weights, names, at):
        return
    own = [stored_name(path) for path, _ in _paths(model)]
    stored = set(names.values())
    missing = [path for path in own if path not in stored and not may_be_missing(model, path)]
    extra = [key for key, name in names.items() if name not in own]
    reason = _unpaired(missing, extra, list(stored)) if missing or extra else "names differ"
    raise ModelError(f"{at} does not fit the model: {reason}")


def stored_name(path: str) -> str:
    """Return the name of a weight in files of transformers, from its name in the model.

    The model's own name is omitted. It is not part of the name of a shared weight, such as BART's
    `model.shared/model.shared/embeddings`, or of a name without a slash, such as CvT's
    `cvt.encoder.stages.2.cls_token`.
    """
    return path if "model." in path or "/" not in path else path.partition("/")[2]


def _assign_pytorch(model: Any, weights: WeightFile, keys: Sequence[str], at: str) -> None:
    """Assign the weights of a transformers model from those of its PyTorch version.

    Raises:
        ModelError: A weight of the model or file has no counterpart, or another shape.
    """
    arranged = variables_by_pytorch_name(model, keys)
    given = {id(variable) for variable, _ in arranged.values()}
    missing = [
        path
        for path, variable in _paths(model)
        if id(variable) not in given and not may_be_missing(model, path)
    ]
    left = [key for key in keys if key not in arranged]
    # A part that the model does not have at all is a head. Any other part has to be complete.
    parts = {key.partition(".")[0] for key in arranged}
    extra = [
        key
        for key in left
        if not may_be_left(model, key, weights.entry(key).dtype)
        and (len(parts) > 1 or key.partition(".")[0] in parts)
    ]
    if missing or extra:
        raise ModelError(f"{at} does not fit the model: {_unpaired(missing, extra, keys)}")
    own = {id(variable): path for path, variable in _paths(model)}
    variables = {key: variable for key, (variable, _) in arranged.items()}
    _assign(
        model, variables, own, weights, at, {key: arrange for key, (_, arrange) in arranged.items()}
    )
    _log_left(left, at)


def _fits(stored: Sequence[int], shape: Sequence[int | None]) -> bool:
    """Return whether an array fits a variable, which may have unknown sizes (bins, terms)."""
    return len(stored) == len(shape) and all(
        size in (own, None) for own, size in zip(stored, shape, strict=True)
    )


def _assign(
    model: Any,
    variables: Mapping[str, Any],
    own: Mapping[int, str],
    weights: WeightFile,
    at: str,
    arrange: Mapping[str, Arrange] | None = None,
) -> None:
    """Assign arrays by key to variables, converted to their shapes if needed.

    Raises:
        ModelError: An array has another shape.
    """
    for key, variable in variables.items():
        stored, shape = weights.entry(key).shape, tuple(variable.shape)
        if not _fits(stored, shape) if arrange is None else prod(stored) != prod(shape):
            raise ModelError(
                f"{at} does not fit the model: {key!r} is {list(stored)} in the file, "
                f"{own.get(id(variable), key)!r} {list(shape)} in the model"
            )
    for key, variable in variables.items():
        array = np.asarray(weights.read(key))
        if arrange is not None:
            try:
                array = arrange[key](array)
            except ValueError as error:  # NumPy's error for different axes
                raise ModelError(
                    f"{at} does not fit the model: {key!r}: {error_summary(error)}"
                ) from error
        variable.assign(array)
    derive_state(model, at)


def _log_left(left: Sequence[str], at: str) -> None:
    if left:
        _log.info("%s: the model has no counterpart of %s", at, ", ".join(left))


def _paths(model: Any) -> list[tuple[str, Any]]:
    """Return the model's variables with their Keras paths."""
    return [
        (getattr(variable, "path", variable.name).partition(":")[0], variable)
        for variable in variables_of(model)
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
    """Return paths with numbered parts renumbered among their siblings, from 0 without gaps.

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
    """Return parent path, name and number (-1 if none) for each part of a path."""
    parts = path.split("/")
    found = []
    for depth, part in enumerate(parts):
        match = _COUNTED.fullmatch(part)
        base, number = (match[1], match[2]) if match else (part, None)
        found.append(("/".join(parts[:depth]), base, -1 if number is None else int(number)))
    return found


def _without_adapting(model: Any, keys: Sequence[str]) -> list[str]:
    """Return the keys without those of tables that only `adapt` uses; see `adapting_state`."""
    counts = {id(table) for table in adapting_state(model)}

    def is_left(key: str) -> bool:
        path, _, part = key.partition(_ATTRIBUTES)
        steps = path.split("/")
        return part in _TABLE and any(id(_walk(model, own)) in counts for own in (steps, steps[1:]))

    return [key for key in keys if not is_left(key)]


def _by_object(model: Any, keys: Sequence[str], at: str) -> dict[str, Any]:
    """Return the variables by key, following the attributes that lead to them.

    The model may be the checkpoint's root or an attribute of it (`tf.train.Checkpoint(model=…)`).
    """
    owned = {id(variable): variable for variable in variables_of(model)}
    found: dict[str, Any] = {}
    holders: dict[int, str] = {}
    for key in keys:
        steps = key.removesuffix(_OBJECT).split("/")
        variable = _follow(model, owned, steps)
        if variable is None and steps[1:]:
            variable = _follow(model, owned, steps[1:])
        if variable is None:
            continue
        if id(variable) in holders:
            raise ModelError(
                f"{at} holds more than one model: {holders[id(variable)]!r} and {key!r} are the "
                f"same weight of this one. Give a checkpoint of one model"
            )
        holders[id(variable)] = key
        found[key] = variable
    return found


def _follow(model: Any, own: Mapping[int, Any], steps: Sequence[str]) -> Any:
    """Return the model's variable at the end of a chain of attributes, or None.

    Args:
        own: The model's variables by identity. Layers may have others that Keras does not list.
    """
    holder = _walk(model, steps[:-1])
    end = _step(holder, steps[-1])
    if id(end) in own or isinstance(end, tf.Variable):
        return end
    # Keras 2 uses a variable's name, which may be another attribute of the layer.
    listed = getattr(holder, "weights", None) or ()
    named = [one for one in listed if id(one) in own and _base_name(one) == steps[-1]]
    return named[0] if len(named) == 1 else None


def _walk(holder: Any, steps: Sequence[str]) -> Any:
    """Return the object at the end of a chain of attributes, or None."""
    for step in steps:
        holder = _step(holder, step)
    return holder


def _step(holder: Any, step: str) -> Any:
    """Return the attribute, value or item for one step of a path, or None."""
    try:
        if nth := _NTH.fullmatch(step):
            layers = [layer for layer in holder.layers if layer.weights or not nth[1]]
            return layers[int(nth[2])]
        if isinstance(holder, Mapping):
            return holder[step]
        return holder[int(step)] if step.isdecimal() else getattr(holder, step)
    except Exception:  # noqa: BLE001 - attributes of custom layers may raise anything
        return None


def _base_name(variable: Any) -> str:
    return str(variable.name).rpartition("/")[2].partition(":")[0]


def _fewest(missing: Sequence[str], extra: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the weights that remain after pairing those that differ only in the model's name.

    If none remain, return all, since variable names do not identify their layers.
    """
    stored = {key.partition(":")[0]: key for key in extra}
    short = {path: path.partition("/")[2] for path in missing}
    paired = {name for name in short.values() if name in stored}
    fewer = [path for path in missing if short[path] not in paired]
    left = [key for name, key in stored.items() if name not in paired]
    return (fewer, left) if fewer or left else (list(missing), list(extra))


def _unpaired(missing: Sequence[str], extra: Sequence[str], keys: Sequence[str]) -> str:
    if missing:
        return f"{missing[0]!r} of the model is not in the file. {choices(missing[0], keys)}"
    return f"{extra[0]!r} of the file is not in the model"
