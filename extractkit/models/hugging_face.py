"""`model=hugging_face`: any TensorFlow model of transformers 4 in a local directory."""

from typing import TYPE_CHECKING

from extractkit.core.checkpoints import CheckpointFiles, StepPattern
from extractkit.core.keys import DecidesValues
from extractkit.errors import ConfigError
from extractkit.models.given_weights import given_weights
from extractkit.models.hugging_face_library import (
    find_directory,
    quiet_transformers,
    require_transformers,
)
from extractkit.models.process import quiet_start
from extractkit.models.signature import InputAxes, parse_input_axes
from extractkit.models.weight_files import open_weights

if TYPE_CHECKING:
    from extractkit.models.hugging_face_model import TransformersModel

_NAME = "hugging_face"


def load(
    path: DecidesValues[str],
    architecture: DecidesValues[str | None] = None,
    checkpoint: DecidesValues[str | None] = None,
    checkpoints: DecidesValues[CheckpointFiles] = None,
    checkpoint_step: DecidesValues[StepPattern] = None,
    max_length: DecidesValues[int | None] = None,
    input_axes: DecidesValues[InputAxes] = None,
) -> "TransformersModel":
    """Load a transformers model for texts, images or arrays. Nothing is downloaded.

    Args:
        path: A directory as written by `save_pretrained`: `config.json`, weights of TensorFlow or
            PyTorch (safetensors, or `tf_model.h5`), a tokenizer or image processor.
        architecture: The class, such as "BertForMaskedLM". If None, the one in `config.json`.
        checkpoint: Weights of the whole model to load in place of those in the directory.
        checkpoints: Many of them as an axis: a pattern ('steps/*.safetensors'), or a list.
        checkpoint_step: A regular expression for their steps: 'step_([0-9]+)'.
        max_length: The longest text in tokens. The rest is cut off. If None, the model's limit.
        input_axes: The inputs that get samples: [input_ids]. With their axes: {input_ids: [sample,
            token]}.

    Raises:
        MissingExtraError: transformers 4 or tf-keras is not installed.
        ModelError: The path is not such a directory, there is no TensorFlow class for it, weights
            are missing or do not fit, or the tokenizer or image processor cannot be read.
        ConfigError: A setting does not fit the model.
    """
    if not isinstance(architecture, str | None):
        raise ConfigError(f"model.architecture={architecture!r} is not the name of a class")
    settings = parse_input_axes(input_axes)
    directory = find_directory(path)
    weights = given_weights(
        checkpoint,
        checkpoints,
        checkpoint_step,
        lambda found, key: load_weights(model, found, key),
    )
    own = None
    if checkpoint is None and checkpoints is None:
        own = open_weights(str(directory.weights), "model.path")
    require_transformers()
    with quiet_start(), quiet_transformers():
        from extractkit.models.hugging_face_model import (
            build_model,
            model_class,
            transformers_model,
        )
        from extractkit.models.keras_models.weights import load_weights

    with quiet_transformers():
        kind = model_class(directory, architecture)
        model = build_model(directory, kind)
        if own is not None:
            load_weights(model, own, "model.path")
        weights.load()
        origin: dict[str, object] = {
            "path": str(directory.path.resolve()),
            "architecture": kind.__name__,
            **({} if own is None else {"weights": [str(f.resolve()) for f in own.files]}),
            **weights.origin,
        }
        return transformers_model(
            _NAME, directory, model, settings, max_length, origin, weights.axis
        )
