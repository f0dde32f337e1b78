"""Models that are already in memory, as `extractkit.extract(model=…)` takes them."""

from extractkit.errors import ModelError
from extractkit.models import Model
from extractkit.models.keras_models.dialects import dialect_of
from extractkit.models.live import live_model

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
    from extractkit.models.module import traced_model

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
