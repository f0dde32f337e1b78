"""The library transformers, a directory in its layout, and its names of weights.

PyTorch is not needed to read weights with its names: transformers translates its names and
transposes NumPy arrays.
"""

import importlib.util
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from extractkit.advice import override
from extractkit.core.extras import install
from extractkit.core.values import Array
from extractkit.errors import MissingExtraError, ModelError
from extractkit.models.failures import error_summary
from extractkit.models.recognition import (
    held,
    refuse_missing,
    refuse_others,
    refuse_unknown,
    refuse_unreachable,
)

_LAST = 4
_INSTALL = install("model=hugging_face")
_OWN_ENVIRONMENT = (
    f"In an environment of its own, since it needs older packages than the other extras: {_INSTALL}"
)


def require_transformers() -> None:
    """Check that tf-keras and a transformers with TensorFlow models are installed.

    Raises:
        MissingExtraError: One of them is not installed, or transformers is 5 or newer.
    """
    try:
        installed = version("transformers")
    except PackageNotFoundError:
        raise MissingExtraError(
            f"model=hugging_face needs transformers {_LAST}, which is not installed. "
            f"{_OWN_ENVIRONMENT}"
        ) from None
    major = installed.partition(".")[0]
    if major.isdecimal() and int(major) > _LAST:
        raise MissingExtraError(
            f"model=hugging_face needs transformers {_LAST}, the last with TensorFlow models; "
            f"installed is {installed}. {_OWN_ENVIRONMENT}. What keras-hub reads needs no "
            f"transformers: model=keras_hub model.path=DIR"
        )
    if importlib.util.find_spec("tf_keras") is None:
        raise MissingExtraError(
            f"model=hugging_face needs tf-keras, which is not installed. Install it: {_INSTALL}"
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Suppress transformers' deprecation warnings while it is imported and used in the block.

    Raises:
        MissingExtraError: The installed version cannot be imported.
    """
    try:
        from transformers.utils import logging
    except ImportError as error:
        raise MissingExtraError(
            f"transformers cannot be imported: {error_summary(error)}. {_OWN_ENVIRONMENT}"
        ) from error
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


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
# NAME or OWNER/NAME of a model on a hub.
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True)
class ModelDirectory:
    """A local directory with a transformers model.

    Attributes:
        path: The directory.
        at: Its name in messages.
        config: The content of `config.json`.
    """

    path: Path
    at: str
    config: Mapping[str, Any]

    @property
    def architectures(self) -> tuple[str, ...]:
        """The names of the model's classes in `config.json`."""
        names = self.config.get("architectures")
        return tuple(map(str, names)) if isinstance(names, list) else ()

    @property
    def model_type(self) -> str:
        """The kind of model ("bert"), or "" if `config.json` has none."""
        return str(self.config.get("model_type", ""))

    @property
    def has_tokenizer(self) -> bool:
        """Whether the directory has files of a tokenizer."""
        return any((self.path / name).is_file() for name in _TOKENIZERS)

    @property
    def has_image_processor(self) -> bool:
        """Whether the directory has settings of an image processor."""
        return "image_processor_type" in self.preprocessor or (
            "feature_extractor_type" in self.preprocessor and "image_mean" in self.preprocessor
        )

    @property
    def preprocessor(self) -> Mapping[str, Any]:
        """The content of `preprocessor_config.json`, or an empty mapping.

        Raises:
            ModelError: It is damaged.
        """
        file = self.path / IMAGE_PROCESSOR
        return _read(file, self.at) if file.is_file() else {}

    @property
    def weights(self) -> Path:
        """Return the file with the weights, or their index.

        Raises:
            ModelError: There is no file in a supported format.
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
        raise ModelError(f"{at}: {file.name} is damaged: {error_summary(error)}") from error
    if not isinstance(content, dict):
        raise ModelError(
            f"{at}: {file.name} holds a {type(content).__name__}, where settings should be"
        )
    return content


_LIBRARY = "transformers"
_BASE = "TFPreTrainedModel"

Arranged = tuple[Any, Callable[[Array], Array]]
"""A variable of the model, and the function that converts a stored array to its axes."""


def is_of_transformers(model: Any) -> bool:
    """Return whether a model is a transformers model, which has its own naming of weights."""
    return any(
        base.__name__ == _BASE and base.__module__.partition(".")[0] == _LIBRARY
        for base in type(model).__mro__
    )


def are_pytorch_names(keys: Sequence[str]) -> bool:
    """Return whether keys are attributes of a PyTorch module: `encoder.layer.0.query.weight`."""
    return any("." in key for key in keys) and not any("/" in key for key in keys)


def variables_by_pytorch_name(model: Any, keys: Sequence[str]) -> dict[str, Arranged]:
    """Return the model's variables by the keys of the same model in PyTorch.

    Args:
        model: A transformers model.
        keys: The keys of the file. Those without a counterpart are ignored.
    """
    from transformers.modeling_tf_pytorch_utils import (
        apply_transpose,
        convert_tf_weight_name_to_pt_weight_name,
    )

    stored = {_current_key(key): key for key in keys}
    base = str(model.base_model_prefix)
    # A PyTorch model without a head has no prefix for its base model.
    removed = "" if any(name.startswith(base) for name in stored) else f"{base}."
    # Models with differently structured names define their own translation.
    rename = getattr(model, "tf_to_pt_weight_rename", None)
    found: dict[str, Arranged] = {}
    for variable in model.weights:
        shape = tuple(variable.shape)
        name, transpose = convert_tf_weight_name_to_pt_weight_name(variable.name, removed, shape)
        names = rename(name) if rename else (name,)
        key = next((stored[one] for one in names if one in stored), None)
        if key is not None:
            found[key] = (variable, partial(_arranged, apply_transpose, transpose, shape))
    return found


def may_be_missing(model: Any, path: str) -> bool:
    """Return whether transformers itself allows a variable to keep its initial value."""
    from extractkit.models.keras_internals import keys_to_ignore

    patterns, _ = keys_to_ignore(model)
    return any(re.search(pattern, path) for pattern in patterns)


def may_be_left(model: Any, key: str, dtype: str) -> bool:
    """Return whether a weight of a file may be unused by a transformers model.

    These are the weights of a head that the model lacks, and integer buffers of PyTorch, such as
    masks and positions.
    """
    from extractkit.models.keras_internals import keys_to_ignore

    _, patterns = keys_to_ignore(model)
    whole = dtype.startswith(("int", "uint", "bool"))
    return whole or any(re.search(pattern, key) for pattern in patterns)


# As in `load_pytorch_state_dict_in_tf2_model` of transformers.
_RENAMED: Mapping[str, str] = {
    "gamma": "weight",
    "beta": "bias",
    "running_var": "moving_variance",
    "running_mean": "moving_mean",
}
_NORMED = {"original0": "_g", "original1": "_v"}


def _current_key(key: str) -> str:
    """Return a key in the form of current PyTorch models."""
    *parts, kind, last = ["", *key.split(".")]
    if kind == "weight" and parts[-1:] == ["parametrizations"] and last in _NORMED:
        return ".".join([*parts[1:-1], kind + _NORMED[last]])
    for old, new in _RENAMED.items():
        key = key.replace(old, new)
    return key


def _arranged(
    transposing: Callable[..., Any], transpose: Any, shape: tuple[int, ...], array: Array
) -> Array:
    arranged: Array = np.asarray(transposing(transpose, array, shape))
    return arranged
