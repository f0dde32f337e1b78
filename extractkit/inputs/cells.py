"""The cells of one column of an Arrow table as NumPy arrays and texts. pyarrow is an extra."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from extractkit.errors import InputError
from extractkit.inputs.extras import require
from extractkit.inputs.protocol import InputSpec
from extractkit.inputs.sparse import INDICES, VALUES, positions_of, row_of
from extractkit.values import Array


@dataclass(frozen=True, eq=False)
class Cells:
    """One column.

    Attributes:
        column: Arrow's array of it.
        name: its name, for messages.
    """

    column: Any
    name: str

    @classmethod
    def of(cls, chunked: Any, name: str, at: str) -> "Cells":
        """A column as it is read.

        Raises:
            InputError: it holds neither numbers nor texts, nor lists of them.
        """
        types = _arrow("pyarrow.types")
        column = chunked.combine_chunks()
        # A tensor of fixed shape, say: beneath it is a list.
        while isinstance(column.type, _arrow("pyarrow").BaseExtensionType):
            column = column.storage
        if types.is_dictionary(column.type):
            column = column.dictionary_decode()
        leaf = column.type
        while _is_list(leaf):
            leaf = leaf.value_type
        if types.is_struct(column.type) and {INDICES, VALUES} <= {field.name for field in leaf}:
            return cls(column, name)
        if not (_is_number(leaf) or _is_text(leaf)):
            raise InputError(
                f"{at}: column {name!r} is {column.type}; numbers, texts, lists of them and "
                f"structs of {INDICES} and {VALUES} are read"
            )
        return cls(column, name)

    def string(self, row: int, at: str) -> str | bytes:
        """The text in this row, or its bytes where they are not UTF-8.

        Raises:
            InputError: there is none.
        """
        try:
            value = self.column[row].as_py()
        except UnicodeDecodeError as error:
            raise InputError(f"{at}: column {self.name!r} is not UTF-8: {error}") from error
        if not isinstance(value, str | bytes):
            raise InputError(
                f"{at}: column {self.name!r} is {self.column.type} and holds {value!r:.60}, no text"
            )
        return value

    def row(self, row: int, spec: InputSpec, at: str) -> Array:
        """Return what an input takes in this row; a sparse one's positions and values as a row.

        Raises:
            InputError: nothing is there, or it makes no row.
        """
        if not _arrow("pyarrow.types").is_struct(self.column.type):
            return self.values(row, at)
        own = f"{at}: column {self.name!r}"
        value = self.column[row].as_py()
        if value is None:
            raise self._nothing(at)
        given = positions_of({key: part for key, part in value.items() if part is not None})
        if given is None or len(spec.shape) != 1:
            raise InputError(f"{own} holds {value!r:.60}, which makes no row of {spec.name!r}")
        return row_of(given, spec, own)

    def values(self, row: int, at: str) -> Array:
        """The number or text in this row, or the list: its nesting makes the axes.

        Raises:
            InputError: nothing is there, or lists in a list have different lengths.
        """
        if not _is_list(self.column.type):
            values = self._array(self.column.slice(row, 1), at)
            return values.reshape(())
        values = self.column[row].values
        if values is None:
            raise self._nothing(at)
        shape = [len(values)]
        while _is_list(values.type):
            if values.null_count:
                raise self._nothing(at)
            lengths = set(_arrow("pyarrow.compute").list_value_length(values).to_pylist())
            if len(lengths) > 1:
                raise InputError(
                    f"{at}: column {self.name!r} has lists of different lengths in one cell: "
                    f"{min(lengths)} and {max(lengths)}"
                )
            shape.append(lengths.pop() if lengths else 0)
            values = values.flatten()
        return self._array(values, at).reshape(shape)

    def _array(self, values: Any, at: str) -> Array:
        if values.null_count:
            raise self._nothing(at)
        return np.asarray(values.to_numpy(zero_copy_only=False))

    def _nothing(self, at: str) -> InputError:
        return InputError(
            f"{at}: column {self.name!r} holds a null. Fill it in or leave the row out"
        )


def _arrow(module: str) -> Any:
    return require(module, "parquet", "inputs=parquet")


def _is_list(kind: Any) -> bool:
    types = _arrow("pyarrow.types")
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_number(kind: Any) -> bool:
    types = _arrow("pyarrow.types")
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _is_text(kind: Any) -> bool:
    types = _arrow("pyarrow.types")
    known = (
        types.is_string,
        types.is_large_string,
        types.is_string_view,
        types.is_binary,
        types.is_large_binary,
        types.is_binary_view,
        types.is_fixed_size_binary,
    )
    return any(test(kind) for test in known)
