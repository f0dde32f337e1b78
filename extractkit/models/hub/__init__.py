"""`model=keras_hub`: any preset of keras-hub, or a local directory that keras-hub reads.

keras-hub is imported late, so that a wrong path is reported at once.
"""

import importlib.util
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extractkit.advice import override
from extractkit.errors import ConfigError, MissingExtraError, ModelError, UserError
from extractkit.models.foreign import error_summary
from extractkit.models.given_weights import given_weights
from extractkit.models.recognition import (
    held,
    refuse_missing,
    refuse_others,
    refuse_unknown,
    refuse_unreachable,
)
from extractkit.models.tensorflow_process import check_seed, quiet_start

if TYPE_CHECKING:
    from extractkit.models.keras_models.model import KerasModel


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


def require_keras_hub(model: str, extra: str) -> None:
    """Check that keras-hub and its readers of Hugging Face's layout are installed.

    Raises:
        MissingExtraError: A package of that extra is not installed.
    """
    for module in ("keras_hub", "safetensors", "tokenizers"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(
                f"model={model} needs {module}, which is not installed. Install it: "
                f"python -m pip install 'extractkit[{extra}]'"
            )


def _takes(model: str) -> str:
    return (
        f"model={model} takes a directory with {_CONFIG} and weights, in keras-hub's or Hugging "
        f"Face's layout, or the name of a preset"
    )


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
    """Load the model of a preset, for texts or images as the preset prepares them.

    Args:
        path: A directory written by `save_to_preset` or in Hugging Face's layout, or the name of a
            preset, which keras-hub downloads.
        task: A task of `keras_hub.models` ("CausalLM"), with backbone and head. If None, the
            backbone only.
        max_length: The longest text in tokens, special ones included. The rest is cut off. If
            None, the model's number of positions, or otherwise the preset's sequence length.
        preprocess: Whether to rescale images of pixels 0 … 255 by the preset's rule.
        seed: The seed of a head's random weights if the preset has none.
        checkpoint: Weights of the whole model to load in place of the preset's.
        checkpoints, checkpoint_step: Several of them; see `given_weights`.

    Raises:
        MissingExtraError: keras-hub or a reader of Hugging Face's layout is not installed.
        ModelError: keras-hub cannot read the model.
        ConfigError: The task does not exist, or a length or seed is out of range.
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
    # Imported late: TensorFlow and keras-hub take seconds, and arguments are checked first.
    with quiet_start():
        import keras

        from extractkit.models.hub_backbones import head_is_random, read_backbone, read_task
        from extractkit.models.hub_model import (
            image_model,
            preset_signature,
            takes_images,
            text_model,
        )
        from extractkit.models.keras_models.loading import ReloadedModel, reloaded
        from extractkit.models.keras_models.weights import load_weights

    def read() -> Any:
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
