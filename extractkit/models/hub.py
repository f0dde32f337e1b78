"""`model=keras_hub`: any preset of keras-hub, or a local directory that keras-hub reads.

keras-hub is imported late, so that a wrong path is reported at once.
"""

from typing import TYPE_CHECKING, Any

from extractkit.core.checkpoints import CheckpointFiles, StepPattern
from extractkit.core.keys import DecidesValues
from extractkit.errors import ConfigError
from extractkit.models.given_weights import given_weights
from extractkit.models.hub_preset import find_preset, require_keras_hub
from extractkit.models.process import check_seed, kernels_kept, quiet_start

if TYPE_CHECKING:
    from extractkit.models.keras_models.model import KerasModel

NAME = "keras_hub"


def load(
    path: DecidesValues[str],
    task: DecidesValues[str | None] = None,
    max_length: DecidesValues[int | None] = None,
    preprocess: DecidesValues[bool] = True,
    seed: DecidesValues[int] = 0,
    checkpoint: DecidesValues[str | None] = None,
    checkpoints: DecidesValues[CheckpointFiles] = None,
    checkpoint_step: DecidesValues[StepPattern] = None,
) -> "KerasModel":
    """Load the model of a preset, for texts or images as the preset prepares them.

    Args:
        path: A directory written by `save_to_preset` or in Hugging Face's layout, or the name of a
            preset, which keras-hub downloads.
        task: A task of `keras_hub.models` ("CausalLM"), with backbone and head. If None, the
            backbone only.
        max_length: The longest text in tokens, special ones included. The rest is cut off. If None,
            the model's number of positions, or otherwise the preset's sequence length.
        preprocess: Whether to rescale images of pixels 0 … 255 by the preset's rule.
        seed: The seed of a head's random weights if the preset has none.
        checkpoint: Weights of the whole model to load in place of the preset's.
        checkpoints: Many of them as an axis: a pattern ('steps/*.weights.h5'), or a list.
        checkpoint_step: A regular expression for their steps: 'step_([0-9]+)'.

    Raises:
        MissingExtraError: keras-hub or a reader of Hugging Face's layout is not installed.
        ModelError: keras-hub cannot read the model.
        ConfigError: The task does not exist, or a length or seed is out of range.
    """
    check_seed(seed)
    if not isinstance(preprocess, bool):
        raise ConfigError(f"model.preprocess={preprocess!r} is not true or false")
    require_keras_hub(NAME)
    preset = find_preset(NAME, path)
    weights = given_weights(
        checkpoint,
        checkpoints,
        checkpoint_step,
        lambda found, key: load_weights(model, found, key),
    )
    # Imported late: TensorFlow and keras-hub take seconds, and arguments are checked first.
    with quiet_start():
        import keras

        from extractkit.models.hub_model import (
            image_model,
            preset_signature,
            takes_images,
            text_model,
        )
        from extractkit.models.hub_preset import head_is_random, read_backbone, read_task
        from extractkit.models.keras_models.loading import ReloadedModel, reloaded
        from extractkit.models.keras_models.weights import load_weights

    def read() -> Any:
        with kernels_kept():  # the operations by which Keras draws weights have no state
            keras.utils.set_random_seed(seed)
        return read_backbone(preset) if task is None else read_task(preset, task)

    def reload(checkpoint: int | None) -> ReloadedModel:
        made_by = f"keras_hub.models.{task or 'Backbone'}.from_preset"
        return reloaded(read(), made_by, weights, checkpoint)

    model = read()
    origin: dict[str, object] = {"path": preset.name, "task": task, **weights.origin}
    if task is not None:
        origin |= {"head_is_random": head_is_random(preset, model), "seed": seed}
    weights.load()
    backbone = model if task is None else model.backbone
    if takes_images(preset_signature(NAME, model, backbone).specs):
        if max_length is not None:
            raise ConfigError(
                f"model.max_length={max_length!r} is for texts; model.path={preset.name!r} takes "
                f"images"
            )
        return image_model(preset, model, preprocess, origin, weights.axis, reload)
    return text_model(preset, model, max_length, origin, weights.axis, reload)
