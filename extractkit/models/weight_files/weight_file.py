"""The common interface of weight files: arrays by key, and the scope of a model among keys.

NumPy only.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from extractkit.core.checkpoints import natural
from extractkit.core.spec import TEXT
from extractkit.core.values import Array
from extractkit.errors import ModelError, UnknownTensorError, choices
from extractkit.inputs.file_access import Stamp


class Entry(NamedTuple):
    """One array as its file lists it.

    Attributes:
        dtype: NumPy's or ml_dtypes' name ("float32", "bfloat16"), "string" for texts, or the file's
            own name if neither has the type.
        shape: the size of each axis.
    """

    dtype: str
    shape: tuple[int, ...]


AVERAGE = "ExponentialMovingAverage"
"""TensorFlow's default name of averages."""

AVERAGE_SLOTS = (AVERAGE, "average")
"""Names under which TensorFlow and the optimizers store averages."""


@dataclass(frozen=True, slots=True)
class Location:
    """The location of an array in its model, as far as it follows from its key.

    Attributes:
        layers: the names of the enclosing layers, outermost first.
        variable: its name in the layer ("kernel"), or a number if the format has no names.
        slot: the name of the optimizer's slot or moving average of that variable ("Adam").
        training: whether only training needs it: optimizer slots, counters, metrics.
        average: whether it is the moving average of a variable.
    """

    layers: tuple[str, ...]
    variable: str
    slot: str | None = None
    training: bool = False
    average: bool = False


@dataclass(frozen=True, eq=False)
class WeightFile:
    """An open file of weights, or several files that belong together.

    Reading one array takes the memory of that array alone. No file is kept open, so nothing has to
    be closed.

    Attributes:
        path: the path as given.
        format: the format's name for messages ("Keras HDF5").
        files: all files that hold values.
        entries: the arrays' entries by key, in natural order (`layer_2` before `layer_10`).
        locations: the arrays' locations in the model, by the same keys.
        load: reads one array. Its argument is a key of `entries`.
        averages: keys of an optimizer's moving averages, in the order of the model's trainable
            weights, if the file has this order.
    """

    path: str
    format: str
    files: tuple[Path, ...]
    entries: Mapping[str, Entry]
    locations: Mapping[str, Location]
    load: Callable[[str], Array]
    averages: tuple[str, ...] = ()
    _stamps: Mapping[Path, Stamp] = field(init=False)

    def __post_init__(self) -> None:
        ordered = {key: self.entries[key] for key in sorted(self.entries, key=natural)}
        object.__setattr__(self, "entries", ordered)
        object.__setattr__(self, "_stamps", {file: Stamp.of(file) for file in self.files})

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __contains__(self, key: object) -> bool:
        return key in self.entries

    def keys(self) -> tuple[str, ...]:
        """Return the file's own names of its arrays."""
        return tuple(self.entries)

    def entry(self, key: str) -> Entry:
        """Return the type and shape of one array without reading it.

        Raises:
            UnknownTensorError: The key does not exist (also a KeyError).
        """
        self._check(key)
        return self.entries[key]

    def location(self, key: str) -> Location:
        """Return the location of one array in its model.

        Raises:
            UnknownTensorError: The key does not exist (also a KeyError).
        """
        self._check(key)
        return self.locations[key]

    def read(self, key: str) -> Array:
        """Return one array in the type of its entry. Texts are objects of type `bytes`.

        Raises:
            UnknownTensorError: The key does not exist (also a KeyError).
            ModelError: the file is damaged, or neither NumPy nor ml_dtypes has the type.
            JobError: The file has changed since it was opened.
        """
        entry = self.entry(key)
        self.check_unchanged()
        if array_dtype(entry.dtype) is None:
            raise ModelError(
                f"{key!r} in {self.path!r} is of type {entry.dtype}, which NumPy does not have"
            )
        value = self.load(key)
        if value.shape != entry.shape:
            raise ModelError(
                f"{self.path!r} is damaged: {key!r} is listed as {list(entry.shape)}, and read as "
                f"{list(value.shape)}"
            )
        return value

    def check_unchanged(self) -> None:
        """Check that the files have not changed since they were opened.

        Raises:
            JobError: a file has another size or time, or no longer exists.
        """
        for file, stamp in self._stamps.items():
            stamp.check(file)

    def _check(self, key: str) -> None:
        if key not in self.entries:
            raise UnknownTensorError(
                f"{self.path!r} holds no {key!r}. {choices(key, self.entries)}"
            )


def array_dtype(name: str) -> np.dtype[np.generic] | None:
    """Return the array type for an entry's dtype, or None if there is none."""
    if name == TEXT:
        return np.dtype(object)
    if is_extended(name):
        extended: np.dtype[np.generic] = np.dtype(getattr(ml_dtypes, name))
        return extended
    try:
        dtype = np.dtype(name)
    except TypeError:
        return None
    return dtype if dtype.kind in "biufc" else None


def is_extended(name: str) -> bool:
    """Return whether ml_dtypes adds this type to NumPy's: bfloat16, 8-bit floats."""
    return name.startswith(("bfloat", "float", "int", "uint")) and hasattr(ml_dtypes, name)


def damaged(at: str, what: str) -> ModelError:
    """Return the error for a file that could not be read to its end."""
    return ModelError(f"{at} is damaged, or not whole: {what}")


@dataclass(frozen=True)
class WeightScope:
    """The scope of a file that holds all of a model's weights.

    Attributes:
        keys: The key in the file for each of the model's paths, in order.
        outside: The other keys of the file.
    """

    keys: tuple[str, ...]
    outside: tuple[str, ...]


def find_scope(
    paths: Sequence[str],
    names: Mapping[str, str],
    at: str,
    may_be_left: Callable[[str], bool] = lambda key: False,
    *,
    droppable: int,
) -> WeightScope | None:
    """Return the scope of a file that holds all of a model's weights, or None.

    The model's own name may be removed from the paths, and the scope's prefix added. No other
    weight may be in the scope.

    Args:
        paths: The paths of the model's weights.
        names: The path of each weight in the file, by its key.
        at: The file's name in messages.
        may_be_left: Whether a key in the scope may be unused after all.
        droppable: The number of leading parts of all paths that are names of the model. Names of
            layers are kept, since the weights could otherwise be those of another layer.

    Raises:
        ModelError: Several scopes hold the weights.
    """
    keys = {name: key for key, name in reversed(tuple(names.items()))}
    shared = _shared(paths)
    for depth in range(min(len(shared), droppable) + 1):
        rests = ["/".join(path.split("/")[depth:]) for path in paths]
        if not any("/" in rest for rest in rests):
            break  # `kernel` and `bias` would match any layer
        ending = [name for name in dict.fromkeys(names.values()) if _ends(name, rests[0])]
        prefixes = [name.removesuffix(rests[0]) for name in ending]
        inside = "".join(f"{part}/" for part in shared[depth:])
        found = [
            (prefix, scope)
            for prefix in prefixes
            if (scope := _scope(prefix, rests, keys, names)) is not None
            and not any(
                names[key].startswith(prefix + inside) and not may_be_left(key)
                for key in scope.outside
            )
        ]
        if len(found) > 1:
            several = " and ".join(repr(f"{prefix}{inside}") for prefix, _ in found[:2])
            raise ModelError(
                f"{at} holds the weights of the model more than once: under {several}. "
                f"Give a file with one of them"
            )
        if found:
            return found[0][1]
    return None


def _scope(
    prefix: str, rests: Sequence[str], keys: Mapping[str, str], names: Mapping[str, str]
) -> WeightScope | None:
    wanted = {prefix + rest: None for rest in rests}
    if not all(name in keys for name in wanted):
        return None
    left = tuple(key for key, name in names.items() if name not in wanted)
    return WeightScope(tuple(keys[name] for name in wanted), left)


def _shared(paths: Sequence[str]) -> list[str]:
    """Return the leading parts that all paths share, without the last part of a path."""
    shared: list[str] = []
    for parts in zip(*(path.split("/")[:-1] for path in paths), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return shared


def _ends(name: str, rest: str) -> bool:
    return name == rest or name.endswith(f"/{rest}")
