"""TensorFlow's own checkpoints: from TF1's Saver (both formats) and from TF2's objects.

TF1's Saver writes a variable's name, `conv/kernel`, and an optimizer's slots below it,
`conv/kernel/Adam_1`. TF2 writes the attributes that lead to a variable,
`model/layer-1/kernel/.ATTRIBUTES/VARIABLE_VALUE`.

A checkpoint is named by its prefix: `model.ckpt-100` means `model.ckpt-100.index` and
`model.ckpt-100.data-00000-of-00001`. If the prefix ends in a slash, the files' names begin with the
dot. The first format, of 2015, is one file with the name of the prefix.
"""

import re
import shlex
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from extractkit.advice import override
from extractkit.core.values import Array, as_array
from extractkit.errors import ModelError, choices, nearest
from extractkit.models.failures import error_summary
from extractkit.models.process import quiet_start
from extractkit.models.weight_files.weight_file import (
    AVERAGE,
    AVERAGE_SLOTS,
    Entry,
    Location,
    WeightFile,
    damaged,
)

INDEX_ENDING = ".index"

# Characters with a meaning in the patterns by which TensorFlow searches a checkpoint's files.
_WILD = "*?[\\"

_SHARD = re.compile(r"\.data-\d{5}-of-(\d{5})")


def checkpoint_files(prefix: str) -> tuple[Path, ...]:
    """Return the index and the shards that belong to a prefix, whether or not they exist.

    The number of shards follows from the names of existing ones. It is 1 if there are none.
    """
    index = Path(prefix + INDEX_ENDING)
    folder, start = index.parent, index.name.removesuffix(INDEX_ENDING)
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    endings = [name[len(start) :] for name in names if name.startswith(start)]
    counts = [int(found[1]) for ending in endings if (found := _SHARD.fullmatch(ending))]
    count = max(counts, default=1)
    shards = (folder / f"{start}.data-{number:05}-of-{count:05}" for number in range(count))
    return (index, *shards)


def missing_file(prefix: str) -> Path | None:
    """Return the first file that a checkpoint lacks, or None if it is complete."""
    return next((file for file in checkpoint_files(prefix) if not file.is_file()), None)


def refuse_pattern(prefix: str, at: str) -> None:
    """Refuse a prefix that TensorFlow would interpret as a pattern and not find.

    Raises:
        ModelError: the prefix contains such a character.
    """
    wild = [char for char in _WILD if char in prefix]
    if not wild:
        return
    given = Path(prefix)
    if any(char in given.name for char in wild):
        advice = f"Rename its files, {given.name!r} and so on"
    else:
        link = shlex.join(["ln", "-s", str(given.parent.absolute()), "NAME"])
        advice = f"Rename the folder, or give a link to it: {link}, then the path with NAME"
    raise ModelError(
        f"{at}: TensorFlow takes {' and '.join(map(repr, wild))} in the path of a checkpoint for a "
        f"pattern, and so does not find {prefix!r}. {advice}"
    )


OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
"""The key of TF2's object graph."""

_ATTRIBUTES = "/.ATTRIBUTES/"
_SLOTS = "/.OPTIMIZER_SLOT/"
_VALUE = "VARIABLE_VALUE"
# Keras's optimizers refer to the model's variables, and the shortest path to each is its key.
_OF_THE_MODEL = "_trainable_variables"
_ESCAPED = re.compile(r"\.([S.])")

_COUNTERS = re.compile(r"(?:.*/)?(?:global_step|save_counter|beta[12]_power(?:_\d+)?)")
_SLOT_NAMES = re.compile(
    r"(?:Adam|AdaMax|Adagrad|Adadelta|Ftrl|LARSOptimizer|LAMB|Momentum|RMSProp)(?:_\d+)?"
)
_KEPT_BY_KERAS = "_model_variables_moving_average"
_ITERATIONS = ("_iterations", "iterations", "iter")
_METRICS = "keras_api/metrics/"

Shape = tuple[int, ...]


def locations(
    shapes: Mapping[str, Shape], names: Mapping[str, str], averages: Collection[str] = ()
) -> dict[str, Location]:
    """Return the location of every variable.

    Args:
        shapes: the shapes of all variables, by key.
        names: better names for some variables, from `object_names`.
        averages: keys of moving averages, from `object_averages`.
    """
    paths = {key: names.get(key, key).partition(_ATTRIBUTES)[0] for key in shapes}
    optimizers = _optimizers(paths.values())
    several = len({_slot_parts(path)[1] for path in paths.values() if _SLOTS in path}) > 1
    found = {}
    for key, path in paths.items():
        if _SLOTS in path:
            found[key] = _object_slot(path, several)
        elif _ATTRIBUTES in key:
            attribute = key.partition(_ATTRIBUTES)[2]
            found[key] = _object(path, attribute, optimizers)
        else:
            found[key] = _graph_variable(key, shapes, optimizers)
    return {
        key: replace(location, average=key in averages or _last(location.slot) in AVERAGE_SLOTS)
        for key, location in found.items()
    }


def _last(slot: str | None) -> str | None:
    return slot and slot.rpartition("/")[2]


def object_averages(graph: bytes) -> list[str]:
    """Return the keys of a Keras optimizer's averages, in the order of the weights.

    Args:
        graph: the checkpoint's value of `OBJECT_GRAPH`.
    """
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    nodes = TrackableObjectGraph.FromString(graph).nodes
    lists = {
        child.node_id
        for node in nodes
        for child in node.children
        if child.local_name == _KEPT_BY_KERAS
    }
    if len(lists) != 1:  # with two optimizers, the owner of the averages is ambiguous
        return []
    items = nodes[lists.pop()].children
    in_order = sorted(
        (int(item.local_name), item.node_id) for item in items if item.local_name.isdecimal()
    )
    return [
        attribute.checkpoint_key for _, number in in_order for attribute in nodes[number].attributes
    ]


def object_names(graph: bytes) -> dict[str, str]:
    """Return the names for the model's variables whose keys lead through an optimizer.

    Args:
        graph: the checkpoint's value of `OBJECT_GRAPH`.

    Returns:
        By key, the attributes on the variable's shortest path without an optimizer.
    """
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    nodes = TrackableObjectGraph.FromString(graph).nodes
    names: dict[str, str] = {}
    seen, queue = {0}, deque([(0, "")])
    while queue:
        number, path = queue.popleft()
        for attribute in nodes[number].attributes:
            key = attribute.checkpoint_key
            if f"/{_OF_THE_MODEL}/" in key and path:
                names.setdefault(key, f"{path}{_ATTRIBUTES}{attribute.name}")
        for child in nodes[number].children:
            inside = nodes[child.node_id].children
            is_optimizer = any(one.local_name in _ITERATIONS for one in inside)
            if child.node_id not in seen and not is_optimizer:
                seen.add(child.node_id)
                name = child.local_name.replace(".", "..").replace("/", ".S")
                queue.append((child.node_id, f"{path}/{name}" if path else name))
    return names


def _optimizers(paths: Iterable[str]) -> set[str]:
    """Return the paths of objects (TF1: scopes) that count iterations, and that have slots."""
    found = {"optimizer"}
    for path in paths:
        above, _, name = path.rpartition("/")
        if _SLOTS in path:
            found.add(_slot_parts(path)[1])
        elif above and name in _ITERATIONS:
            found.add(above)
    return found


def _slot_parts(path: str) -> tuple[str, str, str]:
    """Return variable, optimizer and slot of `VARIABLE/.OPTIMIZER_SLOT/OPTIMIZER/SLOT`."""
    variable, _, rest = path.partition(_SLOTS)
    optimizer, _, slot = rest.rpartition("/")
    return variable, optimizer, slot


def _object_slot(path: str, several: bool) -> Location:
    variable, optimizer, slot = _slot_parts(path)
    *layers, name = _unescaped(variable)
    return Location(tuple(layers), name, f"{optimizer}/{slot}" if several else slot, training=True)


def _object(path: str, attribute: str, optimizers: set[str]) -> Location:
    parts = _unescaped(path)
    training = (
        path == "save_counter"
        or path.startswith(_METRICS)
        or (_within(path, optimizers) and _OF_THE_MODEL not in parts)
    )
    if attribute != _VALUE:  # such as the keys of a table
        return Location(parts, attribute, training=training)
    return Location(parts[:-1], parts[-1], training=training)


def _graph_variable(key: str, shapes: Mapping[str, Shape], optimizers: set[str]) -> Location:
    parent, _, slot = key.rpartition("/")
    if _is_slot(parent, slot, shapes[key], shapes):
        *layers, variable = parent.split("/")
        return Location(tuple(layers), variable, slot, training=slot != AVERAGE)
    *layers, variable = key.split("/")
    training = _within(key, optimizers) or _COUNTERS.fullmatch(key) is not None
    return Location(tuple(layers), variable, training=training)


def _is_slot(parent: str, slot: str, shape: Shape, shapes: Mapping[str, Shape]) -> bool:
    """Return whether a variable is a slot of the variable that is its prefix."""
    if parent in shapes:
        return shape in (shapes[parent], ())
    if _SLOT_NAMES.fullmatch(slot) is None:
        return False
    # An optimizer inside a variable scope puts the scope before the variable's name.
    while parent := parent.partition("/")[2]:
        if parent in shapes:
            return shape == shapes[parent]
    return False


def _within(path: str, above: set[str]) -> bool:
    return any(path == one or path.startswith(f"{one}/") for one in above)


def _unescaped(path: str) -> tuple[str, ...]:
    """Return the attributes of a path, unescaped: `.S` is a slash and `..` a dot."""
    return tuple(
        _ESCAPED.sub(lambda found: "/" if found[1] == "S" else ".", part)
        for part in path.split("/")
    )


STATE_FILE = "checkpoint"

_LATEST = re.compile(rb'^\s*model_checkpoint_path:\s*"((?:[^"\\]|\\.)*)"', re.MULTILINE)
# The last eight bytes of an SSTable, the file format of the first checkpoints.
_TABLE_MAGIC = bytes.fromhex("57fb808b247547db")

_FORMAT = "TensorFlow checkpoint"


def is_old_checkpoint(file: Path) -> bool:
    """Return whether a file is a checkpoint of the first format."""
    with file.open("rb") as opened:
        size = opened.seek(0, 2)
        opened.seek(max(0, size - len(_TABLE_MAGIC)))
        return opened.read() == _TABLE_MAGIC


def exists(prefix: str) -> bool:
    """Return whether there is a checkpoint of this prefix, of either format."""
    return Path(prefix + INDEX_ENDING).is_file() or Path(prefix).is_file()


def latest(folder: Path, at: str) -> str | None:
    """Return the latest prefix in the folder's state file, or None without such a file.

    After a move, a state file still names the old folder, so files beside the state file are
    preferred.

    Raises:
        ModelError: it does not name a checkpoint, or the checkpoint does not exist.
    """
    state = folder / STATE_FILE
    if not state.is_file():
        return None
    named = _LATEST.search(state.read_bytes())
    if named is None:
        raise ModelError(f"{at}: {STATE_FILE!r} in it names no checkpoint")
    try:
        # The text format of protocol buffers writes non-ASCII characters as octal UTF-8 bytes.
        recorded = named[1].decode("unicode_escape").encode("latin-1").decode("utf-8")
    except UnicodeError as error:
        raise ModelError(
            f"{at}: {STATE_FILE!r} in it is damaged: {error_summary(error)}"
        ) from error
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
    """Return the checkpoint of a prefix.

    Args:
        at: the name for messages.

    Raises:
        ModelError: a file is missing or damaged, or the checkpoint is empty.
    """
    files = _files(prefix, at)
    refuse_pattern(prefix, at)
    with quiet_start():
        import tensorflow as tf
    try:
        # `tf.train.load_checkpoint` treats a prefix that ends in a slash as a directory.
        reader = tf.compat.v1.train.NewCheckpointReader(prefix)
        shapes = reader.get_variable_to_shape_map()
        dtypes = reader.get_variable_to_dtype_map()
    except _raised() as error:
        raise damaged(at, error_summary(error)) from error
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
    located = locations(shapes_alone, names, averages)
    return WeightFile(prefix, _FORMAT, files, entries, located, load, averages)


def _loader(reader: Any, at: str) -> Callable[[str], Array]:
    def load(key: str) -> Array:
        try:
            value = reader.get_tensor(key)
        except _raised() as error:
            raise damaged(at, f"{key!r}: {error_summary(error)}") from error
        return as_array(value)

    return load


def _raised() -> tuple[type[Exception], ...]:
    """Return the error types of TensorFlow's reader, including Python's own."""
    import tensorflow as tf

    return (tf.errors.OpError, IndexError, ValueError, RuntimeError, KeyError, TypeError)


def _files(prefix: str, at: str) -> tuple[Path, ...]:
    """Return the files of a checkpoint, all of which exist."""
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
