"""Models in memory: Keras models, functions and modules, wrapped as a `Model`."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from extractkit.errors import ModelError
from extractkit.models import CARRY, CheckpointAxis, Model, check_state
from extractkit.models.given_weights import WeightFiles
from extractkit.models.keras_models.carrying import CarryingModel, check_carried, warn
from extractkit.models.keras_models.catalog import (
    input_structure,
    optional_inputs,
    packer,
    signature,
    with_free_rows,
)
from extractkit.models.keras_models.dialects import dialect_of
from extractkit.models.keras_models.layer_state import stateful_layers
from extractkit.models.keras_models.loading import Reload
from extractkit.models.keras_models.model import KerasModel
from extractkit.models.keras_models.training import TrainedModel, check_one_replica
from extractkit.models.signature import InputSetting

_NAME = "model"


def in_memory_model(model: object, example: object = None) -> Model:
    """Wrap a Keras model or layer, a `tf.function`, a concrete function or a callable `tf.Module`.

    Args:
        model: The model. Functions and modules have to declare their inputs.
        example: Arrays that a Keras model can be called with; see `live_model`.

    Raises:
        ModelError: The object is something else, or does not declare its inputs.
    """
    if dialect_of(model) is not None:
        return live_model(model, name=_NAME, example=example)
    from extractkit.models.functions.callables import declaring_function

    if not hasattr(model, "structured_input_signature") and declaring_function(model) is None:  # type: ignore[arg-type]
        raise ModelError(
            f"model={type(model).__name__} cannot be extracted from. Give a keras.Model, a "
            f"tf.function or tf.Module with an input_signature, or an adapter with extractkit's "
            f"Model protocol. A file or a name is an override: extract(['model=net.keras'], …). "
            f"Code that builds a model: extract(['model=module', "
            f"'model.factory._target_=package.module.function'], …)"
        )
    origin: dict[str, object] = {"class": f"{type(model).__module__}.{type(model).__name__}"}
    return traced_model(_NAME, model, None, None, origin)


def live_model(
    model: object,
    name: str = "model",
    origin: Mapping[str, object] | None = None,
    example: object = None,
    input_axes: Mapping[str, InputSetting] | None = None,
    checkpoints: WeightFiles | None = None,
    load: Callable[[], None] | None = None,
    reload: Reload | None = None,
    state: str | None = None,
    state_setting: str | None = "extractkit.models.in_memory.live_model(model, state='{}')",
    kind: type[KerasModel] = KerasModel,
) -> KerasModel:
    """Wrap a model, or a layer, of Keras 3 or tf-keras, of any kind.

    Args:
        example: Arrays that it can be called with. A subclassed model that does not know its
            inputs takes them from these. Optional inputs without an array are omitted.
        input_axes: The parsed `model.input_axes`. Optional inputs that it does not name are
            omitted.
        checkpoints: Several sets of weights to load one after the other.
        load: Loads other weights into the model once its variables exist.
        reload: See `KerasModel`.
        state: The state that each call of stateful layers starts from: "reset" or "carry". None
            is "reset" with a warning.
        state_setting: How `state` is given, for that warning. If None, it cannot be given.
        kind: The class of the adapter if no state is carried.

    Raises:
        ModelError: The object is not a Keras model, or its inputs are not known.
        ConfigError: The inputs do not fit the model, or the state does not exist.
    """
    dialect = dialect_of(model)
    if dialect is None:
        raise ModelError(
            f"model={type(model).__name__} is not a Keras model. Give a keras.Model, or an adapter "
            f"with extractkit's Model protocol"
        )
    layers = stateful_layers(model, dialect)
    if check_state(state) == CARRY:
        check_carried(layers, checkpoints, getattr(model, "name", name))
        kind = CarryingModel
    elif layers and state is None:
        warn(layers, state_setting)
    structure = input_structure(model, example, input_axes)
    structure = with_free_rows(structure, input_axes or {}, bool(layers))
    optional = optional_inputs(model, structure)
    named = input_axes or (example if isinstance(example, Mapping) else None)
    omitted = optional - named.keys() if named else frozenset()
    taken = signature(name, structure, input_axes, omitted)
    wrapped = kind(
        name=name,
        keras_model=model,
        dialect=dialect,
        signature=replace(taken, optional=optional - omitted),
        pack=packer(structure, omitted),
        origin=origin or {},
        checkpoints=checkpoints,
        reload=reload,
        stateful=tuple(layers),
    )
    if load is not None:
        # A subclassed model has no weights before its first call. It is traced again afterwards.
        wrapped.build()
        load()
    return wrapped.settled()


def trained_model(model: object, steps: CheckpointAxis, example: object = None) -> Model:
    """Wrap a Keras model that is being trained.

    Args:
        steps: The steps of the training, each with the weights that the model has then.
        example: Arrays that it can be called with; see `live_model`.

    Raises:
        ModelError: The model is trained on several devices, or its inputs are not known.
    """
    check_one_replica(model)
    wrapped = live_model(model, _NAME, example=example, state_setting=None, kind=TrainedModel)
    return replace(wrapped, checkpoints=steps)


def traced_model(
    name: str,
    built: Any,
    signature: str | None,
    settings: Any,
    origin: dict[str, object],
    constants: Mapping[str, object] | None = None,
) -> Model:
    """Trace a callable, or one of its methods, and wrap the graph.

    Args:
        name: The model's name.
        built: A callable, or values.
        signature: The method to call. If None, the object itself.
        settings: The parsed `model.input_axes`.
        origin: The manifest's entry on where the model comes from.
        constants: Values of arguments that are the same for every sample, by name.

    Raises:
        ConfigError: Inputs or constants do not exist or do not fit.
        ModelError: The callable cannot be called or traced.
    """
    from extractkit.models.functions import inputs_of, outputs_of
    from extractkit.models.functions.callables import (
        bound,
        constant_function,
        graph_function,
        is_value,
        method_of,
        traced,
    )

    method = constant_function(built) if is_value(built) else method_of(built, signature)
    # A concrete function is already traced, and declares its inputs.
    concrete = method if hasattr(method, "structured_input_signature") else None
    if concrete is None:
        method, constants = bound(method, constants, settings)
        concrete = traced(method, settings)
    return graph_function(
        name,
        concrete,
        inputs_of(concrete),
        outputs_of(concrete),
        settings=settings,
        constants=constants,
        origin=origin,
        keep=(built, concrete),
    )
