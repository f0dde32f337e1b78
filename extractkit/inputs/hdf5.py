"""Numbers and texts from an HDF5 file."""

from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from extractkit.core.keys import DecidesValues
from extractkit.core.picks import LABELS
from extractkit.core.spec import TEXT
from extractkit.core.values import Array, as_bytes
from extractkit.errors import InputError, choices
from extractkit.inputs import Scanning, Signature, Visit
from extractkit.inputs.checks import DType, check_limit, describe
from extractkit.inputs.columns import ColumnSource, bind_columns, input_fields
from extractkit.inputs.conversion import is_string
from extractkit.inputs.file_access import PathLike, Stamp, find_file
from extractkit.inputs.labels import label_name

_UNREADABLE = (
    OSError,  # damaged chunks, a filter that is not installed
    RuntimeError,
    ValueError,
    KeyError,
)


@dataclass(frozen=True)
class Hdf5(Scanning):
    """Datasets of an HDF5 file, with samples along their first axis.

    Links and external datasets are refused, since HDF5 would follow them to any file that the user
    may read.

    Attributes:
        path: The file. Required.
        columns: The path of the dataset for each of the model's inputs. If None, the inputs' names,
            or the only dataset for the only input.
        limit: The number of samples to use. If None, all.
        labels: The path of the dataset with each sample's label, as targets of gradients take it.
            If None, there is none.

    Raises:
        InputError: `limit` is not a whole number of at least 1.
    """

    path: DecidesValues[PathLike | None]
    columns: DecidesValues[Mapping[str, str] | None] = None
    limit: DecidesValues[int | None] = None
    labels: DecidesValues[str | None] = None

    def __post_init__(self) -> None:
        check_limit(self.limit)
        label_name(self.labels)

    def scan(self, signature: Signature, visit: Visit | None) -> ColumnSource:
        """Open the file, read its datasets once and check them against the model's inputs.

        Raises:
            InputError: The file is missing or damaged, or a dataset does not fit the model or has
                no readable row.
        """
        if self.path is None:
            raise InputError(
                f"inputs.path is missing. Model {signature.model!r} takes {describe(signature)}. "
                f"Give an HDF5 file with a dataset for each: inputs.path=FILE.h5"
            )
        path = find_file(self.path, ".h5")
        at = f"inputs.path={str(self.path)!r}"
        stamp = Stamp.of(path)
        try:
            # By name, HDF5 would reuse a file that this process has open already, with cached
            # content from before it changed.
            file = h5py.File(_Opened(path), "r")
            # A given name is looked up directly: it may be a link, which the listing omits.
            labels = label_name(self.labels)
            available = [*_datasets(file), *map(str, (self.columns or {}).values())]
            fields = input_fields(self.columns, signature, available, at, labels)
            strings = {spec.name for spec in signature.specs if spec.dtype == TEXT}
            columns = {
                name: StoredDataset.find(file, field, path, stamp, at, strings=name in strings)
                for name, field in fields.items()
            }
            if labels in columns:
                raise InputError(
                    f"{at}: {labels!r} is an input of model {signature.model!r}, and cannot name "
                    f"the labels ({LABELS}). Rename the dataset, or write '/{labels}'"
                )
            if labels is not None:
                named = f"{at}, {LABELS}={labels!r}"
                columns[labels] = StoredDataset.find(file, labels, path, stamp, named, False)
        except _UNREADABLE as error:
            raise InputError(f"{at} cannot be read as HDF5: {error}") from error
        return bind_columns(
            *(columns, signature),
            at=at,
            origin=path.name,
            visit=visit,
            limit=self.limit,
            labels=labels,
        )


@dataclass(frozen=True, eq=False)
class StoredDataset:
    """A dataset in a file, readable from any thread since h5py holds a global lock.

    Attributes:
        dataset: The open dataset of h5py.
        file: The file of h5py, kept open with its datasets.
        path: The file's path.
        stamp: The state of the file when it was opened.
        at: Its name in messages.
    """

    dataset: Any
    file: Any
    path: Path
    stamp: Stamp
    at: str

    @classmethod
    def find(
        cls, file: Any, name: str, path: Path, stamp: Stamp, at: str, strings: bool
    ) -> "StoredDataset":
        """Return the dataset of this name.

        Args:
            strings: Whether it is for a string input. Bytes may then be opaque, or rows of uint8 of
                any length, which keep trailing zeros.

        Raises:
            InputError: It does not exist, is outside the file, or holds no numbers or texts.
        """
        node = _node(file, name, at)
        at = f"{at}, dataset {name!r}"
        if not isinstance(node, h5py.Dataset):
            raise InputError(f"{at} is a group. {choices(name, _datasets(file))}")
        if node.is_virtual or node.external:
            raise InputError(
                f"{at} keeps its values in another file, which is not read. "
                f"Store them in it: file.create_dataset(NAME, data=values)"
            )
        readable = node.dtype.kind in "biufcS" or h5py.check_string_dtype(node.dtype) is not None
        if strings and not readable:
            readable = is_string(node.dtype) if node.dtype.kind == "V" else _holds_bytes(node)
        if node.shape is None or not readable:
            raise InputError(
                f"{at} holds {_content(node)}; numbers, texts and true or false can be read. "
                f"Store an array of one shape"
            )
        return cls(node, file, path, stamp, at)

    @property
    def dtype(self) -> DType:
        """The dtype of the values: object for texts of any length."""
        dtype: DType = self.dataset.dtype
        return dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (samples, *shape of one)."""
        shape: tuple[int, ...] = self.dataset.shape
        return shape

    def __getitem__(self, rows: slice, /) -> Array:
        """Return these rows, with texts as bytes.

        Raises:
            InputError: They are damaged, or their compression is not supported.
            JobError: The file has changed.
        """
        try:
            with self.stamp.unchanged(self.path):
                values: Array = self.dataset[rows]
                return as_bytes(values) if _holds_bytes(self.dataset) else values
        except _UNREADABLE as error:
            raise InputError(f"{self.at} cannot be read: {error}") from error


class _Opened(FileIO):
    """A file that is read without a buffer, and closed when HDF5 drops it."""

    def __del__(self) -> None:
        self.close()


def _holds_bytes(node: Any) -> bool:
    return bool(h5py.check_vlen_dtype(node.dtype) == np.uint8)


def _node(file: Any, name: str, at: str) -> Any:
    """Return the object at this path, found link by link so that none leads out of the file."""
    node = file
    for part in filter(None, name.split("/")):
        links: Any = node.id.links if isinstance(node, h5py.Group) else None
        if links is None or not links.exists(part.encode()):
            raise InputError(f"{at} has no dataset {name!r}. {choices(name, _datasets(file))}")
        if links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
            raise InputError(
                f"{at}, dataset {name!r}: {part!r} is a link to {_target(links, part)}, and links "
                f"are not followed. Name the dataset itself"
            )
        node = node[part]
    return node


def _target(links: Any, part: str) -> str:
    target = links.get_val(part.encode())
    parts = target if isinstance(target, tuple) else (target,)
    return " in ".join(repr(text.decode(errors="backslashreplace")) for text in reversed(parts))


def _datasets(file: Any) -> list[str]:
    found: list[str] = []

    def visit(name: str, node: object) -> None:
        if isinstance(node, h5py.Dataset):
            found.append(name)

    file.visititems(visit)
    return found


def _content(node: Any) -> str:
    if node.shape is None:
        return "nothing"
    if h5py.check_vlen_dtype(node.dtype) is not None:
        return "rows of different lengths"
    return "records" if node.dtype.kind == "V" else "references to others"
