"""`model=keras_hub`: any preset of keras-hub, or a local directory that keras-hub reads.

keras-hub itself is not imported here: a mistake in the path is told at once.
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
"""What keras-hub downloads. It would download `hf://`, too, but its settings would go unseen."""


@dataclass(frozen=True)
class Preset:
    """A preset that somebody named.

    Attributes:
        model: the chosen entry of the `model` group, for messages.
        name: as keras-hub takes it: a directory, or a preset that it downloads.
        directory: the local directory; None where it is none.
    """

    model: str
    name: str
    directory: Path | None = None

    def has(self, *files: str) -> bool:
        """Return whether one of the files is there; what is not local is taken to be complete."""
        return self.directory is None or any((self.directory / file).is_file() for file in files)

    @property
    def is_hugging_face(self) -> bool:
        """Return whether it is a directory in Hugging Face's layout, which keras-hub converts."""
        return "model_type" in self.config

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """`config.json` of a local directory; empty where there is none."""
        if self.directory is None:
            return {}
        with self.reading():
            return dict(json.loads((self.directory / _CONFIG).read_text(encoding="utf-8")))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Raise a ModelError for whatever the readers inside raise."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # readers of third parties raise what their formats' readers do
            raise ModelError(
                f"model.path={self.name!r} {self._failed} by keras-hub: "
                f"{error_summary(error).removesuffix('.')}. {self._instead(error)}"
            ) from error

    @property
    def _failed(self) -> str:
        return "cannot be read" if self.directory else "cannot be downloaded or read"

    def _instead(self, error: Exception) -> str:
        """What to try where keras-hub fails: transformers reads more kinds and files of weights."""
        lacks = isinstance(error, FileNotFoundError) or "no converter" in str(error)
        if lacks and self.directory is not None and "model_type" in _settings(self.directory):
            return (
                f"It is in Hugging Face's layout, of which keras-hub converts some kinds of "
                f"models, with weights in safetensors. With transformers 4: model=hugging_face "
                f"{override('model.path', self.name)}"
            )
        return _takes(self.model)


def _settings(directory: Path) -> Mapping[str, Any]:
    """Return what `config.json` holds; nothing where it cannot be read."""
    try:
        found = json.loads((directory / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def find_preset(model: str, path: str) -> Preset:
    """Return the preset that `model.path` names.

    Raises:
        ModelError: a directory that is not there or holds no model, or a model on a hub of which
            the settings would go unseen.
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
    """Refuse to go on without keras-hub, and what it reads Hugging Face's layout with.

    Raises:
        MissingExtraError: one of the packages of that extra is not installed.
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
    """Return a model out of a preset, ready for what its preset prepares: texts or images.

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
