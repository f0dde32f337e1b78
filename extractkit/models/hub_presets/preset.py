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
    refuse_remote,
    refuse_unknown,
)

_CONFIG = "config.json"


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
        """Tell whatever the readers inside raise as a ModelError."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # readers of third parties raise what their formats' readers do
            raise ModelError(
                f"model.path={self.name!r} cannot be read by keras-hub: {told(error)}. "
                f"{_takes(self.model)}"
            ) from error


def find_preset(model: str, path: str) -> Preset:
    """The preset that `model.path` names.

    Raises:
        ModelError: a directory that is not there or holds no model, or a model on a hub of which
            the settings would go unseen.
    """
    if path.startswith("hf://"):
        refuse_remote(path)
    local = Path(path).expanduser()
    if local.is_dir():
        if not (local / _CONFIG).is_file():
            if (local / "bert_config.json").is_file():
                raise ModelError(
                    f"model.path={path!r} is a BERT as Google released it. That is for model=bert "
                    f"{override('model.path', path)}"
                )
            refuse_others(path, model)
            raise ModelError(
                f"model.path={path!r} has no {_CONFIG}. {held(local, _CONFIG)} {_takes(model)}"
            )
        return Preset(model, str(local), local)
    if local.exists():
        if (local.parent / _CONFIG).is_file():
            raise ModelError(
                f"model.path={path!r} is a file of a preset. Give its folder: "
                f"{override('model.path', local.parent)}"
            )
        refuse_others(path, model)
        refuse_unknown(path, local, "a folder with a preset")
    if "://" in path or (local.parent == Path() and not path.startswith((".", "~"))):
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
