"""Names and axes of PyTorch's weights, for models of transformers, which know both.

No PyTorch is needed: transformers translates names and arranges arrays as NumPy has them.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from extractkit.values import Array

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


def by_pytorch_names(model: Any, keys: Sequence[str]) -> dict[str, Arranged]:
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
    """A key as today's PyTorch models have it, and as the translated names expect it."""
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
