"""`.safetensors`: one file, or several with an index of their contents."""

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from extractkit.core.extras import install
from extractkit.core.values import Array
from extractkit.errors import MissingExtraError, ModelError, choices
from extractkit.models.failures import error_summary
from extractkit.models.weight_files.weight_file import (
    Entry,
    Location,
    WeightFile,
    array_dtype,
    damaged,
)

ENDING = ".safetensors"
INDEX_ENDING = f"{ENDING}.index.json"

_INSTALL = install("weights in .safetensors")
_FORMAT = "safetensors"
_LENGTH_BYTES = 8

_DTYPES = {
    "BOOL": "bool",
    "BF16": "bfloat16",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
}


def is_index(file: Path) -> bool:
    """Return whether a JSON file of any name lists weights in `.safetensors` files."""
    try:
        names = json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()
        return any(str(name).endswith(ENDING) for name in names)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def is_safetensors(file: Path) -> bool:
    """Return whether a file begins with the length of a JSON header and the header."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
        return opened.read(1) == b"{" and length < file.stat().st_size


def open_safetensors(file: Path, at: str) -> WeightFile:
    """Return one `.safetensors` file.

    Args:
        at: the name for messages.

    Raises:
        MissingExtraError: the package `safetensors` is not installed.
        ModelError: the file is damaged or something else.
    """
    entries, load = _opened(file, at)
    return _weight_file(file, (file,), entries, load)


def open_sharded(index: Path, at: str) -> WeightFile:
    """Open the files named in a `model.safetensors.index.json`, in the same folder.

    Raises:
        MissingExtraError: the package `safetensors` is not installed.
        ModelError: the index or one of its files is missing, damaged, or does not fit the other.
    """
    shards = _weight_map(index, at)
    opened = {name: _opened(index.parent / name, at) for name in dict.fromkeys(shards.values())}
    entries, loads = {}, {}
    for listed, name in shards.items():
        inside, load = opened[name]
        # TensorFlow models of transformers list `MODEL/LAYER/kernel:0` and store `LAYER/kernel:0`.
        key = listed if listed in inside else listed.partition("/")[2]
        if key not in inside:
            raise ModelError(f"{at}: {listed!r} is not in {name}, where the index locates it")
        entries[key], loads[key] = inside[key], load
    files = tuple(index.parent / name for name in opened)
    return _weight_file(index, (index, *files), entries, lambda key: loads[key](key))


def _weight_file(
    path: Path, files: tuple[Path, ...], entries: dict[str, Entry], load: Callable[[str], Array]
) -> WeightFile:
    locations = {key: _location(key) for key in entries}
    return WeightFile(str(path), _FORMAT, files, entries, locations, load)


def _location(key: str) -> Location:
    """Locate a weight by its name, joined by dots (PyTorch) or slashes with `:0` (TensorFlow).

    `encoder.layer.0.query.weight`, `bert/encoder/query/kernel:0`.
    """
    parts = key.removesuffix(":0").split("/") if "/" in key else key.split(".")
    return Location(tuple(parts[:-1]), parts[-1])


def _weight_map(index: Path, at: str) -> dict[str, str]:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        shards = {str(key): str(name) for key, name in content["weight_map"].items()}
    except (ValueError, RecursionError) as error:
        raise damaged(at, error_summary(error)) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{at} is not an index of safetensors files: {error_summary(error)}"
        ) from error
    if not shards:
        raise ModelError(f"{at} is an index that lists no weights")
    for name in dict.fromkeys(shards.values()):
        if Path(name).name != name or name in (".", ".."):
            raise ModelError(f"{at} names {name!r}, which is not the name of a file beside it")
        if not (index.parent / name).is_file():
            beside = [entry.name for entry in index.parent.glob("*.safetensors")]
            raise ModelError(
                f"{at} names {name!r}, which is missing beside it. {choices(name, beside)}"
            )
    return shards


def _opened(file: Path, at: str) -> tuple[dict[str, Entry], Callable[[str], Array]]:
    if importlib.util.find_spec("safetensors") is None:
        raise MissingExtraError(
            f"{at} needs safetensors, which is not installed. Install it: {_INSTALL}"
        )
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            slices = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118
            entries = {
                key: Entry(_dtype(part.get_dtype()), tuple(part.get_shape()))
                for key, part in slices.items()
            }
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(f"{at} ({file.name})", error_summary(error)) from error
    if not entries:
        raise ModelError(f"{at} ({file.name}) holds no weights")
    offsets = _offsets(file)

    def load(key: str) -> Array:
        start, stop = offsets[key]
        try:
            # The package cannot read 8-bit floats into NumPy, so all bytes are read here.
            content = np.fromfile(file, np.uint8, stop - start, offset=start)
            dtype = np.dtype(array_dtype(entries[key].dtype))
            return content.view(dtype).reshape(entries[key].shape)
        except (OSError, ValueError) as error:
            raise damaged(f"{at} ({file.name})", f"{key!r}: {error_summary(error)}") from error

    return entries, load


def _dtype(name: str) -> str:
    return _DTYPES.get(name, name)


def _offsets(file: Path) -> Mapping[str, tuple[int, int]]:
    """Return the byte range of each array in the file. The package has checked the header."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
        header: dict[str, Any] = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    first = _LENGTH_BYTES + length
    return {
        key: (first + part["data_offsets"][0], first + part["data_offsets"][1])
        for key, part in header.items()
    }
