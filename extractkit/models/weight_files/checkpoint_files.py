"""Which files a checkpoint of TensorFlow is made of, told by their names."""

import re
import shlex
from pathlib import Path

from extractkit.errors import ModelError

INDEX_ENDING = ".index"

# What TensorFlow looks for the files of a checkpoint with, even for those of one prefix.
_WILD = "*?[\\"

_SHARD = re.compile(r"\.data-\d{5}-of-(\d{5})")


def checkpoint_files(prefix: str) -> tuple[Path, ...]:
    """Return the index and the shards that belong to a prefix, whether or not they exist.

    How many shards there are is told by the names of those that exist; one where none does.
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
    """Return the first file that a checkpoint lacks; None where it is complete."""
    return next((file for file in checkpoint_files(prefix) if not file.is_file()), None)


def refuse_pattern(prefix: str, at: str) -> None:
    """Refuse a prefix that TensorFlow takes for a pattern, and so does not find.

    Raises:
        ModelError: there is such a character in it.
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
