"""TensorFlow's own checkpoints: of TF1's Saver (both formats) and of TF2's objects.

A checkpoint is named by its prefix: `model.ckpt-100` stands for `model.ckpt-100.index` and
`model.ckpt-100.data-00000-of-00001`. The prefix may end in a slash, the files' own names then
begin with the dot. The first format, of 2015, is one file of the prefix's own name.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from extractkit.advice import override
from extractkit.errors import ModelError, choices, nearest
from extractkit.models.foreign import told
from extractkit.models.tensorflow_process import quiet_start
from extractkit.models.weight_files.checkpoint_files import (
    INDEX_ENDING,
    checkpoint_files,
    refuse_pattern,
)
from extractkit.models.weight_files.tensorflow_places import (
    OBJECT_GRAPH,
    object_averages,
    object_names,
    places,
)
from extractkit.models.weight_files.weight_file import Entry, WeightFile, damaged
from extractkit.values import Array, as_array

STATE_FILE = "checkpoint"

_LATEST = re.compile(rb'^\s*model_checkpoint_path:\s*"((?:[^"\\]|\\.)*)"', re.MULTILINE)
# The last eight bytes of an SSTable, which a checkpoint of the first format is.
_TABLE_MAGIC = bytes.fromhex("57fb808b247547db")

_FORMAT = "TensorFlow checkpoint"


def is_old_checkpoint(file: Path) -> bool:
    """Whether a file is a checkpoint of the first format."""
    with file.open("rb") as opened:
        size = opened.seek(0, 2)
        opened.seek(max(0, size - len(_TABLE_MAGIC)))
        return opened.read() == _TABLE_MAGIC


def exists(prefix: str) -> bool:
    """Whether there is a checkpoint of this prefix, of either format."""
    return Path(prefix + INDEX_ENDING).is_file() or Path(prefix).is_file()


def latest(folder: Path, at: str) -> str | None:
    """The prefix that the folder's state file names as the latest; None without such a file.

    Checkpoints are moved, their state files keep naming the place where they were written: what
    stands beside the state file goes first.

    Raises:
        ModelError: it names no checkpoint, or one that is not there.
    """
    state = folder / STATE_FILE
    if not state.is_file():
        return None
    named = _LATEST.search(state.read_bytes())
    if named is None:
        raise ModelError(f"{at}: {STATE_FILE!r} in it names no checkpoint")
    try:
        # The text format of protocol buffers writes what is not ASCII as its UTF-8 in octals.
        recorded = named[1].decode("unicode_escape").encode("latin-1").decode("utf-8")
    except UnicodeError as error:
        raise ModelError(f"{at}: {STATE_FILE!r} in it is damaged: {told(error)}") from error
    _, slash, name = recorded.rpartition("/")
    for prefix in (f"{folder}/{name}", recorded if slash else None):
        if prefix is not None and "\0" not in prefix and exists(prefix):
            return prefix
    raise ModelError(
        f"{at}: its file {STATE_FILE!r} names {recorded!r}, which is neither there nor in the "
        f"folder. {_instead(at.partition('=')[0], folder, name)}"
    )


def _instead(key: str, folder: Path, name: str) -> str:
    if present := nearest(name, _prefixes(folder)):
        return f"{choices(name, present)} Give one: {override(key, folder / present[0])}"
    return f"Copy the files {name}{INDEX_ENDING} and {name}.data-…-of-… there"


def _prefixes(folder: Path) -> list[str]:
    return [file.name.removesuffix(INDEX_ENDING) for file in folder.glob(f"*{INDEX_ENDING}")]


def open_checkpoint(prefix: str, at: str) -> WeightFile:
    """The checkpoint of a prefix.

    Args:
        at: how messages name what the user gave.

    Raises:
        ModelError: a file of it is missing or damaged, or there is nothing in it.
    """
    files = _files(prefix, at)
    refuse_pattern(prefix, at)
    with quiet_start():
        import tensorflow as tf
    try:
        # `tf.train.load_checkpoint` takes a prefix that ends in a slash for a directory.
        reader = tf.compat.v1.train.NewCheckpointReader(prefix)
        shapes = reader.get_variable_to_shape_map()
        dtypes = reader.get_variable_to_dtype_map()
    except _raised() as error:
        raise damaged(at, told(error)) from error
    entries = {
        key: Entry(dtypes[key].name, tuple(shape))
        for key, shape in shapes.items()
        if key != OBJECT_GRAPH
    }
    if not entries:
        raise ModelError(f"{at} is a checkpoint that holds no variables")
    load = _loader(reader, at)
    names: dict[str, str] = {}
    averages: tuple[str, ...] = ()
    if OBJECT_GRAPH in shapes:
        graph = load(OBJECT_GRAPH).item()
        names = object_names(graph)
        averages = tuple(key for key in object_averages(graph) if key in entries)
    shapes_alone = {key: entry.shape for key, entry in entries.items()}
    located = places(shapes_alone, names, averages)
    return WeightFile(prefix, _FORMAT, files, entries, located, load, averages)


def _loader(reader: Any, at: str) -> Callable[[str], Array]:
    def load(key: str) -> Array:
        try:
            value = reader.get_tensor(key)
        except _raised() as error:
            raise damaged(at, f"{key!r}: {told(error)}") from error
        return as_array(value)

    return load


def _raised() -> tuple[type[Exception], ...]:
    """What TensorFlow's reader raises; some of its status codes come as Python's own errors."""
    import tensorflow as tf

    return (tf.errors.OpError, IndexError, ValueError, RuntimeError, KeyError, TypeError)


def _files(prefix: str, at: str) -> tuple[Path, ...]:
    """The files of a checkpoint, every one of them there."""
    files = checkpoint_files(prefix)
    if not files[0].is_file() and Path(prefix).is_file():
        return (Path(prefix),)
    lacking = [file.name for file in files if not file.is_file()]
    if len(lacking) == len(files):
        folder = files[0].parent
        raise ModelError(
            f"{at}: there is no checkpoint {prefix!r}: none of its files exists. Checkpoints in "
            f"{str(folder)!r}: {choices(Path(prefix).name, _prefixes(folder))}"
        )
    if lacking:
        there = [file.name for file in files if file.is_file()]
        raise ModelError(
            f"{at}: {lacking[0]!r} is missing from the checkpoint in {str(files[0].parent)!r}, "
            f"which holds {there[0]!r}. Copy it there, too"
        )
    return files
