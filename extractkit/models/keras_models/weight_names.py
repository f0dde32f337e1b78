"""Names of weights: under another scope, and by PyTorch's conventions.

The part that two models share has another path in each: `tf_bert_model/bert/…` in one without a
head, `tf_bert_for_sequence_classification/bert/…` in one with a head, `bert/…` in a file that
leaves the model's own name out. Pure Python.

No PyTorch is needed: transformers translates names and arranges arrays as NumPy has them.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from extractkit.core.values import Array
from extractkit.errors import ModelError


@dataclass(frozen=True)
class Scope:
    """The scope of a file in which all of a model's weights are.

    Attributes:
        keys: for each path of the model, in order, the key in the file.
        outside: keys of the file for which the model has no place.
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
    """Return the one scope of a file that holds all of a model's weights; None if there is none.

    The paths may lose the model's own name, and gain what all names in the scope begin with.
    Nothing in the scope may be left over.

    Args:
        paths: Of the model's weights.
        names: Path of each weight in the file, by its key.
        at: How messages name the file.
        may_be_left: Whether a key may be left over all the same.
        droppable: How many of the parts that all paths begin with are names of the model. Names of
            layers stay: without them the weights could be those of another layer.

    Raises:
        ModelError: Several scopes hold them, so that any of them might be meant.
    """
    keys = {name: key for key, name in reversed(tuple(names.items()))}
    shared = _shared(paths)
    for depth in range(min(len(shared), droppable) + 1):
        rests = ["/".join(path.split("/")[depth:]) for path in paths]
        if not any("/" in rest for rest in rests):
            break  # `kernel` and `bias` alone are those of any layer
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
    """Return the parts that all paths begin with; the last part of a path is never among them."""
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
"""A variable of the model, and what brings a stored array to its axes."""


def is_of_transformers(model: Any) -> bool:
    """Return whether a model is one of transformers, whose weights have names of their own."""
    return any(
        base.__name__ == _BASE and base.__module__.partition(".")[0] == _LIBRARY
        for base in type(model).__mro__
    )


def are_pytorch_names(keys: Sequence[str]) -> bool:
    """Return whether keys are attributes of a PyTorch module: `encoder.layer.0.query.weight`."""
    return any("." in key for key in keys) and not any("/" in key for key in keys)


def variables_by_pytorch_name(model: Any, keys: Sequence[str]) -> dict[str, Arranged]:
    """Return the model's variables by the keys that PyTorch's twin of it has for them.

    Args:
        model: Of transformers.
        keys: Of the file. Those without a counterpart are left out.
    """
    from transformers.modeling_tf_pytorch_utils import (
        apply_transpose,
        convert_tf_weight_name_to_pt_weight_name,
    )

    stored = {_today(key): key for key in keys}
    base = str(model.base_model_prefix)
    # A twin without a head has no name for what is all of it.
    removed = "" if any(name.startswith(base) for name in stored) else f"{base}."
    # Models whose names differ in more than the spelling say so.
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
    """Return whether transformers itself lets a variable of its model keep its initial value."""
    patterns = getattr(model, "_keys_to_ignore_on_load_missing", None) or ()
    return any(re.search(pattern, path) for pattern in patterns)


def may_be_left(model: Any, key: str, dtype: str) -> bool:
    """Return whether a weight of a file is known to have no place in a model of transformers.

    So it is with a head that the model lacks, and with what PyTorch keeps besides weights: masks
    and positions, which are whole numbers.
    """
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    whole = dtype.startswith(("int", "uint", "bool"))
    return whole or any(re.search(pattern, key) for pattern in patterns)


# As `load_pytorch_state_dict_in_tf2_model` of transformers does it.
_RENAMED: Mapping[str, str] = {
    "gamma": "weight",
    "beta": "bias",
    "running_var": "moving_variance",
    "running_mean": "moving_mean",
}
_NORMED = {"original0": "_g", "original1": "_v"}


def _today(key: str) -> str:
    """Return a key as today's PyTorch models have it, and as the translated names expect it."""
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
