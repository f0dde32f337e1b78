"""HDF5 files of our own: made whole in memory, and opened with care."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py

from extractkit.errors import RunDirectoryError, choices
from extractkit.values import OFFSETS, VALUES

PRESENT = ":present"
"""Ending of the dataset that says which rows of a tensor without NaN are really there."""


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
        RunDirectoryError: it is missing, or not an HDF5 file.
    """
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError as error:
        raise RunDirectoryError(f"{path} is missing from its run") from error
    except OSError as error:
        raise RunDirectoryError(f"{path} is damaged: {error}") from error
    with file:
        yield file


def stored(file: Any, key: str) -> Any:
    """The dataset of a dense tensor, or the group of a ragged one.

    Raises:
        RunDirectoryError: there is none, or it leads out of the file. A shard is self-contained;
            HDF5 would follow a link or external storage to any file of the user's.
    """
    node = file.get(key)
    datasets = list(node.values()) if isinstance(node, h5py.Group) else [node]
    if node is None or (isinstance(node, h5py.Group) and not {VALUES, OFFSETS} <= set(node)):
        raise RunDirectoryError(
            f"{file.filename} holds no tensor {key!r}. {choices(key, _keys(file))}"
        )
    for dataset in datasets:
        if isinstance(dataset, h5py.Dataset) and (
            dataset.is_virtual or dataset.external or dataset.file.filename != file.filename
        ):
            raise RunDirectoryError(f"{file.filename}: {key!r} points outside of its shard file")
    return node


def _keys(file: Any) -> list[str]:
    found: list[str] = []

    def visit(name: str, node: object) -> None:
        if isinstance(node, h5py.Dataset) and not name.endswith(PRESENT):
            group, _, part = name.rpartition("/")
            found.append(group if part in (VALUES, OFFSETS, "shapes") else name)

    file.visititems(visit)
    return list(dict.fromkeys(found))
