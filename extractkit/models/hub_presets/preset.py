"""Where a preset of keras-hub is: its name, or a directory in keras-hub's or Hugging Face's layout.

keras-hub itself is not imported here: a mistake in the path is told at once.
"""

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
from extractkit.models.foreign import told
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
        """Whether one of the files is there; what is not local is taken to be complete."""
        return self.directory is None or any((self.directory / file).is_file() for file in files)

    @property
    def is_hugging_face(self) -> bool:
        """Whether it is a directory in Hugging Face's layout, which keras-hub converts."""
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
                f"{told(error).removesuffix('.')}. {self._instead(error)}"
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
    """What `config.json` holds; nothing where it cannot be read."""
    try:
        found = json.loads((directory / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def find_preset(model: str, path: str) -> Preset:
    """The preset that `model.path` names.

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
