"""A directory in Hugging Face's layout: settings, weights, what prepares inputs. No TensorFlow."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extractkit.advice import override
from extractkit.errors import ModelError
from extractkit.models.foreign import told
from extractkit.models.recognition import (
    held,
    refuse_missing,
    refuse_others,
    refuse_unknown,
    refuse_unreachable,
)

_CONFIG = "config.json"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "tf_model.h5")
_SHARDED_HDF5 = "tf_model.h5.index.json"
# Pickles, which run code when they are opened.
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
)
IMAGE_PROCESSOR = "preprocessor_config.json"
# NAME, or OWNER/NAME, as models on a hub are called.
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True)
class ModelDirectory:
    """A local directory with a model of transformers.

    Attributes:
        path: the directory.
        at: how messages name it.
        config: what `config.json` holds.
    """

    path: Path
    at: str
    config: Mapping[str, Any]

    @property
    def architectures(self) -> tuple[str, ...]:
        """Names of the classes that the weights are of, as `config.json` has them."""
        names = self.config.get("architectures")
        return tuple(map(str, names)) if isinstance(names, list) else ()

    @property
    def model_type(self) -> str:
        """The kind of model ("bert"); empty where `config.json` does not tell."""
        return str(self.config.get("model_type", ""))

    @property
    def has_tokenizer(self) -> bool:
        """Return whether there are files of a tokenizer."""
        return any((self.path / name).is_file() for name in _TOKENIZERS)

    @property
    def has_image_processor(self) -> bool:
        """Return whether there are the settings that images are prepared by."""
        return "image_processor_type" in self.preprocessor or (
            "feature_extractor_type" in self.preprocessor and "image_mean" in self.preprocessor
        )

    @property
    def preprocessor(self) -> Mapping[str, Any]:
        """Return what `preprocessor_config.json` holds; empty where there is none.

        Raises:
            ModelError: It is damaged.
        """
        file = self.path / IMAGE_PROCESSOR
        return _read(file, self.at) if file.is_file() else {}

    @property
    def weights(self) -> Path:
        """Return the file with the weights, or their index.

        Raises:
            ModelError: There is none that is read.
        """
        for name in _WEIGHTS:
            if (self.path / name).is_file():
                return self.path / name
        if (self.path / _SHARDED_HDF5).is_file():
            raise ModelError(
                f"{self.at} holds its weights as several .h5 files ({_SHARDED_HDF5}), which are "
                f"not read. Save them as safetensors: model.save_pretrained(DIR, "
                f"safe_serialization=True)"
            )
        for name in _PICKLES:
            if (self.path / name).is_file():
                raise ModelError(
                    f"{self.at} holds its weights as {name} alone. That is a pickle, which runs "
                    f"code when it is opened, so extractkit never reads one. Convert it where you "
                    f"trust it: transformers' model.save_pretrained(DIR, safe_serialization=True) "
                    f"writes model.safetensors"
                )
        raise ModelError(
            f"{self.at} has none of {', '.join(_WEIGHTS)}. {held(self.path, _WEIGHTS[0])} Weights "
            f"in a file of another name: model.checkpoint=FILE"
        )


def find_directory(path: str) -> ModelDirectory:
    """Return the directory that `model.path` names.

    Raises:
        ModelError: It does not exist, is a file, or its `config.json` is missing or damaged.
    """
    at = f"model.path={path!r}"
    refuse_unreachable(path)
    local = Path(path).expanduser()
    if not local.exists():
        hub = ""
        if _HUB_NAME.fullmatch(path):
            hub = (
                f" Nothing is downloaded from a hub. If this is a name on one: "
                f"hf download {path} --local-dir DIR, then model.path=DIR"
            )
        refuse_missing(path, "hugging_face", kind="folders", fits=Path.is_dir, more=hub)
    if not local.is_dir():
        if (local.parent / _CONFIG).is_file():
            raise ModelError(
                f"{at} is a file; model=hugging_face takes the folder that {_CONFIG} and the "
                f"weights are in: {override('model.path', local.parent)}"
            )
        refuse_others(path, "hugging_face")
        refuse_unknown(path, local, f"a folder with a {_CONFIG}")
    if not (local / _CONFIG).is_file():
        refuse_others(path, "hugging_face")
        raise ModelError(
            f"{at} has no {_CONFIG}. {held(local, _CONFIG)} model=hugging_face takes a folder "
            f"as model.save_pretrained(DIR) writes it"
        )
    config = _read(local / _CONFIG, at)
    found = ModelDirectory(local, at, config)
    if not found.architectures and not found.model_type:
        refuse_others(path, "hugging_face")
        raise ModelError(
            f"{at}: {_CONFIG} names neither 'architectures' nor a 'model_type', so it is not one "
            f"of transformers. {held(local, _CONFIG)}"
        )
    return found


def _read(file: Path, at: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{at}: {file.name} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{at}: {file.name} is damaged: {told(error)}") from error
    if not isinstance(content, dict):
        raise ModelError(
            f"{at}: {file.name} holds a {type(content).__name__}, where settings should be"
        )
    return content
