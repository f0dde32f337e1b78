"""`model=keras`: a file saved by Keras, or an architecture built in Python and a checkpoint."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

from extractkit.core.checkpoints import CheckpointFiles, StepPattern
from extractkit.core.component import Component
from extractkit.core.keys import DecidesValues
from extractkit.errors import ConfigError, ModelError, UserError
from extractkit.models import KEY as STATE
from extractkit.models import check_state
from extractkit.models.failures import error_summary
from extractkit.models.given_weights import ONE, READ_BY, MovingAverages, given_weights
from extractkit.models.keras_models.saved import CUSTOM_OBJECTS, SavedKeras, open_saved
from extractkit.models.process import check_seed, quiet_start
from extractkit.models.signature import InputAxes, parse_input_axes
from extractkit.models.weight_files import WeightFile, open_weights

if TYPE_CHECKING:
    from extractkit.models.keras_models.model import KerasModel

_FACTORY = "model.factory._target_=package.module.build"


def load(
    path: DecidesValues[str | None] = None,
    factory: DecidesValues[Annotated[object, "mapping or null"]] = None,
    checkpoint: DecidesValues[str | None] = None,
    checkpoints: DecidesValues[CheckpointFiles] = None,
    checkpoint_step: DecidesValues[StepPattern] = None,
    custom_objects: DecidesValues[Mapping[str, object] | None] = MappingProxyType({}),
    safe_mode: DecidesValues[bool] = True,
    input_axes: DecidesValues[InputAxes] = None,
    seed: DecidesValues[int] = 0,
    moving_averages: DecidesValues[Annotated[object, "true, false, text or null"]] = None,
    state: DecidesValues[Annotated[object, "reset, carry or null"]] = None,
) -> "KerasModel":
    """Load a Keras model without compiling it.

    Args:
        path: A `.keras`, `.h5` or `.hdf5` file of Keras 1 to 3 with architecture and weights, or a
            folder saved by Keras 2. Files that Keras 3 refuses are loaded by tf-keras.
        factory: A callable that builds the architecture, instead of a file.
        checkpoint: Weights to load into either: `.weights.h5`, `.h5`, `.keras`, `.safetensors`, a
            TensorFlow checkpoint.
        checkpoints: Many of them as an axis: a pattern ('epochs/*.weights.h5'), or a list.
        checkpoint_step: A regular expression for their steps: 'epoch_([0-9]+)'.
        custom_objects: Dotted paths of classes and functions, by their names in the file: {Name:
            package.module.Name}.
        safe_mode: Whether to refuse a file that contains Python code (Lambda layers).
        input_axes: Axes and dtypes of inputs that the model does not declare: {x: {dims: [sample,
            64, 64, 3]}}.
        seed: The seed of a factory's initial weights.
        moving_averages: Whether to load averages in place of weights, or the averages' name. False:
            do not warn that there are averages.
        state: "reset" starts each call of stateful layers from the initial state, "carry" from the
            state that the previous call left. None is "reset" with a warning.

    Raises:
        ConfigError: Neither a file nor a factory is given, or both are, or a setting does not fit.
        ModelError: The file is missing, damaged, or contains code; the factory does not build a
            Keras model; the checkpoint is of another architecture.
        MissingExtraError: A package that a format needs is not installed.
    """
    check_seed(seed)
    settings = parse_input_axes(input_axes)
    averages = MovingAverages(moving_averages)
    policy = check_state(state)
    architecture = _chosen(path, factory)

    def load_into(found: WeightFile, key: str) -> str:
        if key != ONE:
            derived.before()
        loaded_by = load_weights(model, found, key, averages, saved)
        derived.check(f"{key}={found.path!r}")
        return loaded_by

    def check(found: WeightFile, key: str, paths: Sequence[str]) -> None:
        layers.check(found, key, paths)

    weights = given_weights(checkpoint, checkpoints, checkpoint_step, load_into, check)
    saved = architecture if isinstance(architecture, SavedKeras) else None
    # Imported late: TensorFlow takes seconds to import, and the files are checked first.
    with quiet_start():
        from extractkit.models.in_memory import live_model
        from extractkit.models.keras_models.layer_state import LoadedState
        from extractkit.models.keras_models.loading import (
            ReloadedModel,
            read_again,
            read_model,
            reloaded,
        )
        from extractkit.models.keras_models.old_configs import pruned_layers
        from extractkit.models.keras_models.same_layers import LayerComparison
        from extractkit.models.keras_models.weights import (
            keeps_averages,
            load_weights,
            load_with_keras,
            use_optimizer_averages,
        )

    if saved is not None and saved.is_folder and averages.used and not weights.given:
        raise ModelError(
            f"{saved.at} is a SavedModel: averages of an optimizer are read only from .keras and "
            f".h5 files. Leave model.moving_averages out"
        )
    objects = _imported(custom_objects or {})
    origin: dict[str, object]
    if isinstance(architecture, Component):
        origin = {"factory": architecture.target, "seed": seed, **weights.origin}
        model = _built(architecture, seed)
    else:
        origin = {"path": str(architecture.path.resolve()), **weights.origin}
        model = read_model(architecture, objects, safe_mode)
        if pruned := pruned_layers(architecture, objects):
            origin["pruning_wrappers_stripped"] = pruned
        if not weights.given and (averages.used or keeps_averages(architecture)):
            file = open_weights(str(architecture.path))
            use_optimizer_averages(model, file, architecture, architecture.at, averages)
    layers = LayerComparison(model, saved)

    def load_again(own: Any, found: WeightFile, key: str) -> None:
        if averages.used:  # Keras cannot load averages
            load_weights(own, found, key, averages, saved)
        else:
            load_with_keras(own, found, key)

    def reload(checkpoint: int | None) -> ReloadedModel:
        if isinstance(architecture, Component):
            own, made_by = _built(architecture, seed), architecture.target
        else:
            own = read_again(architecture, objects, safe_mode, model)
            made_by = f"{type(own).__module__.partition('.')[0]}.models.load_model"
            if averages.used and not weights.given:
                file = open_weights(str(architecture.path))
                use_optimizer_averages(own, file, architecture, architecture.at, averages)
                made_by = f"{made_by} and {READ_BY}"
        by = READ_BY if averages.used else None
        return reloaded(own, made_by, weights, checkpoint, load_again, by)

    # A factory's model without given weights exists only in memory.
    in_memory = isinstance(architecture, Component) and not weights.given
    derived = LoadedState(model)
    if not weights.given:
        derived.check(_FACTORY if saved is None else saved.at)
    wrapped = live_model(
        model,
        name="keras",
        origin=origin,
        input_axes=settings,
        checkpoints=weights.axis,
        load=weights.load,
        reload=None if in_memory else reload,
        state=policy,
        state_setting=f"{STATE}={{}}",
    )
    # With several checkpoints the record is filled when the first one is loaded.
    origin["derived_state"] = derived.record
    if averages.record:
        origin["moving_averages"] = averages.record
    return wrapped


def _chosen(path: str | None, factory: object) -> SavedKeras | Component:
    """Return the source of the architecture: a file, or a factory."""
    if (path is None) == (factory is None):
        given = "neither a file nor a factory" if path is None else "both a file and a factory"
        raise ConfigError(f"model=keras is given {given}. Give one: model.path=FILE, or {_FACTORY}")
    if path is not None:
        return open_saved(path)
    if not isinstance(factory, Component):
        raise ConfigError(f"model.factory={factory!r} is not a callable. Give one: {_FACTORY}")
    return factory


def _built(factory: Component, seed: int) -> Any:
    """Return the factory's model, with initial weights drawn from the seed."""
    import keras

    from extractkit.models.keras_models.dialects import dialect_of, unfused_attention

    at = f"{factory.at}._target_={factory.target!r}"
    keras.utils.set_random_seed(seed)
    try:
        with unfused_attention():
            model = factory.instantiate()
    except UserError:
        raise
    except Exception as error:  # user code may raise anything
        raise ModelError(f"{at} failed: {error_summary(error)}") from error
    if dialect_of(model) is None:
        raise ModelError(
            f"{at} returns a {type(model).__name__}, not a Keras model or layer. Anything else is "
            "for "
            f"model=module"
        )
    return model


def _imported(custom_objects: Mapping[str, object]) -> dict[str, Any]:
    """Import the classes and functions of `model.custom_objects`, by their names in the file.

    Raises:
        ConfigError: One of them cannot be imported.
    """
    imported = {}
    for name, given in custom_objects.items():
        # A configuration gives components, which know whether a file names them.
        named = Component(CUSTOM_OBJECTS, given) if isinstance(given, str) else given
        if not isinstance(named, Component):
            raise ConfigError(
                f"{CUSTOM_OBJECTS}.{name}={given!r} is not a dotted path, as in "
                f"package.module.{name}"
            )
        try:
            imported[name] = named.function()
        except ConfigError as error:
            raise ConfigError(
                f"{CUSTOM_OBJECTS}.{name}={named.target!r} cannot be imported: "
                f"{str(error.__cause__ or error).removesuffix('.')}. "
                f"Give the dotted path of a class or function, as in package.module.{name}"
            ) from error
    return imported
