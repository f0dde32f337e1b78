"""Matching of weight names: under another scope, and in PyTorch's convention.

The part that two models share has different paths: `tf_bert_model/bert/…` without a head,
`tf_bert_for_sequence_classification/bert/…` with one, and `bert/…` in a file that omits the model's
own name. PyTorch is not needed: transformers translates its names and transposes NumPy arrays.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from extractkit.core.values import Array
from extractkit.errors import ModelError
from extractkit.models.keras_internals import keys_to_ignore


@dataclass(frozen=True)
class Scope:
    """The scope of a file that holds all of a model's weights.

    Attributes:
        keys: The key in the file for each of the model's paths, in order.
        outside: The other keys of the file.
    """

    keys: tuple[str, ...]
    outside: tuple[str, ...]


def find_scope(
    paths: Sequence[str],
    names: Mapping[str, str],
    at: str,
    may_be_left: Callable[[str], bool] = lambda key: False,
    *,
    droppable: int,
) -> Scope | None:
    """Return the scope of a file that holds all of a model's weights, or None.

    The model's own name may be removed from the paths, and the scope's prefix added. No other
    weight may be in the scope.

    Args:
        paths: The paths of the model's weights.
        names: The path of each weight in the file, by its key.
        at: The file's name in messages.
        may_be_left: Whether a key in the scope may be unused after all.
        droppable: The number of leading parts of all paths that are names of the model. Names of
            layers are kept, since the weights could otherwise be those of another layer.

    Raises:
        ModelError: Several scopes hold the weights.
    """
    keys = {name: key for key, name in reversed(tuple(names.items()))}
    shared = _shared(paths)
    for depth in range(min(len(shared), droppable) + 1):
        rests = ["/".join(path.split("/")[depth:]) for path in paths]
        if not any("/" in rest for rest in rests):
            break  # `kernel` and `bias` would match any layer
        ending = [name for name in dict.fromkeys(names.values()) if _ends(name, rests[0])]
        prefixes = [name.removesuffix(rests[0]) for name in ending]
        inside = "".join(f"{part}/" for part in shared[depth:])
        found = [
            (prefix, scope)
            for prefix in prefixes
            if (scope := _scope(prefix, rests, keys, names)) is not None
            and not any(
                names[key].startswith(prefix + inside) and not may_be_left(key)
                for key in scope.outside
            )
        ]
        if len(found) > 1:
            several = " and ".join(repr(f"{prefix}{inside}") for prefix, _ in found[:2])
            raise ModelError(
                f"{at} holds the weights of the model more than once: under {several}. "
                f"Give a file with one of them"
            )
        if found:
            return found[0][1]
    return None


def _scope(
    prefix: str, rests: Sequence[str], keys: Mapping[str, str], names: Mapping[str, str]
) -> Scope | None:
    wanted = {prefix + rest: None for rest in rests}
    if not all(name in keys for name in wanted):
        return None
    left = tuple(key for key, name in names.items() if name not in wanted)
    return Scope(tuple(keys[name] for name in wanted), left)


def _shared(paths: Sequence[str]) -> list[str]:
    """Return the leading parts that all paths share, without the last part of a path."""
    shared: list[str] = []
    for parts in zip(*(path.split("/")[:-1] for path in paths), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return shared


def _ends(name: str, rest: str) -> bool:
    return name == rest or name.endswith(f"/{rest}")


_LIBRARY = "transformers"
_BASE = "TFPreTrainedModel"

Arranged = tuple[Any, Callable[[Array], Array]]
"""A variable of the model, and the function that converts a stored array to its axes."""


def is_of_transformers(model: Any) -> bool:
    """Return whether a model is a transformers model, which has its own naming of weights."""
    return any(
        base.__name__ == _BASE and base.__module__.partition(".")[0] == _LIBRARY
        for base in type(model).__mro__
    )


def are_pytorch_names(keys: Sequence[str]) -> bool:
    """Return whether keys are attributes of a PyTorch module: `encoder.layer.0.query.weight`."""
    return any("." in key for key in keys) and not any("/" in key for key in keys)


def variables_by_pytorch_name(model: Any, keys: Sequence[str]) -> dict[str, Arranged]:
    """Return the model's variables by the keys of the same model in PyTorch.

    Args:
        model: A transformers model.
        keys: The keys of the file. Those without a counterpart are ignored.
    """
    from transformers.modeling_tf_pytorch_utils import (
        apply_transpose,
        convert_tf_weight_name_to_pt_weight_name,
    )

    stored = {_current_key(key): key for key in keys}
    base = str(model.base_model_prefix)
    # A PyTorch model without a head has no prefix for its base model.
    removed = "" if any(name.startswith(base) for name in stored) else f"{base}."
    # Models with differently structured names define their own translation.
    rename = getattr(model, "tf_to_pt_weight_rename", None)
    found: dict[str, Arranged] = {}
    for variable in model.weights:
        shape = tuple(variable.shape)
        name, transpose = convert_tf_weight_name_to_pt_weight_name(variable.name, removed, shape)
        names = rename(name) if rename else (name,)
        key = next((stored[one] for one in names if one in stored), None)
        if key is not None:
            found[key] = (variable, partial(_arranged, apply_transpose, transpose, shape))
    return found


def may_be_missing(model: Any, path: str) -> bool:
    """Return whether transformers itself allows a variable to keep its initial value."""
    patterns, _ = keys_to_ignore(model)
    return any(re.search(pattern, path) for pattern in patterns)


def may_be_left(model: Any, key: str, dtype: str) -> bool:
    """Return whether a weight of a file may be unused by a transformers model.

    Such are the weights of a head that the model lacks, and PyTorch's buffers of whole numbers:
    masks and positions.
    """
    _, patterns = keys_to_ignore(model)
    whole = dtype.startswith(("int", "uint", "bool"))
    return whole or any(re.search(pattern, key) for pattern in patterns)


# As in `load_pytorch_state_dict_in_tf2_model` of transformers.
_RENAMED: Mapping[str, str] = {
    "gamma": "weight",
    "beta": "bias",
    "running_var": "moving_variance",
    "running_mean": "moving_mean",
}
_NORMED = {"original0": "_g", "original1": "_v"}


def _current_key(key: str) -> str:
    """Return a key in the form of current PyTorch models."""
    *parts, kind, last = ["", *key.split(".")]
    if kind == "weight" and parts[-1:] == ["parametrizations"] and last in _NORMED:
        return ".".join([*parts[1:-1], kind + _NORMED[last]])
    for old, new in _RENAMED.items():
        key = key.replace(old, new)
    return key


def _arranged(
    transposing: Callable[..., Any], transpose: Any, shape: tuple[int, ...], array: Array
) -> Array:
    arranged: Array = np.asarray(transposing(transpose, array, shape))
    return arranged
