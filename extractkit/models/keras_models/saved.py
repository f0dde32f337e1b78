"""Descriptions of files saved by Keras, read without running their code."""

import json
import re
import shlex
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import h5py

from extractkit.advice import override
from extractkit.core.checkpoints import natural
from extractkit.errors import ModelError, choices
from extractkit.models.failures import error_summary, why_not_unpacked
from extractkit.models.recognition import (
    KERAS_METADATA,
    SAVED_MODELS,
    held,
    recognize,
    refuse_missing,
    refuse_others,
    refuse_unknown,
    refuse_unreachable,
)
from extractkit.models.recognition.content import embedded
from extractkit.models.weight_files.keras_hdf5 import ENDING as ARCHIVE_ENDING
from extractkit.models.weight_files.keras_hdf5 import (
    HDF5_ENDINGS,
    open_archive,
    open_hdf5,
    refuse_bomb,
)
from extractkit.models.weight_files.tensorflow_checkpoint import missing_file
from extractkit.models.weight_files.weight_file import WeightFile

ENDINGS = (ARCHIVE_ENDING, *HDF5_ENDINGS)

ARCHIVE, HDF5 = "Keras archive", "Keras HDF5"
"""Formats of weight files that may also contain the architecture."""

_METADATA = "metadata.json"
_CONFIG = "config.json"
_ASSETS = "assets/"
_WRITTEN_BY = ("keras_version", "backend")
_TRAINING = "training_config"

# Errors of reading JSON and attributes from a damaged file.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
    MemoryError,
)


@dataclass(frozen=True)
class Description:
    """The parts of a saved model other than its weights.

    Attributes:
        config: The serialized architecture.
        assets: Files saved by layers (vocabularies), by name, in natural order.
        major: The major version of the Keras that wrote it, or None.
    """

    config: dict[str, Any]
    assets: Mapping[str, bytes]
    major: int | None

    @classmethod
    def of_archive(cls, file: Path) -> "Description":
        """Read the description in a `.keras` file.

        Raises:
            ModelError: The file is damaged.
        """
        at = repr(str(file))
        try:
            with zipfile.ZipFile(file) as archive:
                refuse_bomb(archive, at)
                names = archive.namelist()
                config = _parsed(at, archive.read(_CONFIG)) if _CONFIG in names else {}
                metadata = _parsed(at, archive.read(_METADATA)) if _METADATA in names else {}
                kept = (name for name in names if name.startswith(_ASSETS) and name[-1] != "/")
                assets = {
                    name.removeprefix(_ASSETS): archive.read(name)
                    for name in sorted(kept, key=natural)
                }
        except _DAMAGE as error:
            raise _damaged(at, error) from error
        return cls(config, assets, _major(str(metadata.get("keras_version", ""))))

    @classmethod
    def of_hdf5(cls, file: Path) -> "Description | None":
        """Read the description in an HDF5 file that can be listed, or None if it has only weights.

        Raises:
            ModelError: The file is damaged.
        """
        at = repr(str(file))
        try:
            with h5py.File(file, "r") as opened:
                config, version = (
                    opened.attrs.get(key) for key in ("model_config", _WRITTEN_BY[0])
                )
        except _DAMAGE as error:
            raise _damaged(at, error) from error
        if config is None:
            return None
        return cls(_parsed(at, _text(config)), {}, _major(_text(version or "")))


@dataclass(frozen=True)
class SavedKeras:
    """A saved model with architecture and weights: a file, or a folder of Keras 2.

    Attributes:
        path: The file or folder.
        at: how messages name it.
        config: The serialized architecture.
        version: The version of the Keras that wrote it ("2.2.4"), or "".
        backend: The backend that it was written with, or "".
        elements: The number of elements of all its arrays, which bounds the size of a weight.
        optimizer: The serialized optimizer of a compiled model, or an empty mapping.
    """

    path: Path
    at: str
    config: dict[str, Any]
    version: str
    backend: str
    elements: int
    optimizer: dict[str, Any] = field(default_factory=dict)

    @property
    def is_hdf5(self) -> bool:
        """Whether it is an HDF5 file of Keras 1 or 2."""
        return self.path.suffix in HDF5_ENDINGS and not self.is_folder

    @property
    def is_folder(self) -> bool:
        """Whether it is a SavedModel in which Keras 2 describes its layers."""
        return self.path.is_dir()

    @property
    def major(self) -> int | None:
        """The major version of Keras, or None if the file has no version."""
        return _major(self.version)

    @cached_property
    def description(self) -> Description:
        """The description of the model without its weights.

        Raises:
            ModelError: The file is damaged.
        """
        if self.is_hdf5 or self.is_folder:
            return Description(self.config, {}, self.major)
        return Description.of_archive(self.path)


def description_of(weights: WeightFile) -> Description | None:
    """Return the description in a file of weights, or None if it has only weights.

    Raises:
        ModelError: The file is damaged.
    """
    if weights.format == ARCHIVE:
        return Description.of_archive(weights.files[0])
    return Description.of_hdf5(weights.files[0]) if weights.format == HDF5 else None


def open_saved(path: str) -> SavedKeras:
    """Inspect a `.keras`, `.h5` or `.hdf5` file, or a folder saved by Keras 2.

    Raises:
        ModelError: It does not exist, is damaged, is something else, or has only weights.
    """
    at = f"model.path={path!r}"
    refuse_unreachable(path)
    file = Path(path).expanduser()
    _check(at, file)
    if file.is_dir():
        return _folder(at, file)
    if file.suffix in HDF5_ENDINGS:
        return _hdf5(at, file)
    return _archive(at, file)


def serialized_objects(config: Any) -> Iterator[dict[str, Any]]:
    """Yield every serialized object in a configuration, at any depth."""
    waiting = [config]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if "class_name" in part:
                yield part
            waiting.extend(reversed(part.values()))
        elif isinstance(part, list):
            waiting.extend(reversed(part))


def _check(at: str, file: Path) -> None:
    if not file.exists():
        refuse_missing(str(file), "keras", kind="models", fits=lambda one: one.suffix in ENDINGS)
    if file.is_dir():
        _check_folder(at, file)
        return
    if file.suffix not in ENDINGS:
        refuse_others(str(file), "keras")
        if recognize(str(file)) is None:
            refuse_unknown(str(file), file, "a model of Keras")
        ending = HDF5_ENDINGS[0] if h5py.is_hdf5(file) else ARCHIVE_ENDING
        renamed = file.with_suffix(ending)
        raise ModelError(
            f"{at} ends in {file.suffix!r}, and Keras goes by the ending. Rename it: "
            f"{shlex.join(['mv', str(file), str(renamed)])}, then {override('model.path', renamed)}"
        )


def _check_folder(at: str, folder: Path) -> None:
    has_graph = any((folder / name).is_file() for name in SAVED_MODELS)
    if has_graph and (folder / KERAS_METADATA).is_file():
        return
    if has_graph:
        raise ModelError(
            f"{at} is a SavedModel without {KERAS_METADATA}, in which Keras 2 describes the layers "
            f"of a model: tf.saved_model.save or the export of Keras 3 wrote it. Read its graph: "
            f"model=saved_model {override('model.path', str(folder))}"
        )
    refuse_others(str(folder), "keras")
    raise ModelError(
        f"{at} is a folder; model=keras takes a file, or a folder that Keras 2 saved, with "
        f"{SAVED_MODELS[0]} and {KERAS_METADATA} in it. {held(folder, SAVED_MODELS[0])}"
    )


def _folder(at: str, folder: Path) -> SavedKeras:
    try:
        content = (folder / KERAS_METADATA).read_bytes()
    except OSError as error:
        raise _damaged(at, error) from error
    nodes = [text for node in embedded(content, 1) for text in embedded(node, 5)]
    if not nodes:
        raise ModelError(f"{at} is damaged: {KERAS_METADATA} describes no layers")
    config = {"nodes": [_parsed(at, text) for text in nodes]}
    variables = folder / "variables"
    missing = missing_file(str(variables / "variables"))
    if missing is not None:
        raise ModelError(
            f"{at} is a SavedModel without its variables: {str(missing)!r} is missing. Copy the "
            f"whole folder variables of the SavedModel to {str(variables)!r}"
        )
    # An element takes at least one byte.
    elements = sum(file.stat().st_size for file in variables.iterdir())
    return SavedKeras(folder, at, config, "2", "", elements)


def _hdf5(at: str, file: Path) -> SavedKeras:
    if not h5py.is_hdf5(file):
        refuse_others(str(file), "keras")
        refuse_unknown(str(file), file, "an HDF5 file")
    # First in a child process, since a damaged file may crash the process that reads it.
    weights = open_hdf5(file, at, whole=True)
    try:
        with h5py.File(file, "r") as opened:
            wanted = ("model_config", _TRAINING, *_WRITTEN_BY)
            attributes = {key: opened.attrs.get(key) for key in wanted}
    except _DAMAGE as error:
        raise _damaged(at, error) from error
    if attributes["model_config"] is None and not len(weights):
        raise ModelError(f"{at} is an HDF5 file with neither an architecture nor weights in it")
    if attributes["model_config"] is None:
        raise ModelError(
            f"{at} holds weights alone, without the architecture. In place of model.path give a "
            f"callable that builds it: {override('model.checkpoint', file)} "
            f"model.factory._target_=package.module.build"
        )
    version, backend = (_text(attributes[key] or "") for key in _WRITTEN_BY)
    config = _parsed(at, _text(attributes["model_config"]))
    training = attributes[_TRAINING]
    optimizer = _optimizer(_parsed(at, _text(training)) if training else {}, "optimizer_config")
    return SavedKeras(file, at, config, version, backend, _elements(weights), optimizer)


def _archive(at: str, file: Path) -> SavedKeras:
    if not zipfile.is_zipfile(file):
        refuse_others(str(file), "keras")
        refuse_unknown(str(file), file, "a .keras file")
    try:
        with zipfile.ZipFile(file) as archive:
            refuse_bomb(archive, at)
            names = archive.namelist()
            if _CONFIG not in names:
                raise ModelError(
                    f"{at} is a zip archive without config.json, so it is not a .keras file. "
                    f"{choices('config.json', names)}"
                )
            text = archive.read(_CONFIG).decode()
            metadata = _parsed(at, archive.read(_METADATA)) if _METADATA in names else {}
    except _DAMAGE as error:
        raise _damaged(at, error) from error
    version = str(metadata.get("keras_version", ""))
    weights = open_archive(file, at, whole=True)
    config = _parsed(at, text)
    optimizer = _optimizer(config.get("compile_config"), "optimizer")
    return SavedKeras(file, at, config, version, "", _elements(weights), optimizer)


def _optimizer(training: Any, key: str) -> dict[str, Any]:
    optimizer = training.get(key) if isinstance(training, dict) else None
    return optimizer if isinstance(optimizer, dict) else {}


def _elements(weights: WeightFile) -> int:
    return sum(prod(entry.shape) for entry in weights.entries.values())


def _major(version: str) -> int | None:
    number = version.partition(".")[0]
    return int(number) if number.isdecimal() else None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _parsed(at: str, text: str | bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(at, error) from error
    if not isinstance(parsed, dict):
        raise ModelError(f"{at} is damaged: it describes a {type(parsed).__name__}, not a model")
    return parsed


def _damaged(at: str, error: BaseException) -> ModelError:
    if why := why_not_unpacked(error):
        return ModelError(f"{at} {why}")
    return ModelError(f"{at} is damaged, or not whole: {error_summary(error)}")


CUSTOM_OBJECTS = "model.custom_objects"
"""The key of classes and functions by their names in a file."""

_UNKNOWN = re.compile(r"(?:Could not locate (?:class|function)|Unknown [\w ]+:) '([^']+)'")
_REFUSED = re.compile("arbitrary code execution|safe_mode=False")
_MODULES = ("builtins", "keras", "tf_keras")


def refuse_code(saved: SavedKeras) -> None:
    """Refuse Python code in a file, before a reader could run it.

    tf-keras runs the code of Lambda layers in HDF5 files.

    Raises:
        ModelError: There is code in the file.
    """
    if held := _lambdas(saved):
        raise ModelError(_holds_code(saved, held))


def refuse_imports(
    saved: SavedKeras, custom_objects: Mapping[str, Any], registered: Callable[[str], Any]
) -> None:
    """Refuse classes of third-party modules, which tf-keras would import.

    Args:
        custom_objects: The classes that are given by name.
        registered: Returns the class registered under a name, or None.

    Raises:
        ModelError: There are such classes.
    """
    for node in serialized_objects(saved.config):
        names = [str(node["class_name"]), str(node.get("registered_name"))]
        known = any(name in custom_objects or registered(name) for name in names)
        module = str(node.get("module") or _MODULES[0])
        if not known and module.split(".")[0] not in _MODULES:
            raise ModelError(needs(saved, names[0]))


def load_error_message(saved: SavedKeras, error: Exception) -> str:
    """Return a message for an error of Keras's loader."""
    if _REFUSED.search(str(error)):
        return _holds_code(saved, _lambdas(saved) or ["something in it"])
    if unknown := _UNKNOWN.search(str(error)):
        return needs(saved, unknown[1])
    return f"{saved.at} cannot be loaded by Keras: {error_summary(error)}{graph_alternative(saved)}"


def needs(saved: SavedKeras, name: str) -> str:
    """Return the message for a class that Keras does not know."""
    plain = name.rpartition(">")[2]
    return (
        f"{saved.at} needs {name!r}, which Keras does not know by itself. Give its path: "
        f"{CUSTOM_OBJECTS}.{plain}=package.module.{plain}{graph_alternative(saved)}"
    )


def graph_alternative(saved: SavedKeras) -> str:
    """Return advice to read a folder without Keras, or "" for a file."""
    if not saved.is_folder:
        return ""
    return (
        f". Or read its graph, which needs no Python: model=saved_model "
        f"{override('model.path', str(saved.path))}"
    )


def _lambdas(saved: SavedKeras) -> list[str]:
    """Return the layers with compiled Python code rather than the name of a function."""
    return [
        f"layer {node['config'].get('name')!r}"
        for node in serialized_objects(saved.config)
        if node["class_name"] == "Lambda"
        and isinstance(node.get("config"), dict)
        and not isinstance(node["config"].get("function"), str)
    ]


def _holds_code(saved: SavedKeras, held: list[str]) -> str:
    return (
        f"{saved.at} is refused: {', '.join(held)} holds Python code, which loading the file would "
        f"run. If you trust it: model.safe_mode=false{graph_alternative(saved)}"
    )
