"""Moving averages of weights kept by Keras optimizers.

Keras 2 and 3 (`use_ema=True`) and tensorflow-addons keep one average per trainable weight, in the
model's order. If a file numbers an optimizer's variables, the averages among them follow from the
optimizer's settings.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from extractkit.errors import ModelError
from extractkit.models.keras_models.dialects import variables_of
from extractkit.models.keras_models.layer_state import derive_state
from extractkit.models.keras_models.saved import SavedKeras
from extractkit.models.moving_averages import KEY, MovingAverages, named_averages
from extractkit.models.weight_files import WeightFile

_NUMBERED = "optimizer/vars/"
_NAMED = "optimizer_weights/"
_IN_PLACE = (
    "save a copy with them in place of the weights: "
    "model.optimizer.finalize_variable_values(model.trainable_variables), then model.save"
)


def with_named_averages(weights: WeightFile, at: str, averages: MovingAverages) -> WeightFile:
    """Return a view of the file with averages in place of the weights, if they are wanted.

    Raises:
        ModelError: Averages are wanted, and there are none.
    """
    own = {key: weights.place(key) for key in weights if weights.place(key).slot is None}
    found = named_averages(weights, own, averages.name)
    if not isinstance(averages.setting, str):
        by_place = {(place.layers, place.variable): key for key, place in own.items()}
        for key in weights:
            place = weights.place(key)
            if place.average and place.slot and (place.layers, place.variable) in by_place:
                found[by_place[place.layers, place.variable]] = key
    found = {key: one for key, one in found.items() if weights.entry(one) == weights.entry(key)}
    if not found and weights.averages:
        return weights
    variables = [key for key, place in own.items() if not place.training]
    slots = (weights.place(key).slot for key in weights)
    chosen = averages.chosen(at, found, variables, (slot for slot in slots if slot))
    return replace(weights, load=lambda key: weights.load(chosen.get(key, key)))


def keeps_averages(saved: SavedKeras) -> bool:
    """Return whether the optimizer of a compiled model keeps averages."""
    name = str(saved.optimizer.get("class_name"))
    return "Average" in name or _has_averages(saved.optimizer.get("config"))


def use_optimizer_averages(
    model: Any, weights: WeightFile, saved: SavedKeras | None, at: str, averages: MovingAverages
) -> None:
    """Assign an optimizer's averages to the trainable weights, if they are wanted.

    Args:
        model: The model, with loaded weights.
        weights: The file of the weights.
        saved: The whole model that the optimizer belonged to, if known.
        at: The file's name in messages.

    Raises:
        ModelError: Averages are wanted, and the file has none, or not those of this model.
    """
    variables = {_path(variable): variable for variable in model.trainable_variables}
    keys = _keys(weights, saved, list(variables), at, averages)
    if averages.setting is None and _in_place(variables, keys, weights):
        return
    own = [_path(variable) for variable in variables_of(model)]
    chosen = averages.chosen(at, keys, own)
    shapes = {path: tuple(variable.shape) for path, variable in variables.items()}
    stored = {path: weights.entry(key).shape for path, key in chosen.items() if key in weights}
    if chosen and stored != shapes:
        raise ModelError(
            f"{KEY}: the averages in {at} are not those of the model: it has {len(variables)} "
            f"trainable weights, and {len(stored)} of the averages are stored, or shapes differ"
        )
    for path, key in chosen.items():
        variables[path].assign(np.asarray(weights.read(key)))
    if chosen:
        derive_state(model, at)


def _in_place(variables: Mapping[str, Any], keys: Mapping[str, str], weights: WeightFile) -> bool:
    """Return whether the weights already are the averages, as Keras leaves them after `fit`."""
    return all(
        path in variables
        and key in weights
        and np.array_equal(np.asarray(variables[path]), weights.read(key))
        for path, key in keys.items()
    )


def _path(variable: Any) -> str:
    return str(getattr(variable, "path", variable.name)).partition(":")[0]


def _keys(
    weights: WeightFile,
    saved: SavedKeras | None,
    paths: Sequence[str],
    at: str,
    averages: MovingAverages,
) -> Mapping[str, str]:
    """Return the averages' keys by the paths of weights. Empty if there are none."""
    if weights.averages:
        return dict(zip(paths, weights.averages, strict=False))
    if any(key.startswith(_NAMED) for key in weights):
        return _named(weights, paths)
    if f"{_NUMBERED}0" not in weights:
        return {}
    optimizer = saved.optimizer if saved else {}
    config = optimizer.get("config") or {}
    if config.get("use_ema"):
        # They follow the iteration counter and, in Keras 3, the learning rate unless a schedule
        # gives it.
        has_rate = saved is not None and saved.major == 3
        first = 2 if has_rate and not isinstance(config.get("learning_rate"), dict) else 1
        return {path: f"{_NUMBERED}{first + at}" for at, path in enumerate(paths)}
    if not averages.used:
        if _has_averages(config):
            averages.warn(at, how=_IN_PLACE)
        return {}
    if not optimizer or _has_averages(config):
        raise ModelError(
            f"{KEY}: {at} only numbers the variables of its optimizer, so the averages among them "
            f"are not known. Remove {KEY}, and {_IN_PLACE}"
        )
    return {}


def _has_averages(config: Any) -> bool:
    """Return whether an optimizer, or one inside it, keeps averages."""
    return isinstance(config, dict) and bool(
        config.get("use_ema") or any(_has_averages(value) for value in config.values())
    )


def _named(weights: WeightFile, paths: Sequence[str]) -> dict[str, str]:
    """Return the keys of averages by their names in whole HDF5 files."""
    found = {}
    for key in weights:
        # `Adam/average/dense/kernel`, `adam/dense_kernel_average`, `SGD/dense/kernel/average`
        name = key.removeprefix(_NAMED).removesuffix(":0").partition("/")[2]
        if key.startswith(_NAMED) and weights.place(key).average:
            name = re.sub(r"^average/|/average$|_average$", "", name)
            found[next((p for p in paths if name in (p, p.replace("/", "_"))), name)] = key
    return found
