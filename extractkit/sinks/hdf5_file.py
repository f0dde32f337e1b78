"""HDF5 files of our own: made whole in memory, and opened with care."""

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py

from extractkit.errors import RunDirectoryError, choices
from extractkit.sinks.hdf5_checks import check_dataset, member
from extractkit.sinks.ragged import check_layout
from extractkit.values import OFFSETS, SHAPES, VALUES

PRESENT = ":present"
"""Ending of the dataset that says which rows of a tensor without NaN are really there."""

# What h5py raises for files that HDF5 cannot make sense of.
_UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError, zlib.error)


def file_image(build: Callable[[Any], None]) -> bytes:
    """The bytes of the HDF5 file that `build` fills; nothing touches the disk.

    h5py leaves out creation times and HDF5 clears what it does not use, so equal content gives
    equal bytes.
    """
    # HDF5's own in-memory driver would hold the file twice while it hands it out.
    image = BytesIO()
    with h5py.File(image, "w") as file:
        build(file)
    return image.getvalue()


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A shard file, open for reading.

    Raises:
        RunDirectoryError: it is missing, not an HDF5 file, or damaged where it is read.
    """
    # A pipe would never end, and a device neither.
    if not path.is_file():
        raise RunDirectoryError(f"{path} is missing from its run")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except _UNREADABLE as error:
        raise RunDirectoryError(f"{path} is damaged: {error}") from error


def stored(file: Any, key: str) -> dict[str, Any]:
    """The datasets of a tensor by the names of its parts; a dense one's has no name.

    Raises:
        RunDirectoryError: there is none, or one that no sink has written: HDF5 would follow a link
            or external storage to any file of the user's.
    """
    node = member(file, key)
    if isinstance(node, h5py.Group):
        found = {part: member(node, part) for part in (VALUES, OFFSETS, SHAPES)}
        parts = {part: dataset for part, dataset in found.items() if dataset is not None}
    else:
        parts = {} if node is None else {"": node}
    if not parts or (VALUES in parts) != (OFFSETS in parts):
        raise RunDirectoryError(
            f"{file.filename} holds no tensor {key!r}. {choices(key, _keys(file))}"
        )
    for dataset in parts.values():
        check_dataset(dataset, key)
    if OFFSETS in parts:
        layouts = {part: (dataset.dtype, dataset.shape) for part, dataset in parts.items()}
        check_layout(Path(file.filename), key, layouts[OFFSETS], layouts.get(SHAPES))
    return parts


def presence(file: Any, key: str) -> Any:
    """The dataset that says which rows of a tensor are there; None where it has NaN for that.

    Raises:
        RunDirectoryError: as `stored`.
    """
    dataset = member(file, key + PRESENT)
    if dataset is not None:
        check_dataset(dataset, key + PRESENT)
    return dataset


def _keys(file: Any) -> list[str]:
    found: list[str] = []

    def visit(name: str, node: object) -> None:
        if isinstance(node, h5py.Dataset) and not name.endswith(PRESENT):
            group, _, part = name.rpartition("/")
            found.append(group if part in (VALUES, OFFSETS, SHAPES) else name)

    file.visititems(visit)
    return list(dict.fromkeys(found))
