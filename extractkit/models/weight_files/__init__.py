"""Files of weights in any format: arrays by key, listed without reading, read one by one.

    weights = open_weights("model.safetensors")
    weights.keys()
    weights.entry("encoder.layer.0.output.dense.weight")  # Entry(dtype="float32", shape=(384, 384))
    weights.read("encoder.layer.0.output.dense.weight")  # the array

`open_weights` recognises the format by the content. Only TensorFlow's own checkpoints import
TensorFlow.

The format of a path, and the file that is meant in a directory, are found here.
"""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from extractkit.advice import override
from extractkit.errors import ModelError, choices
from extractkit.models.recognition import (
    held,
    refuse_missing,
    refuse_others,
    refuse_unknown,
    refuse_unreachable,
)
from extractkit.models.weight_files import tensorflow_checkpoint as checkpoints
from extractkit.models.weight_files.keras_hdf5 import ENDING as ARCHIVE_ENDING
from extractkit.models.weight_files.keras_hdf5 import (
    HDF5_ENDINGS,
    list_together,
    open_archive,
    open_hdf5,
)
from extractkit.models.weight_files.safetensors_file import (
    ENDING,
    INDEX_ENDING,
    is_index,
    is_safetensors,
    open_safetensors,
    open_sharded,
)
from extractkit.models.weight_files.tensorflow_checkpoint import INDEX_ENDING as CHECKPOINT_ENDING
from extractkit.models.weight_files.tensorflow_js_file import FILE as TENSORFLOW_JS
from extractkit.models.weight_files.tensorflow_js_file import open_tensorflow_js
from extractkit.models.weight_files.weight_file import Entry, Location, WeightFile
from extractkit.runs.files import prefix_of

_JSON = ".json"
_FILE_ENDINGS = (ENDING, ARCHIVE_ENDING, *HDF5_ENDINGS)
# Formats with readable weights.
_HOLD_WEIGHTS = ("checkpoint", "keras", "saved_model", "meta_graph")
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_ZIP_MAGIC = b"PK\x03\x04"
_READ = (
    "Weights are read from TensorFlow checkpoints (their prefix or folder), .h5, .hdf5, .keras "
    "and .safetensors files, and the model.json of TensorFlow.js"
)


def open_weights(path: str, key: str = "model.path") -> WeightFile:
    """Open a file of weights of any format. Only its listing is read.

    Args:
        path: a `.safetensors`, `.h5`, `.hdf5` or `.keras` file, a `.safetensors.index.json`, the
            prefix or any file of a TensorFlow checkpoint, or a directory with one of these (a
            SavedModel's too).
        key: the configuration key, for messages.

    Raises:
        ModelError: the file is missing, damaged, of another format or without weights, or a
            directory holds none or several.
        MissingExtraError: a package that the format needs is not installed.
    """
    at = f"{key}={path!r}"
    refuse_unreachable(path, key)
    given = str(Path(path).expanduser()) + ("/" if path.endswith("/") else "")
    if "\0" in given:
        raise ModelError(f"{at} is not a path: it contains a null byte")
    try:
        return _open(given, at)
    except OSError as error:
        raise ModelError(f"{at} cannot be read: {error.strerror or error}") from error


def open_each(paths: Sequence[str], key: str) -> Iterator[WeightFile | ModelError]:
    """Open many files of weights, and yield the error of a file that cannot be opened.

    Raises:
        MissingExtraError: as `open_weights`.
    """
    listings = list_together([Path(path) for path in paths if _is_hdf5(Path(path))])
    for path in paths:
        at = f"{key}={path!r}"
        try:
            listing = listings.get(Path(path))
            if listing is not None:
                yield open_hdf5(Path(path), at, listing=listing)
            else:
                yield open_weights(path, key)
        except ModelError as error:
            yield error


def _is_hdf5(file: Path) -> bool:
    try:
        return file.is_file() and _head(file).startswith(_HDF5_MAGIC)
    except OSError:
        return False  # the error is raised when it is opened separately


def _head(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(16)


def _open(given: str, at: str) -> WeightFile:
    if (prefix := prefix_of(given)) is not None:
        return checkpoints.open_checkpoint(prefix, at)
    if Path(given + CHECKPOINT_ENDING).is_file() and not given.endswith("/"):
        return checkpoints.open_checkpoint(given, at)
    file = Path(given)
    if file.is_dir():
        chosen = _chosen(file, at)
        return _open(chosen, at if chosen == given else f"{at} ({Path(chosen).name})")
    if not file.exists():
        key = at.partition("=")[0]
        refuse_missing(
            given, "checkpoint", kind="weights", fits=_is_weights, key=key, ending=CHECKPOINT_ENDING
        )
    if file.name == checkpoints.STATE_FILE and (latest := checkpoints.latest(file.parent, at)):
        return checkpoints.open_checkpoint(latest, at)
    return _open_file(file, at)


def _open_file(file: Path, at: str) -> WeightFile:
    head = _head(file)
    if head.startswith(_HDF5_MAGIC):
        return open_hdf5(file, at)
    if file.suffix in HDF5_ENDINGS:
        refuse_others(str(file), *_HOLD_WEIGHTS, key=at.partition("=")[0])
        refuse_unknown(str(file), file, "an HDF5 file", at.partition("=")[0])
    if file.suffix == _JSON and not file.name.endswith(INDEX_ENDING):
        refuse_others(str(file), "tensorflow_js", "checkpoint", key=at.partition("=")[0])
        return open_sharded(file, at) if is_index(file) else open_tensorflow_js(file, at)
    key = at.partition("=")[0]
    if file.suffix != ARCHIVE_ENDING or not zipfile.is_zipfile(file):
        refuse_others(str(file), *_HOLD_WEIGHTS, key=key)
    if file.suffix == ARCHIVE_ENDING and not head.startswith(_ZIP_MAGIC):
        refuse_unknown(str(file), file, "a .keras file", key)
    if file.suffix == ARCHIVE_ENDING or head.startswith(_ZIP_MAGIC):
        return open_archive(file, at)
    if file.name.endswith(INDEX_ENDING):
        return open_sharded(file, at)
    if is_safetensors(file):
        return open_safetensors(file, at)
    if checkpoints.is_old_checkpoint(file):
        return checkpoints.open_checkpoint(str(file), at)
    refuse_unknown(str(file), file, "a file of weights", key)


def _chosen(folder: Path, at: str) -> str:
    """Return the one set of weights in a directory."""
    if prefix := checkpoints.latest(folder, at):
        return prefix + CHECKPOINT_ENDING if _has_index(prefix) else prefix
    found = _candidates(folder)
    if len(found) == 1:
        return found[0]
    if not found:
        refuse_others(str(folder), "checkpoint", key=at.partition("=")[0])
        raise ModelError(f"{at} is a folder without weights. {held(folder)} {_READ}")
    names = [Path(one).name.removesuffix(CHECKPOINT_ENDING) for one in found]
    raise ModelError(
        f"{at} is a folder with {len(found)} files of weights. {choices('', names)} "
        f"Give one: {override(at.partition('=')[0], folder / names[0])}"
    )


def _candidates(folder: Path) -> list[str]:
    saved_model = folder / "variables" / f"variables{CHECKPOINT_ENDING}"
    if saved_model.is_file():
        return [str(saved_model)]
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    sharded = [name for name in names if name.endswith(INDEX_ENDING)]
    endings = (CHECKPOINT_ENDING, *_FILE_ENDINGS)
    whole = [name for name in names if name.endswith(endings)]
    if sharded:  # the files that it names are parts of it
        whole = [name for name in whole if not name.endswith(ENDING)]
    found = [*sharded, *whole] or [name for name in names if name == TENSORFLOW_JS]
    return [str(folder / name) for name in found]


def _has_index(prefix: str) -> bool:
    return Path(prefix + CHECKPOINT_ENDING).is_file()


def _is_weights(entry: Path) -> bool:
    return entry.name.endswith((*_FILE_ENDINGS, CHECKPOINT_ENDING))


__all__ = ["Entry", "Location", "WeightFile", "open_each", "open_weights"]
