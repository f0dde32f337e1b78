"""`model=keras_hub`: any preset of keras-hub, or a local directory that keras-hub reads."""

from typing import TYPE_CHECKING, Any

from extractkit.errors import ConfigError
from extractkit.models.given_weights import given_weights
from extractkit.models.hub_presets.preset import find_preset, require_keras_hub
from extractkit.models.seeds import check_seed
from extractkit.models.tensorflow_process import quiet_start

if TYPE_CHECKING:
    from extractkit.models.keras_models.model import KerasModel

NAME = "keras_hub"


def load(
    path: str,
    task: str | None = None,
    max_length: int | None = None,
    preprocess: bool = True,
    seed: int = 0,
    checkpoint: str | None = None,
    checkpoints: object = None,
    checkpoint_step: object = None,
) -> "KerasModel":
    """A model out of a preset, ready for what its preset prepares: texts or images.

    Args:
        path: a directory as `save_to_preset` writes it, one in Hugging Face's layout, or the name
            of a preset, which keras-hub downloads.
        task: name of a task in `keras_hub.models` ("CausalLM"): backbone and head; None: the
            backbone alone.
        max_length: longest text in tokens, special ones included; the rest is cut off. None: the
            positions that the model has, or else the length that the preset prepares texts to.
        preprocess: images are pixels 0 … 255, rescaled as the preset says; false: the model takes
            them as they are.
        seed: of the random weights of a head that the preset holds none for.
        checkpoint: weights of the whole model to load in place of the preset's.
        checkpoints, checkpoint_step: many of them, one after the other; see `given_weights`.

    Raises:
        MissingExtraError: keras-hub, or what it reads Hugging Face's layout with, is not installed.
        ModelError: nothing there that keras-hub can read.
        ConfigError: a task that does not exist, a length or a seed out of range.
    """
    check_seed(seed)
    if not isinstance(preprocess, bool):
        raise ConfigError(f"model.preprocess={preprocess!r} is not true or false")
    require_keras_hub(NAME, "keras-hub")
    preset = find_preset(NAME, path)
    weights = given_weights(
        checkpoint,
        checkpoints,
        checkpoint_step,
        lambda found, key: load_weights(model, found, key),
    )
    # Imported only now: TensorFlow and keras-hub take seconds, checking arguments none.
    with quiet_start():
        import keras

        from extractkit.models.hub_presets.inputs import preset_signature, takes_images
        from extractkit.models.hub_presets.model import image_model, text_model
        from extractkit.models.hub_presets.reading import head_is_random, read_backbone, read_task
        from extractkit.models.keras_models.again import LoadedAgain, loaded_again
        from extractkit.models.keras_models.weights import load_weights

    def read() -> Any:
        keras.utils.set_random_seed(seed)
        return read_backbone(preset) if task is None else read_task(preset, task)

    def again(checkpoint: int | None) -> LoadedAgain:
        made_by = f"keras_hub.models.{task or 'Backbone'}.from_preset"
        return loaded_again(read(), made_by, weights, checkpoint)

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
        return image_model(preset, model, preprocess, origin, weights.axis, again)
    return text_model(preset, model, max_length, origin, weights.axis, again)
