"""Keras models in memory, wrapped as a `Model`."""

from collections.abc import Callable, Mapping

from extractkit.errors import ModelError
from extractkit.models.axes import InputSetting
from extractkit.models.given_weights import WeightFiles
from extractkit.models.keras_models.carrying import CarryingModel
from extractkit.models.keras_models.catalog import (
    input_structure,
    packer,
    signature,
    with_free_rows,
)
from extractkit.models.keras_models.dialects import dialect_of
from extractkit.models.keras_models.loading import Reload
from extractkit.models.keras_models.model import KerasModel
from extractkit.models.keras_models.stateful import check_carried, stateful_layers, warn
from extractkit.models.state import CARRY, check_state


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
    state_setting: str | None = "extractkit.models.live.live_model(model, state='{}')",
) -> KerasModel:
    """Wrap a model, or a layer, of Keras 3 or tf-keras, of any kind.

    Args:
        example: Arrays that it can be called with. A subclassed model that does not know its
            inputs takes them from these.
        input_axes: The parsed `model.input_axes`.
        checkpoints: Several sets of weights to load one after the other.
        load: Loads other weights into the model once its variables exist.
        reload: See `KerasModel`.
        state: The state that each call of stateful layers starts from: "reset" or "carry". None
            is "reset" with a warning.
        state_setting: How `state` is given, for that warning. If None, it cannot be given.

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
    kind = KerasModel
    if check_state(state) == CARRY:
        check_carried(layers, checkpoints, getattr(model, "name", name))
        kind = CarryingModel
    elif layers and state is None:
        warn(layers, state_setting)
    structure = input_structure(model, example, input_axes)
    structure = with_free_rows(structure, input_axes or {}, bool(layers))
    wrapped = kind(
        name=name,
        keras_model=model,
        dialect=dialect,
        signature=signature(name, structure, input_axes),
        pack=packer(structure),
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
