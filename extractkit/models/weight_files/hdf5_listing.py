"""Listing of an HDF5 file in a separate process, which a damaged file may crash.

    python -m extractkit.models.weight_files.hdf5_listing FILE [FILE ...]

prints one line with a JSON object for each of them: `datasets` (type and shape by path) and `names`
(attribute `name` of groups), or `damaged` or `refused` with the reason. It stops itself if it takes
far more processor time or memory than expected for the size.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from extractkit.core.spec import TEXT
from extractkit.models.failures import error_summary

_SECONDS = 10
_BYTES_PER_SECOND = 20_000_000
_MEMORY = 4 << 30
_MEMORY_PER_BYTE = 8
# h5py's type for bfloat16, which HDF5 lacks: two opaque bytes.
_OPAQUE = np.dtype("V2")


class RefusedError(Exception):
    """The file links to other files, or expands excessively when read."""


def listing(path: str) -> dict[str, Any]:
    """Return everything in the file. Chunked datasets are read to check that they can be."""
    datasets: dict[str, tuple[str, list[int]]] = {}
    names: dict[str, str] = {}
    try:
        with h5py.File(path, "r") as file:
            _list(file, "", {_identity(file)}, datasets, names, Path(path).stat().st_size)
    except RefusedError as reason:
        return {"refused": str(reason)}
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        return {"damaged": error_summary(error)}
    return {"datasets": datasets, "names": names}


def _list(
    group: Any,
    path: str,
    seen: set[object],
    datasets: dict[str, tuple[str, list[int]]],
    names: dict[str, str],
    size: int,
) -> None:
    if isinstance(name := group.attrs.get("name"), str):
        names[path] = name
    for key in group:
        inside = f"{path}/{key}" if path else key
        inside.encode()  # names in intact files are UTF-8
        link = group.get(key, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise RefusedError(f"{inside!r} is a link to the file {link.filename!r}")
        if not isinstance(link, h5py.HardLink):
            continue  # a second name of a listed object
        node = group[key]
        if _identity(node) in seen:
            continue
        seen.add(_identity(node))
        if isinstance(node, h5py.Group):
            _list(node, inside, seen, datasets, names, size)
        elif isinstance(node, h5py.Dataset) and node.shape is not None:
            _check(node, inside, size)
            datasets[inside] = (_dtype(node), list(node.shape))


def _identity(node: Any) -> object:
    return h5py.h5o.get_info(node.id).addr


def _check(dataset: Any, path: str, size: int) -> None:
    if dataset.is_virtual or dataset.external:
        raise RefusedError(f"the values of {path!r} are in another file")
    if dataset.chunks is None and dataset.id.get_offset() is not None:
        end = dataset.id.get_offset() + dataset.nbytes
        if end > size:
            raise ValueError(f"{path!r} extends to byte {end} of {size}")
        return
    try:
        dataset[()]
    except MemoryError as error:
        raise RefusedError(
            f"{path!r} takes {dataset.nbytes:,} bytes of memory, the file has {size:,}. Save it "
            f"without compression"
        ) from error


def _dtype(dataset: Any) -> str:
    if h5py.check_string_dtype(dataset.dtype) is not None:
        return TEXT
    if dataset.dtype == _OPAQUE:
        return "bfloat16"
    return str(dataset.dtype.newbyteorder("="))


def main() -> None:
    """Run the child process."""
    paths = sys.argv[1:]
    sizes = [Path(path).stat().st_size for path in paths]
    # Processor time, which a slow disk does not use but an endless loop does.
    seconds = _SECONDS + sum(sizes) // _BYTES_PER_SECOND
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    memory = _MEMORY + _MEMORY_PER_BYTE * max(sizes)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for path in paths:
        sys.stdout.write(f"{json.dumps(listing(path))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
