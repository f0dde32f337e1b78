"""A preset of keras-hub: found by name or in a directory, with its settings."""

import importlib.util
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from extractkit.advice import override
from extractkit.errors import MissingExtraError, ModelError, UserError
from extractkit.models.foreign import error_summary
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
