"""`model=module`: a `tf.Module`, function, layer or values that a Python callable builds."""

from collections.abc import Mapping
from typing import Annotated, Any

from extractkit.core.component import Component
from extractkit.core.keys import DecidesValues
from extractkit.errors import ConfigError, ModelError, UserError
from extractkit.models import Model
from extractkit.models.failures import error_summary
from extractkit.models.process import check_seed, quiet_start
from extractkit.models.signature import InputAxes, parse_input_axes

_NAME = "module"


def load(
    factory: DecidesValues[Annotated[Component | None, "mapping or null"]] = None,
    signature: DecidesValues[str | None] = None,
    input_axes: DecidesValues[InputAxes] = None,
    constants: DecidesValues[Mapping[str, object] | None] = None,
    eager: DecidesValues[bool] = False,
    seed: DecidesValues[int] = 0,
) -> Model:
    """Wrap the result of a factory as a `Model`.

    Args:
        factory: The `_target_` of the callable that builds it, and its arguments. With `_partial_:
            true` the callable itself is the model.
        signature: The method to call. If None, the object itself.
        input_axes: The arguments that get samples, their axes and dtypes: {x: {dims: [sample, time,
            4], dtype: float32}}.
        constants: Values of arguments that are the same for every sample, by name: {scale: 2.0}.
        eager: Whether to run it operation by operation instead of tracing it.
        seed: The seed of every random generator, set before the factory is called.

    Raises:
        ConfigError: The target cannot be called with these arguments; inputs or constants do not
            exist or do not fit; `eager` is neither true nor false.
        ModelError: The result cannot be called or traced.
    """
    if not isinstance(factory, Component):
        raise ConfigError(
            f"model.factory={factory!r} is not a callable. Name one: "
            f"model.factory._target_=package.module.function (with model.factory._partial_=true "
            f"the function is the model itself)"
        )
    if not isinstance(eager, bool):
        raise ConfigError(f"model.eager={eager!r} is not true or false")
    settings = parse_input_axes(input_axes)
    check_seed(seed)
    with quiet_start():
        import keras
    keras.utils.set_random_seed(seed)
    # Not within quiet_start: the output of user code is for the user.
    built = _built(factory)
    origin: dict[str, object] = {"factory": factory.target, "seed": seed, "eager": eager}
    origin |= {"class": _kind(built), **({"constants": dict(constants)} if constants else {})}
    if eager:
        from extractkit.models.functions.eager import eager_model

        return eager_model(_NAME, built, signature, settings, constants, origin)
    from extractkit.models.in_memory import live_model, traced_model
    from extractkit.models.keras_models.dialects import dialect_of

    if dialect_of(built) is not None and signature is None:
        if constants:
            raise ConfigError(
                "model.constants is for functions, and model.factory gives a model or layer of "
                "Keras. Name the method to call instead: model.signature=call"
            )
        setting = "model=keras in place of model=module, and model.state={}"
        return live_model(
            built, name=_NAME, origin=origin, input_axes=settings, state_setting=setting
        )
    return traced_model(_NAME, built, signature, settings, origin, constants)


def _built(factory: Component) -> Any:
    try:
        return factory.instantiate()
    except UserError:
        raise
    except Exception as error:  # user code may raise anything
        raise ModelError(
            f"model.factory._target_={factory.target!r} failed: {error_summary(error)}"
        ) from error


def _kind(built: object) -> str:
    return f"{type(built).__module__}.{type(built).__name__}"
