"""Loading of a checkpoint into a Keras model: all weights, or an error that names one.

Keras reads its own files (`.weights.h5`, `.h5`, `.keras`). It silently keeps initial values of
weights that the file lacks, so assignments are watched. Other files are matched by name, see
`weights_by_name`.

Optimizers of Keras 2 and 3 (`use_ema=True`) and tensorflow-addons keep one moving average per
trainable weight, in the model's order. If a file numbers an optimizer's variables, the averages
among them follow from the optimizer's settings.
"""

import logging
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from extractkit.errors import ModelError, counted
from extractkit.models.failures import error_summary
from extractkit.models.given_weights import MOVING_AVERAGES, MovingAverages, named_averages
from extractkit.models.hugging_face_library import is_of_transformers
from extractkit.models.isolation import patched
from extractkit.models.keras_internals import inner_variable
from extractkit.models.keras_models.dialects import variables_of
from extractkit.models.keras_models.layer_state import adapting_state, derive_state
from extractkit.models.keras_models.saved import ARCHIVE, HDF5, SavedKeras, open_saved
from extractkit.models.keras_models.weights_by_name import (
    assign_by_name,
    assign_by_scope,
    assign_of_transformers,
    stored_name,
)
from extractkit.models.weight_files import WeightFile, open_weights

_log = logging.getLogger(__name__)

BY_KERAS = "load_weights"
BY_NAME = "extractkit's own matching by name"

_KEY = "model.checkpoint"
_MODEL_WEIGHTS = "model_weights/"

Shapes = Mapping[str, tuple[int, ...]]


def load_weights(
    model: Any,
    weights: WeightFile,
    key: str = _KEY,
    averages: MovingAverages | None = None,
    saved: SavedKeras | None = None,
) -> str:
    """Load a checkpoint into a built model.

    Args:
        model: A model of Keras 3 or tf-keras.
        key: The configuration key of the weights, for messages.
        averages: The setting for moving averages. None if there is none.
        saved: The whole model whose optimizer the file belongs to, if known.

    Returns:
        The name of the loader, for records and messages: `BY_KERAS` or `BY_NAME`.

    Raises:
        ModelError: The file is damaged, or of another architecture. The message names the first
            weight that does not fit, with both shapes. Or it lacks the wanted averages.
    """
    at = f"{key}={weights.path!r}"
    by_keras = weights.format in (ARCHIVE, HDF5)
    if by_keras:
        loaded_by = _load_by_keras_or_scope(model, weights, at)
    else:
        loaded_by = BY_NAME
        named = with_named_averages(weights, at, averages) if averages else weights
        assign_by_name(model, named, at)
    if averages and (by_keras or weights.averages):
        saved = open_saved(str(weights.files[0])) if weights.format == ARCHIVE else saved
        use_optimizer_averages(model, weights, saved, at, averages)
    return loaded_by


def _load_by_keras_or_scope(model: Any, weights: WeightFile, at: str) -> str:
    legacy = weights.format == HDF5 and _is_legacy(weights.files[0])
    names = _named_by_keras_2(weights) if legacy else {}
    if legacy and is_of_transformers(model):
        # Their variables have explicit names, without counters of layers.
        names = {key: stored_name(name) for key, name in names.items()}
        assign_of_transformers(model, weights, names, at)
        return BY_NAME
    try:
        _load_by_keras(model, weights, legacy, at)
    except ModelError as unfit:
        try:
            if assign_by_scope(model, weights, names, at):
                return BY_NAME
        except ModelError:
            _log.debug("%s: no scope of it fits either", at, exc_info=True)
        raise unfit from unfit.__cause__
    return BY_KERAS


def load_with_keras(model: Any, weights: WeightFile, key: str) -> None:
    """Load a checkpoint as users do, by `model.load_weights`.

    Files that Keras cannot read are loaded by `load_weights` of this module.

    Args:
        key: See `load_weights`.

    Raises:
        ModelError: It does not fit.
    """
    if weights.format in (ARCHIVE, HDF5) and not is_of_transformers(model):
        legacy = weights.format == HDF5 and _is_legacy(weights.files[0])
        try:
            _load_by_keras(model, weights, legacy, f"{key}={weights.path!r}")
            return
        except ModelError as error:
            _log.debug("not by Keras alone: %s", error)
    load_weights(model, weights, key)


def _named_by_keras_2(weights: WeightFile) -> dict[str, str]:
    """Return full names of variables by key, such as `dense/model/dense/kernel:0` (layer first)."""
    keys = [key for key in weights if not _is_training(weights, key)]
    return {
        key: key.removeprefix(_MODEL_WEIGHTS).partition("/")[2].partition(":")[0] for key in keys
    }


def _load_by_keras(model: Any, weights: WeightFile, legacy: bool, at: str) -> None:
    stored = {
        key: entry.shape for key, entry in weights.entries.items() if not _is_training(weights, key)
    }
    variables = variables_of(model)
    with _named_for_keras(weights.files[0], weights.format, legacy) as file:
        try:
            with _assigned(variables) as assigned, warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model.load_weights(file)
        except Exception as error:  # readers and layers raise errors of many types
            first = _first(model, weights, stored, legacy)
            why = (
                f"does not fit the model: {first}"
                if first
                else f"fails to load: {error_summary(error)}"
            )
            raise ModelError(f"{at} {why}") from error
    for warning in caught:
        _log.debug("%s: %s", at, warning.message)
    used = assigned | {id(state) for state in adapting_state(model)}
    left = [variable for variable in variables if id(inner_variable(variable)) not in used]
    # Layers may save and load more than their variables, such as weights of terms.
    first = None
    if left or len(stored) > len(assigned):
        first = _first(model, weights, stored, legacy)
    if left or first:
        kept = f"it leaves {len(left)} of {len(variables)} weights as they were"
        raise ModelError(f"{at} does not fit the model: {first or kept}")


def _is_training(weights: WeightFile, key: str) -> bool:
    """Return whether a key belongs to an optimizer, or to metrics of a compiled Keras 3 model."""
    return weights.location(key).training or key.partition("/")[0] in ("metrics", "compile_metrics")


@contextmanager
def _named_for_keras(file: Path, kind: str, legacy: bool) -> Iterator[str]:
    """Yield a name of the file whose ending gives Keras its format."""
    ending = ".keras" if kind == ARCHIVE else ".h5" if legacy else ".weights.h5"
    if file.name.endswith(ending) and not (legacy and file.name.endswith(".weights.h5")):
        yield str(file)
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"checkpoint{ending}"
        link.symlink_to(file.absolute())
        yield str(link)


def _is_legacy(file: Path) -> bool:
    """Return whether weights are stored in order by layer, as in Keras 1 and 2."""
    with h5py.File(file, "r") as opened:
        return "layer_names" in opened.attrs or "model_weights" in opened


@contextmanager
def _assigned(variables: Sequence[Any]) -> Iterator[set[int]]:
    """Record the ids of the variables that are assigned within the block."""
    # Variables created in a graph have another class.
    classes: set[type] = {
        next(c for c in type(inner_variable(variable)).__mro__ if "assign" in vars(c))
        for variable in variables
    }
    own = {id(inner_variable(variable)) for variable in variables}
    ids: set[int] = set()

    def watching(original: Callable[..., Any]) -> Callable[..., Any]:
        def assign(variable: Any, *args: Any, **kwargs: Any) -> Any:
            ids.update({id(variable)} & own)
            return original(variable, *args, **kwargs)

        return assign

    with ExitStack() as stack:
        for variable_class in classes:
            stack.enter_context(patched(variable_class, "assign", watching))
        yield ids


def _first(model: Any, weights: WeightFile, stored: Shapes, legacy: bool) -> str | None:
    """Return the first weight that differs, or None."""
    if legacy:
        return _first_in_order(model, weights.files[0])
    try:
        own = _saved_keys(model)
    except Exception:  # noqa: BLE001 - custom layers may raise anything when saved
        _log.debug("the weights cannot be saved for comparison", exc_info=True)
        return None
    return _first_by_key(own, stored)


def _first_by_key(model: Shapes, file: Shapes) -> str | None:
    """Return the first weight that differs between two sides in the same layout."""
    for key, shape in model.items():
        if key not in file:
            return f"{key!r} {list(shape)} of the model is not in the file"
        if file[key] != shape:
            return f"{key!r} is {list(file[key])} in the file, {list(shape)} in the model"
    for key, shape in file.items():
        if key not in model:
            return f"{key!r} {list(shape)} of the file is not in the model"
    return None


def _saved_keys(model: Any) -> dict[str, tuple[int, ...]]:
    """Return the model's weights by the keys under which Keras would save them."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        file = Path(folder) / "model.weights.h5"
        model.save_weights(str(file))
        listed = open_weights(str(file), _KEY)
    return {key: entry.shape for key, entry in listed.entries.items()}


def _first_in_order(model: Any, file: Path) -> str | None:
    """Return the first weight that differs, comparing layers in order."""
    by_layer = [(layer.name, variables_of(layer)) for layer in model.layers]
    ours = [
        (layer, [(_short(variable), tuple(variable.shape)) for variable in variables])
        for layer, variables in by_layer
        if variables
    ]
    theirs = _stored_layers(file)
    for (layer, own), (stored_layer, stored) in zip(ours, theirs, strict=False):
        if len(own) != len(stored):
            return (
                f"layer {layer!r} has {counted(len(own), 'weight')}, {stored_layer!r} in its "
                f"place in the file {len(stored)}"
            )
        for (name, shape), (key, stored_shape) in zip(own, stored, strict=True):
            if shape != stored_shape:
                return (
                    f"{key!r} is {list(stored_shape)} in the file, '{layer}/{name}' "
                    f"{list(shape)} in the model"
                )
    if len(ours) != len(theirs):
        longer, where = (ours, "model") if len(ours) > len(theirs) else (theirs, "file")
        layer, variables = longer[min(len(ours), len(theirs))]
        return (
            f"layer {layer!r} of the {where} with {variables[0][0]!r} {list(variables[0][1])} has "
            f"no counterpart: {len(ours)} layers with weights in the model, {len(theirs)} in "
            f"the file"
        )
    return None


def _short(variable: Any) -> str:
    return str(variable.name).partition(":")[0].rpartition("/")[2]


def _stored_layers(file: Path) -> list[tuple[str, list[tuple[str, tuple[int, ...]]]]]:
    """Return the layers of an older file, in order, with names and shapes of their weights."""
    with h5py.File(file, "r") as opened:
        group = opened if "layer_names" in opened.attrs else opened["model_weights"]
        layers = []
        for layer in _names(group, "layer_names"):
            variables = [
                (name, tuple(group[layer][name].shape))
                for name in _names(group[layer], "weight_names")
            ]
            if variables:
                layers.append((layer, variables))
    return layers


def _names(group: Any, attribute: str) -> list[str]:
    """Return a list of names, which Keras splits over several attributes if it is long."""
    parts = [attribute] if attribute in group.attrs else []
    while f"{attribute}{len(parts)}" in group.attrs:
        parts.append(f"{attribute}{len(parts)}")
    names = [name for part in parts for name in group.attrs[part]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


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
    own = {key: weights.location(key) for key in weights if weights.location(key).slot is None}
    found = named_averages(weights, own, averages.name)
    if not isinstance(averages.setting, str):
        by_location = {(location.layers, location.variable): key for key, location in own.items()}
        for key in weights:
            location = weights.location(key)
            if (
                location.average
                and location.slot
                and (location.layers, location.variable) in by_location
            ):
                found[by_location[location.layers, location.variable]] = key
    found = {key: one for key, one in found.items() if weights.entry(one) == weights.entry(key)}
    if not found and weights.averages:
        return weights
    variables = [key for key, location in own.items() if not location.training]
    slots = (weights.location(key).slot for key in weights)
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
            f"{MOVING_AVERAGES}: the averages in {at} are not those of the model: it has "
            f"{len(variables)} trainable weights, and {len(stored)} of the averages are stored, or "
            f"shapes differ"
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
            f"{MOVING_AVERAGES}: {at} only numbers the variables of its optimizer, so the averages "
            f"among them are not known. Remove {MOVING_AVERAGES}, and {_IN_PLACE}"
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
        if key.startswith(_NAMED) and weights.location(key).average:
            name = re.sub(r"^average/|/average$|_average$", "", name)
            found[next((p for p in paths if name in (p, p.replace("/", "_"))), name)] = key
    return found
