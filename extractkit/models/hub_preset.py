"""A preset of keras-hub: found by name or in a directory, and the backbone or task built from it.

keras-hub is imported late, so that a wrong path is reported at once.
"""

import functools
import importlib.util
import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from extractkit.advice import override
from extractkit.core.extras import install
from extractkit.errors import ConfigError, MissingExtraError, ModelError, UserError, choices
from extractkit.models.failures import error_summary
from extractkit.models.recognition import (
    held,
    refuse_missing,
    refuse_others,
    refuse_unknown,
    refuse_unreachable,
)

_CONFIG = "config.json"
_RELEASE = "bert_config.json"
_DOWNLOADED = ("kaggle://", "modelscope://", "gs://")
"""Schemes that keras-hub downloads. `hf://` is refused: its settings could not be checked."""


@dataclass(frozen=True)
class Preset:
    """A preset named by `model.path`.

    Attributes:
        model: The chosen entry of the `model` group, for messages.
        name: The name for keras-hub: a directory, or a preset to download.
        directory: The local directory, or None.
    """

    model: str
    name: str
    directory: Path | None = None

    def prescribed_tokenizer(self) -> tuple[Any, str] | None:
        """Return the tokenizer that the directory's layout prescribes and its digest, if any."""
        return None

    def has(self, *files: str) -> bool:
        """Return whether one of the files exists. A preset to download is assumed complete."""
        return self.directory is None or any((self.directory / file).is_file() for file in files)

    @property
    def is_hugging_face(self) -> bool:
        """Return whether it is a directory in Hugging Face's layout, which keras-hub converts."""
        return "model_type" in self.config

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The content of `config.json` of a local directory, or an empty mapping."""
        if self.directory is None:
            return {}
        with self.reading():
            return dict(json.loads((self.directory / _CONFIG).read_text(encoding="utf-8")))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Convert the errors of readers within the block to a ModelError."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # third-party readers raise errors of many types
            raise ModelError(
                f"model.path={self.name!r} {self._failed} by keras-hub: "
                f"{error_summary(error).removesuffix('.')}. {self._instead(error)}"
            ) from error

    @property
    def _failed(self) -> str:
        return "cannot be read" if self.directory else "cannot be downloaded or read"

    def _instead(self, error: Exception) -> str:
        """Return advice to use transformers, which reads more kinds of models and weights."""
        lacks = isinstance(error, FileNotFoundError) or "no converter" in str(error)
        if lacks and self.directory is not None and "model_type" in _settings(self.directory):
            return (
                f"It is in Hugging Face's layout, of which keras-hub converts some kinds of "
                f"models, with weights in safetensors. With transformers 4: model=hugging_face "
                f"{override('model.path', self.name)}"
            )
        return _takes(self.model)


def _settings(directory: Path) -> Mapping[str, Any]:
    """Return the content of `config.json`, or an empty mapping if it cannot be read."""
    try:
        found = json.loads((directory / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def find_preset(model: str, path: str) -> Preset:
    """Return the preset that `model.path` names.

    Raises:
        ModelError: The directory does not exist or holds no model, or the model is on a hub whose
            settings could not be checked.
    """
    if not path.startswith(_DOWNLOADED):
        refuse_unreachable(path)
    local = Path(path).expanduser()
    if local.is_dir():
        if not (local / _CONFIG).is_file():
            if (local / _RELEASE).is_file():
                raise ModelError(
                    f"model.path={path!r} is a BERT as Google released it. That is for model=bert "
                    f"{override('model.path', path)}"
                )
            refuse_others(path, model)
            raise ModelError(
                f"model.path={path!r} has no {_CONFIG}. {held(local, _CONFIG)} {_takes(model)}"
            )
        refuse_others(path, "keras_hub", "bert", "hugging_face")
        return Preset(model, str(local), local)
    if local.exists():
        if (local.parent / _CONFIG).is_file() or (local.parent / _RELEASE).is_file():
            raise ModelError(
                f"model.path={path!r} is a file of a model. Give its folder: "
                f"{override('model.path', local.parent)}"
            )
        refuse_others(path, model)
        refuse_unknown(path, local, "a folder with a preset")
    if path.startswith(_DOWNLOADED) or (local.parent == Path() and not path.startswith((".", "~"))):
        return Preset(model, path)
    refuse_missing(path, model, kind="folders", fits=Path.is_dir)


def require_keras_hub(model: str) -> None:
    """Check that keras-hub and its readers of Hugging Face's layout are installed.

    Raises:
        MissingExtraError: One of them is not installed.
    """
    for module in ("keras_hub", "safetensors", "tokenizers"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(
                f"model={model} needs {module}, which is not installed. Install it: "
                f"{install(f'model={model}')}"
            )


def _takes(model: str) -> str:
    return (
        f"model={model} takes a directory with {_CONFIG} and weights, in keras-hub's or Hugging "
        f"Face's layout, or the name of a preset"
    )


def tasks() -> dict[str, Any]:
    """Return every task of every backbone by name."""
    import keras_hub

    return {
        name: found
        for name, found in _classes(keras_hub.models, keras_hub.models.Task).items()
        if found is not keras_hub.models.Task
    }


def class_for(package: Any, kind: Any, backbone: Any) -> Any:
    """Return the class of this kind for this backbone in a package of keras-hub, or None."""
    for found in _classes(package, kind).values():
        if found.backbone_cls is type(backbone):
            return found
    return None


def _classes(package: Any, kind: Any) -> dict[str, Any]:
    return {
        name: found
        for name, found in vars(package).items()
        if isinstance(found, type) and issubclass(found, kind)
    }


_TANH_GELU = ("gelu_approximate", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")


def configure_bert(backbone: Any, preset: Preset) -> None:
    """Set the activation and the epsilon of a BERT from its `config.json`.

    Other backbones, and keras-hub's own presets, are not changed.

    Raises:
        ModelError: keras-hub cannot build the positions or the activation.
    """
    import keras
    import keras_hub

    from extractkit.models.keras_internals import bert_block, layers_in

    if not (isinstance(backbone, keras_hub.models.BertBackbone) and preset.is_hugging_face):
        return
    positions = preset.config.get("position_embedding_type", "absolute")
    name, known = hidden_activation(preset), _activations()
    if positions != "absolute" or name not in known:
        raise ModelError(
            f"model.path={preset.name!r} has position_embedding_type={positions!r} and "
            f"hidden_act={name!r}; model={preset.model} takes 'absolute' and one of "
            f"{', '.join(known)}"
        )
    for layer in backbone.transformer_layers:
        # keras-hub builds every BERT with the tanh approximation.
        bert_block(layer).intermediate.activation = known[name]
    for layer in layers_in(backbone):
        if isinstance(layer, keras.layers.LayerNormalization):
            layer.epsilon = preset.config.get("layer_norm_eps", 1e-12)


def hidden_activation(preset: Preset) -> str:
    """Return the activation of a BERT's feed-forward layers, by its name in `config.json`."""
    if not preset.is_hugging_face:
        return _TANH_GELU[0]
    # "gelu" is Hugging Face's default.
    return str(preset.config.get("hidden_act", "gelu"))


def _activations() -> dict[str, Any]:
    import keras

    return {
        "gelu": functools.partial(keras.activations.gelu, approximate=False),
        "relu": keras.activations.relu,
        "silu": keras.activations.silu,
        "swish": keras.activations.silu,
        **dict.fromkeys(_TANH_GELU, functools.partial(keras.activations.gelu, approximate=True)),
    }


_log = logging.getLogger(__name__)

_UNFIT = re.compile(r"Unable to find a subclass of \w+ that is compatible with (\w+)")


def read_backbone(preset: Preset) -> Any:
    """Return the `keras_hub.models.Backbone` of a preset, with its weights.

    Raises:
        ModelError: The preset does not exist, or keras-hub cannot read it.
    """
    import keras_hub

    from extractkit.models.keras_models.loading import with_stored_weights

    _check_name(preset)
    with preset.reading():
        backbone = with_stored_weights(lambda: keras_hub.models.Backbone.from_preset(preset.name))
    configure_bert(backbone, preset)
    return backbone


def read_task(preset: Preset, task: str) -> Any:
    """Return a `keras_hub.models.Task` (backbone and head) of a preset.

    A head without weights in the preset gets random ones, which is logged.

    Raises:
        ConfigError: keras-hub has no such task, or none for this backbone.
        ModelError: The preset does not exist, or keras-hub cannot read it.
    """

    known = tasks()
    if task not in known:
        raise ConfigError(f"model.task={task!r} is not a task of keras-hub. {choices(task, known)}")
    _check_name(preset)
    with preset.reading():
        try:
            # Preprocessors of texts and images are loaded separately from the model.
            model = known[task].from_preset(preset.name, preprocessor=None)
        except ValueError as error:
            if unfit := _UNFIT.search(str(error)):
                raise ConfigError(_no_such_task(task, unfit[1])) from error
            raise
        except TypeError as error:
            raise ModelError(
                f"model.path={preset.name!r} does not describe how to make the head of model."
                f"task={task}: {error_summary(error)}. Save the task itself: "
                f"task.save_to_preset(DIR)"
            ) from error
    configure_bert(model.backbone, preset)
    if head_is_random(preset, model):
        _log.warning(
            "model.path=%r holds no weights for the head of %s: they are random",
            preset.name,
            type(model).__name__,
        )
    return model


def head_is_random(preset: Preset, task: Any) -> bool:
    """Return whether a task has a head whose weights are not in its directory."""
    converted = "ForImageClassification" in str(preset.config.get("architectures", ""))
    return bool(task.has_task_weights()) and not converted and not preset.has("task.weights.h5")


def _check_name(preset: Preset) -> None:
    if preset.directory is not None or "://" in preset.name:
        return  # to list keras-hub's own presets takes a moment
    import keras_hub

    presets = keras_hub.models.Backbone.presets
    if preset.name not in presets:
        here = [one.name for one in Path.cwd().iterdir() if one.is_dir() and one.name[0] != "."]
        raise ModelError(
            f"model.path={preset.name!r} is neither a folder nor a preset of keras-hub. "
            f"{choices(preset.name, presets)} Folders here: {choices(preset.name, here)}"
        )


def _no_such_task(task: str, backbone: str) -> str:
    fitting = [
        name
        for name, value in tasks().items()
        if value.backbone_cls is not None and value.backbone_cls.__name__ == backbone
    ]
    return f"model.task={task!r} does not exist for a {backbone}. {choices(task, fitting)}"
