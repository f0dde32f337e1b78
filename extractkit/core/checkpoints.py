"""Checkpoints as an axis: their files, labels, steps and order. Pure Python."""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from extractkit.advice import override
from extractkit.errors import ConfigError, ModelError, choices

KEY = "model.checkpoints"
STEP_KEY = "model.checkpoint_step"

CheckpointFiles = Annotated[object, "text, list or null"]
"""The type of `model.checkpoints`."""

StepPattern = Annotated[object, "text or null"]
"""The type of `model.checkpoint_step`."""

_STEP_EXAMPLE = override(STEP_KEY, r"step_(\d+)")

_NUMBERED = re.compile(r"([^0-9]*)([0-9]*)")


def natural(text: str) -> list[tuple[str, int, str]]:
    """Return a sort key by which `layer_2` comes before `layer_10`."""
    return [(letters, int(digits or 0), digits) for letters, digits in _NUMBERED.findall(text)]


AXIS = "checkpoint"
"""The name of the outer axis of checkpoints."""

_GLOB_SIGNS = frozenset("*?[")
# A Saver of TensorFlow writes one checkpoint as several files with one prefix.
_INDEX = ".index"
_BESIDE = re.compile(r"\.(meta|data-\d+-of-\d+)$")
_STATE = "checkpoint"
_ENDINGS = (".weights.h5", ".h5", ".hdf5", ".keras", ".safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """One point on the axis.

    Attributes:
        label: its unique name on the axis.
        step: the number that `model.checkpoint_step` finds in its path; None without that key.
        path: the file, directory or prefix, absolute. Empty for a step of a training, whose
            weights no file holds.
        sha256: SHA-256 of the file; of several files, over their names, sizes and contents. Of a
            step, over every weight's address, dtype, shape and content.
        bytes: total size.
    """

    label: str
    step: int | None
    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class ExcludedCheckpoint:
    """A checkpoint that cannot be used: its label, its path, and the reason."""

    label: str
    path: str
    reason: str


@dataclass(frozen=True)
class Named:
    """A checkpoint that has not been read yet: its label, step and path."""

    label: str
    step: int | None
    path: str


def find_checkpoints(given: object, step: object = None) -> tuple[Named, ...]:
    """Return the checkpoints that a configuration names, in the order of the axis.

    A name that is not a glob is kept as it is, even if no such file exists. Matches of a glob are
    in natural order (`epoch_2` before `epoch_10`). With `step`, all are in the order of steps.

    Args:
        given: `model.checkpoints`: a path, a glob, or a list of them.
        step: `model.checkpoint_step`: a regular expression, searched in each path, whose first
            group (or whole match) is the step's number; None: no steps.

    Raises:
        ConfigError: a value is invalid, or steps are missing, not numbers or not unique.
        ModelError: a glob matches nothing.
    """
    paths = list(dict.fromkeys(path for one in _texts(given) for path in _matches(one)))
    labels = _labels(paths)
    if step is None:
        return tuple(Named(labels[path], None, path) for path in paths)
    pattern = _pattern(step)
    by_step: dict[int, str] = {}
    for path in paths:
        number = _step(pattern, path)
        if number in by_step:
            raise ConfigError(
                f"{STEP_KEY}={pattern.pattern!r} finds step {number} in {by_step[number]!r} and in "
                f"{path!r}. Give an expression that distinguishes them"
            )
        by_step[number] = path
    return tuple(Named(labels[p], number, p) for number, p in sorted(by_step.items()))


def _texts(given: object) -> Sequence[str]:
    texts = [given] if isinstance(given, str) else given
    if (
        not isinstance(texts, Sequence)
        or not texts
        or not all(isinstance(text, str) and text and "\0" not in text for text in texts)
    ):
        raise ConfigError(
            f"{KEY}={given!r} is not a path, a glob or a list of them. Give one: "
            f"{KEY}='checkpoints/*.weights.h5'"
        )
    return texts


def _matches(text: str) -> Iterator[str]:
    path = str(Path(text).expanduser().absolute())
    if Path(path).exists() or _GLOB_SIGNS.isdisjoint(text):
        yield path
        return
    # Relative if the text is: the name of the working directory may contain glob characters.
    matched = glob.glob(str(Path(text).expanduser()), recursive=True)  # noqa: PTH207 - any root
    found = sorted(_whole(str(Path(one).absolute()) for one in matched), key=natural)
    if not found:
        raise ModelError(f"{KEY}={text!r} matches nothing. {_prefixed(text) or _near(path)}")
    yield from found


def _whole(paths: Iterable[str]) -> set[str]:
    """Return each checkpoint once. Files beside an index belong to it."""
    named = {path for path in paths if os.path.basename(path) != _STATE}  # noqa: PTH119 - texts
    prefixes = {path.removesuffix(_INDEX) for path in named if path.endswith(_INDEX)}
    return prefixes | {
        path
        for path in named
        if not path.endswith(_INDEX) and not (_BESIDE.search(path) and _is_part(path))
    }


def _is_part(path: str) -> bool:
    return Path(_BESIDE.sub("", path) + _INDEX).exists()


def _prefixed(text: str) -> str | None:
    """Suggest a glob if the text is the start of names of TensorFlow checkpoints."""
    indices = f"{text}*{_INDEX}"
    if not glob.glob(str(Path(indices).expanduser()), recursive=True):  # noqa: PTH207 - any root
        return None
    return f"A glob matches whole names, so give the index files': {override(KEY, indices)}"


def _near(path: str) -> str:
    """List the nearest names in the nearest directory that exists."""
    folder = Path(path).parent
    while not folder.is_dir() or not _GLOB_SIGNS.isdisjoint(str(folder)):
        folder = folder.parent
    inside = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
    return f"In {str(folder)!r}: {choices(Path(path).name, inside)}"


def _labels(paths: Sequence[str]) -> dict[str, str]:
    """Return for each path its shortest unique ending: the file's name, or more if it is shared.

    Endings of file formats are omitted, unless only they differ.
    """
    bare = {path: _bare(path) for path in paths}
    names = bare if len(set(bare.values())) == len(bare) else {path: path for path in paths}
    parts = {path: Path(name).parts for path, name in names.items()}
    for depth in range(1, max(map(len, parts.values()), default=1) + 1):
        labels = {path: "/".join(own[-depth:]) for path, own in parts.items()}
        if len(set(labels.values())) == len(labels):
            return labels
    return names


def _bare(path: str) -> str:
    return next((path.removesuffix(end) for end in _ENDINGS if path.endswith(end)), path)


def _pattern(step: object) -> re.Pattern[str]:
    if not isinstance(step, str) or not step:
        raise ConfigError(
            f"{STEP_KEY}={step!r} is not a regular expression. Give one with the number in a "
            f"group: {_STEP_EXAMPLE}"
        )
    try:
        return re.compile(step)
    except re.error as error:
        raise ConfigError(f"{STEP_KEY}={step!r} is not a regular expression: {error}") from error


def _step(pattern: re.Pattern[str], path: str) -> int:
    found = pattern.search(path)
    if found is None:
        raise ConfigError(
            f"{STEP_KEY}={pattern.pattern!r} does not occur in {path!r}. It is searched in the "
            f"whole path of every checkpoint"
        )
    text = found.group(1) if pattern.groups else found.group()
    if text is None or not (text.isascii() and text.isdecimal()):
        raise ConfigError(
            f"{STEP_KEY}={pattern.pattern!r} finds {text!r} in {path!r}, which is not a whole "
            f"number. Put the number in a group: {_STEP_EXAMPLE}"
        )
    return int(text)
