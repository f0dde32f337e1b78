"""Numbers from .npy and .npz files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from extractkit.advice import nested_override, override
from extractkit.errors import InputError
from extractkit.inputs.checks import check_limit, check_names, describe
from extractkit.inputs.columns import Column, ColumnSource, bind_columns
from extractkit.inputs.files import PathLike, find_file
from extractkit.inputs.npy import is_archive, open_npy, open_npz
from extractkit.inputs.protocol import Signature


@dataclass(frozen=True)
class Arrays:
    """Arrays from files, samples along their first axis.

    They stay in their files and are mapped in place, compressed .npz files excepted: those are
    read into memory as a whole.

    Attributes:
        path: an .npy for a model with one input; an .npz with an array for each input, by name; or
            one .npy file for each input, by name.
        limit: the first so many samples; None: all.

    Raises:
        InputError: `limit` is no whole number of 1 or more.
    """

    path: PathLike | Mapping[str, PathLike] | None
    limit: int | None = None

    def __post_init__(self) -> None:
        check_limit(self.limit)

    def bind(self, signature: Signature) -> ColumnSource:
        """Open the arrays, read them through once and hold them against what the model takes.

        Values become the model's dtype: real numbers may lose digits, whole numbers become real
        ones; nothing else is converted.

        Raises:
            InputError: a file is missing or damaged, or the arrays do not fit the model.
        """
        if self.path is None:
            raise InputError(
                f"inputs.path is missing. Model {signature.model!r} takes {describe(signature)}. "
                f"Give an array for each: inputs.path=FILE.npz"
            )
        if isinstance(self.path, Mapping):
            return self._bind_each(self.path, signature)
        return self._bind_file(self.path, signature)

    def _bind_file(self, given: PathLike, signature: Signature) -> ColumnSource:
        at = f"inputs.path={str(given)!r}"
        path = find_file(given, ".npz")
        columns: Mapping[str, Column]
        if is_archive(path, at):
            columns = open_npz(path, at)
        else:
            columns = {_only_input(signature, at): open_npy(path, at)}
        in_memory = any(isinstance(column, np.ndarray) for column in columns.values())
        note = f"{path.name} is compressed and was read into memory; np.savez leaves it on disk"
        return bind_columns(
            columns,
            signature,
            at=at,
            origin=path.name,
            limit=self.limit,
            notes=(note,) if in_memory else (),
        )

    def _bind_each(self, given: Mapping[str, PathLike], signature: Signature) -> ColumnSource:
        check_names(list(given), signature, "inputs.path")
        columns = {name: _one_array(name, file) for name, file in given.items()}
        origin = ", ".join(Path(file).name for file in given.values())
        return bind_columns(columns, signature, at="inputs.path", origin=origin, limit=self.limit)


def _one_array(name: str, given: PathLike) -> Column:
    key = f"inputs.path.{name}"
    path = find_file(given, ".npy", key)
    at = f"{key}={str(given)!r}"
    if is_archive(path, at):
        raise InputError(
            f"{at} is an .npz, which has an array for each input. Give one .npy, or the .npz for "
            f"all inputs: {override('inputs.path', given)}"
        )
    return open_npy(path, at)


def _only_input(signature: Signature, at: str) -> str:
    if len(signature.specs) != 1:
        each = nested_override("inputs.path", {one.name: "FILE.npy" for one in signature.specs})
        raise InputError(
            f"{at} holds one array, model {signature.model!r} takes {describe(signature)}. "
            f"Give an .npz with an array for each, or a file for each: {each}"
        )
    return signature.specs[0].name
