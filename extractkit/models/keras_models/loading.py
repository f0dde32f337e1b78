"""Loading and reloading of whole Keras models, by the version of Keras that fits the file."""

import importlib.util
import inspect
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import keras
import numpy as np

from extractkit.core.checkpoints import KEY
from extractkit.core.extras import install
from extractkit.errors import MissingExtraError, ModelError, UserError
from extractkit.models.failures import error_summary
from extractkit.models.given_weights import GivenWeights
from extractkit.models.isolation import patched
from extractkit.models.keras_internals import OPERATIONS, layers_in
from extractkit.models.keras_models.dialects import (
    KERAS_3,
    Dialect,
    dialect_of,
    keras_2,
    unfused_attention,
)
from extractkit.models.keras_models.old_configs import (
    WRAPPER,
    check_revived,
    is_keras_1,
    pruned_layers,
    stand_in,
    stripped,
    translated_to_keras_2,
    without_masks,
)
from extractkit.models.keras_models.saved import (
    SavedKeras,
    graph_alternative,
    load_error_message,
    refuse_code,
    refuse_imports,
    serialized_objects,
)
from extractkit.models.keras_models.weights import load_with_keras
from extractkit.models.weight_files import WeightFile

_log = logging.getLogger(__name__)

# The largest number of elements of a weight that is not stored.
_SMALL = 1 << 20

_CHANGED = "hard_sigmoid"
_INSTALL = install("models of Keras 2")


def read_model(saved: SavedKeras, custom_objects: Mapping[str, Any], safe_mode: bool) -> Any:
    """Return the uncompiled model in a file or folder, read by the Keras that wrote it if possible.

    Args:
        custom_objects: Classes and functions by their names in the file.
        safe_mode: Whether to refuse a file that contains Python code.

    Raises:
        ModelError: No Keras can read it, or it contains code.
        MissingExtraError: Keras 3 refuses it and tf-keras is not installed.
    """
    _refuse_theano(saved)
    if safe_mode:
        refuse_code(saved)
    settings = {"custom_objects": dict(custom_objects), "compile": False, "safe_mode": safe_mode}
    try:
        if saved.is_folder:
            return _read_by_keras_2(saved, "Keras 2 wrote it", settings)
        if reason := _only_keras_2(saved):
            return _read_by_keras_2(saved, reason, settings)
        if saved.major == 2 and not _of_keras_3(custom_objects):
            return _read_by_writer(saved, settings)
        try:
            return _read(saved, KERAS_3, saved.path, settings)
        except UserError:
            raise
        except Exception as error:
            if saved.major == 3:
                raise
            return _read_by_keras_2(saved, f"Keras 3 refuses it ({error_summary(error)})", settings)
    except UserError:
        raise
    except Exception as error:  # readers and user classes raise errors of many types
        raise ModelError(load_error_message(saved, error)) from error


def build_architecture(saved: SavedKeras) -> Any:
    """Return the model that a configuration alone describes, with initial weights, not compiled.

    Raises:
        ModelError: No Keras can build it, or it contains code.
        MissingExtraError: It is of Keras 2, and tf-keras is not installed.
    """
    _refuse_theano(saved)
    refuse_code(saved)
    registered: Callable[[str], Any]
    if saved.major == 3:
        dialect, registered = KERAS_3, KERAS_3.package.saving.get_registered_object
    else:
        if importlib.util.find_spec("tf_keras") is None:
            raise MissingExtraError(
                f"{saved.at} is a model of Keras 2. It needs tf-keras, which is not installed. "
                f"Install it: {_INSTALL}"
            )
        import tf_keras

        dialect, registered = keras_2(tf_keras), tf_keras.saving.get_registered_object
    refuse_imports(saved, {}, registered)
    try:
        with _refuse_oversized_weights(saved, dialect), dialect.inference():
            return dialect.package.models.model_from_json(json.dumps(saved.config))
    except UserError:
        raise
    except Exception as error:  # layer configurations raise errors of many types
        raise ModelError(load_error_message(saved, error)) from error


def read_again(
    saved: SavedKeras, custom_objects: Mapping[str, Any], safe_mode: bool, used: Any
) -> Any:
    """Read the model in a file again, with the same Keras as before.

    Args:
        custom_objects, safe_mode: As for `read_model`, which has accepted the file.
        used: The model that `read_model` returned.

    Raises:
        ModelError: That Keras cannot read it.
    """
    settings = {"custom_objects": dict(custom_objects), "compile": False, "safe_mode": safe_mode}
    try:
        if saved.major != 3 and dialect_of(used) is not KERAS_3:
            return _read_by_keras_2(saved, "loaded again", settings)
        return _read(saved, KERAS_3, saved.path, settings)
    except UserError:
        raise
    except Exception as error:  # readers and user classes raise errors of many types
        raise ModelError(load_error_message(saved, error)) from error


def _of_keras_3(custom_objects: Mapping[str, Any]) -> bool:
    """Return whether the given classes are layers of Keras 3."""
    given = custom_objects.values()
    return any(isinstance(one, type) and issubclass(one, keras.layers.Layer) for one in given)


def _read_by_writer(saved: SavedKeras, settings: Mapping[str, Any]) -> Any:
    """Read a file of Keras 2 with tf-keras, since Keras 3 may compute other values.

    Raises:
        Exception: any error of tf-keras, if Keras 3 cannot read the file either.
    """
    wrote = f"Keras {saved.version} wrote it"
    if importlib.util.find_spec("tf_keras") is None:
        try:
            model = _read(saved, KERAS_3, saved.path, settings)
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001 - readers and user classes raise errors of many types
            return _read_by_keras_2(saved, f"Keras 3 refuses it ({error_summary(error)})", settings)
        _log.warning(
            "%s: %s, and Keras 3 reads it, which may compute something else. To read it by the "
            "Keras that wrote it: %s",
            saved.at,
            wrote,
            _INSTALL,
        )
        return model
    try:
        return _read_by_keras_2(saved, wrote, settings)
    except Exception as error:  # noqa: BLE001 - for example a class that only Keras 3 has
        try:
            model = _read(saved, KERAS_3, saved.path, settings)
        except Exception:  # noqa: BLE001 - as above; the first error is the one that is raised
            _log.debug("%s: Keras 3 refuses it, too", saved.at, exc_info=True)
            raise error from None
        _log.warning(
            "%s: %s, but tf-keras refuses it (%s). Keras 3 reads it, which may compute something "
            "else",
            saved.at,
            wrote,
            error_summary(error),
        )
        return model


def _only_keras_2(saved: SavedKeras) -> str | None:
    """Return why Keras 3 must not read a file, or None if it may."""
    if is_keras_1(saved):
        return "Keras 1 wrote it"
    # Keras 2: clip(0.2x + 0.5, 0, 1); Keras 3: clip(x / 6 + 0.5, 0, 1).
    if saved.major != 3 and _CHANGED in _values(saved.config):
        return f"{_CHANGED} of Keras 3 is another function than that of Keras 2, which wrote it"
    return None


def _values(config: Any) -> set[str]:
    """Return all texts in the configurations of layers."""
    return {
        value
        for node in serialized_objects(config)
        for value in (node["class_name"], node.get("config"), *_entries(node.get("config")))
        if isinstance(value, str)
    }


def _entries(config: Any) -> Iterable[Any]:
    return config.values() if isinstance(config, dict) else ()


def _read_by_keras_2(saved: SavedKeras, reason: str, settings: Mapping[str, Any]) -> Any:
    _log.debug("%s: %s", saved.at, reason)
    if importlib.util.find_spec("tf_keras") is None:
        raise MissingExtraError(
            f"{saved.at}: {reason}. It needs tf-keras, which is not installed. "
            f"Install it: {_INSTALL}{graph_alternative(saved)}"
        )
    import tf_keras

    given = settings["custom_objects"]
    wrapper = None
    if pruned_layers(saved, given):
        wrapper = stand_in(tf_keras)
        settings = {**settings, "custom_objects": {**given, WRAPPER: wrapper}}
    if settings["safe_mode"]:
        registered = tf_keras.saving.get_registered_object
        refuse_imports(saved, settings["custom_objects"], registered)
    with _source(saved, wrapper is not None) as source:
        model = _read(saved, keras_2(tf_keras), source, settings)
    if saved.is_folder:
        check_revived(model, saved, settings["custom_objects"])
    return model if wrapper is None else stripped(model, tf_keras, wrapper, saved.at)


def _source(saved: SavedKeras, pruned: bool) -> AbstractContextManager[Any]:
    """Return a context with the file for tf-keras, translated if needed."""
    if pruned and saved.is_hdf5:
        return without_masks(saved)
    if is_keras_1(saved):
        return translated_to_keras_2(saved)
    return nullcontext(str(saved.path))


def _operations(saved: SavedKeras) -> dict[str, Any]:
    """Return the operations of Keras 3 (`x[:, 0]`) that an HDF5 file has among its layers.

    Keras writes only the names of their classes and looks them up as layers: it finds none, or one
    with the same name (`x * 2` is a Multiply). Only configurations of layers have `trainable`.
    """
    if not saved.is_hdf5 or saved.major != 3:
        return {}
    wanted: set[str] = set()
    others: set[str] = set()
    for node in serialized_objects(saved.config):
        is_operation = "inbound_nodes" in node and "trainable" not in (node.get("config") or ())
        (wanted if is_operation else others).add(str(node["class_name"]))
    wanted -= others
    found: dict[str, Any] = {}
    waiting: list[type] = [keras.Operation]
    while waiting:
        subclasses: list[type] = waiting.pop().__subclasses__()
        for one in subclasses:
            waiting.append(one)
            if one.__name__ in wanted and one.__module__.startswith(OPERATIONS):
                found[one.__name__] = one
    return found


def _read(saved: SavedKeras, dialect: Dialect, file: Any, settings: Mapping[str, Any]) -> Any:
    if dialect is KERAS_3 and (operations := _operations(saved)):
        settings = {**settings, "custom_objects": {**operations, **settings["custom_objects"]}}
    with (
        _refuse_oversized_weights(saved, dialect),
        dialect.inference(),
        unfused_attention(),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        read = partial(dialect.package.models.load_model, file, **settings)
        model = with_stored_weights(read) if dialect is KERAS_3 else read()
    for warning in caught:
        _log.debug("%s: %s", dialect.name, warning.message)
    return model


def _refuse_theano(saved: SavedKeras) -> None:
    """Refuse files of Theano, which flips convolution kernels, as the values would be wrong."""
    convolutions = (
        node for node in serialized_objects(saved.config) if "Conv" in str(node["class_name"])
    )
    if saved.backend == "theano" and any(convolutions):
        raise ModelError(
            f"{saved.at} was written on Theano, whose convolutions flip their kernels. "
            f"Keras 2.3.1 on TensorFlow flips them back: pip install keras==2.3.1 in a Python with "
            f"TensorFlow 1.15, set KERAS_BACKEND=tensorflow, then load_model(FILE).save(NEW)"
        )


@contextmanager
def _refuse_oversized_weights(saved: SavedKeras, dialect: Dialect) -> Iterator[None]:
    """Refuse a weight larger than all stored weights, before memory is allocated for it."""
    most = max(saved.elements, _SMALL)

    def checking(original: Callable[..., Any]) -> Callable[..., Any]:
        def checked(layer: Any, *args: Any, **kwargs: Any) -> Any:
            given = (*args, *kwargs.values())
            for shape in (value for value in given if isinstance(value, tuple | list)):
                if all(isinstance(size, int) for size in shape) and prod(shape) > most:
                    raise ModelError(
                        f"{saved.at}: layer {layer.name!r} has a weight of shape {tuple(shape)}, "
                        f"larger than all that is stored. The file is damaged, or the layer does "
                        f"not save that weight. If so, load the model in Python: "
                        f"model.factory._target_=package.module.function in place of model.path"
                    )
            return original(layer, *args, **kwargs)

        return checked

    with patched(dialect.package.layers.Layer, "add_weight", checking):
        yield


_UNSET = 0.0123456
"""The value of weights that have not been read yet. No file has a weight of this value alone."""


def with_stored_weights(read: Callable[[], Any]) -> Any:
    """Return the model of Keras 3 that `read` builds and fills with stored weights.

    Keras first draws random weights, which takes longer than to read the stored ones. They are left
    out. If nothing is stored for one of them, the model is read again as Keras does it.
    """
    unset: list[Any] = []

    def constant(original: Callable[..., Any]) -> Callable[..., Any]:
        names = tuple(inspect.signature(original).parameters)[1:]

        def added(layer: Any, *args: Any, **kwargs: Any) -> Any:
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            dtype = keras.backend.standardize_dtype(given.get("dtype") or layer.variable_dtype)
            if not keras.backend.is_float_dtype(dtype) or not _draws(given.get("initializer")):
                return original(layer, *args, **kwargs)
            variable = original(
                layer, **{**given, "initializer": keras.initializers.Constant(_UNSET)}
            )
            unset.append(variable)
            return variable

        return added

    with patched(keras.layers.Layer, "add_weight", constant):
        model = read()
    return read() if any(map(_is_unset, unset)) else model


def _draws(initializer: Any) -> bool:
    """Return whether an initializer draws other numbers each time.

    With a seed, layers may rely on the numbers.
    """
    if isinstance(initializer, str | dict):
        initializer = keras.initializers.get(initializer)
    kinds = keras.initializers
    random = (kinds.RandomNormal, kinds.RandomUniform, kinds.TruncatedNormal)
    if not isinstance(initializer, (*random, kinds.VarianceScaling, kinds.Orthogonal)):
        return False
    return initializer.get_config().get("seed") is None


def _is_unset(variable: Any) -> bool:
    values = np.asarray(variable).reshape(-1)
    first = values[:1].astype(np.float64)
    return bool(np.isclose(first, _UNSET, rtol=0.01).any() and (values == values[0]).all())


@dataclass(frozen=True, eq=False)
class ReloadedModel:
    """A reloaded model, whose weights may still have to be loaded from a separate file.

    Attributes:
        model: A model of any Keras.
        loaded_by: The name of its loader, for records and messages.
        load_weights: Loads the missing weights. None if it has all.
    """

    model: Any
    loaded_by: str
    load_weights: Callable[[], None] | None = None

    def complete(self, inputs: Any) -> None:
        """Load missing weights, after calling the model if it has no variables yet.

        Args:
            inputs: The inputs for that call.

        Raises:
            ModelError: The weights do not fit.
        """
        if self.load_weights is None:
            return
        if not all(layer.built for layer in layers_in(self.model)):
            self.model(inputs, training=False)
        self.load_weights()


Reload = Callable[[int | None], ReloadedModel]
"""A function that reloads a model. Its argument is that of `HasOwnCall.own_call`."""


def reloaded(
    model: Any,
    made_by: str,
    weights: GivenWeights,
    checkpoint: int | None,
    load: Callable[[Any, WeightFile, str], None] = load_with_keras,
    by: str | None = None,
) -> ReloadedModel:
    """Return a newly built model together with the loader of its configured weights.

    Args:
        made_by: The function that built it.
        checkpoint: The position on the axis of weights. None if there is no axis.
        load: Loads the weights of a file, given by a key, into a model.
        by: The name of the loader. If None, the one that loaded the first model.
    """
    file = weights.file(checkpoint)
    if file is None:
        return ReloadedModel(model, made_by)
    return ReloadedModel(
        model,
        f"{made_by} and {by or weights.loaded_by(checkpoint)}",
        lambda: load(model, file, "model.checkpoint" if checkpoint is None else KEY),
    )
