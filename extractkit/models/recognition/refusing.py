"""Refusals of what a loader was given, in words of what it is."""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from extractkit.advice import override
from extractkit.errors import ModelError, choices, nearest
from extractkit.models.foreign import told
from extractkit.models.recognition.paths import recognize, remote

# How much of a file that nobody knows is shown.
_SHOWN = 12
# How many names of what a folder holds are.
_MOST = 5


def refuse_unreachable(path: str, key: str = "model.path") -> None:
    """Refuse a path that is not on this machine, or that this machine cannot look up.

    Raises:
        ModelError: it is a URL, it is longer than names may be, it names a user that does not
            exist, or a folder on it may not be entered.
    """
    if (elsewhere := remote(path)) is not None:
        raise ModelError(f"{key}={path!r} is {elsewhere.what}. {elsewhere.advice}")
    try:
        Path(path).expanduser().exists()
    except OSError as error:
        raise ModelError(f"{key}={path!r} cannot be looked up: {error.strerror}") from error
    except RuntimeError as error:  # of `~user`
        raise ModelError(f"{key}={path!r} cannot be looked up: {error}") from error


def refuse_others(path: str, *models: str, key: str = "model.path") -> None:
    """Refuse what is certainly for other formats than these, or for none, and say what it is.

    What is not recognized passes: the loader itself reports what it lacks.

    Args:
        path: as it was given.
        models: entries of the `model` group that the loader takes.

    Raises:
        ModelError: as above.
    """
    refuse_unreachable(path, key)
    try:
        found = recognize(path)
    except OSError:
        return  # the loader reports why it cannot be read
    if found is None or found.model in models:
        return
    if found.model is None:
        raise ModelError(f"{key}={path!r} is {found.what}. {found.advice}")
    raise ModelError(
        f"{key}={path!r} is {found.what}. That is for model={found.model} "
        f"{override('model.path', found.path)}{f'. {found.advice}' if found.advice else ''}"
    )


def refuse_missing(
    path: str,
    *models: str,
    kind: str,
    fits: Callable[[Path], bool],
    key: str = "model.path",
    ending: str = "",
    more: str = "",
) -> NoReturn:
    """Refuse a path at which there is nothing, and name what there is.

    Args:
        path: as it was given.
        models: as of `refuse_others`, for the prefix of a checkpoint, which is no file.
        kind: what the loader reads, in the plural: "graphs".
        fits: whether an entry of the folder is one of these.
        key: the configuration key.
        ending: of the entries' names, left out.
        more: what to add.

    Raises:
        ModelError: always.
    """
    refuse_others(path, *models, key=key)
    given = Path(path).expanduser()
    at = f"{key}={path!r} does not exist"
    above = next((one for one in given.parents if one.is_dir()), Path())
    if above != given.parent:
        wanted = given.parts[len(above.parts)]
        if (above / wanted).exists():
            raise ModelError(f"{at}: {str(above / wanted)!r} is a file, not a folder.{more}")
        folders = [entry.name for entry in above.iterdir() if entry.is_dir()]
        raise ModelError(
            f"{at}: there is no folder {str(above / wanted)!r}. Folders in {str(above)!r}: "
            f"{choices(wanted, folders)}{more}"
        )
    found = [entry.name.removesuffix(ending) for entry in above.iterdir() if fits(entry)]
    if not found:
        raise ModelError(f"{at}, and there are no {kind} in {str(above)!r}.{more}")
    raise ModelError(
        f"{at}. {kind.capitalize()} in {str(above)!r}: {choices(given.name, found)}{more}"
    )


def refuse_damaged(
    path: str, file: Path, what: str, error: BaseException, *models: str, key: str = "model.path"
) -> NoReturn:
    """Refuse a file that its reader failed on: as damaged only where it is of that format.

    Args:
        path: as it was given.
        file: the one that was read.
        what: what it should be, with its article: "a GraphDef".
        error: what the reader raised.
        models: as of `refuse_others`.
        key: the configuration key.

    Raises:
        ModelError: always.
    """
    refuse_others(str(file), *models, key=key)
    if isinstance(error, OSError) and error.strerror:
        raise ModelError(f"{key}={path!r} cannot be read: {error.strerror}") from error
    if recognize(str(file)) is None:
        refuse_unknown(path, file, what, key)
    raise ModelError(
        f"{key}={path!r}: {file.name!r} is {what} that is damaged or cut off ({told(error)}). "
        f"Copy it again"
    ) from error


def refuse_unknown(path: str, file: Path, what: str, key: str = "model.path") -> NoReturn:
    """Refuse a file that is not what it should be, nor anything else that is known.

    Args:
        path: as it was given.
        file: the one that was read.
        what: what it should be, with its article: "a GraphDef".
        key: the configuration key.

    Raises:
        ModelError: always.
    """
    with file.open("rb") as opened:
        head = opened.read(_SHOWN)
    raise ModelError(
        f"{key}={path!r} is not {what}, and its format is unknown: {file.name!r} begins with "
        f"{head!r}"
    )


def held(folder: Path, wanted: str = "") -> str:
    """Return a sentence that says what a folder holds: what is most like `wanted`."""
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    shown = nearest(wanted, names, _MOST) if wanted else names[:_MOST]
    more = len(names) - len(shown)
    listed = ", ".join(map(repr, shown)) + (f" and {more:,} more" if more else "")
    return f"It holds {listed}." if names else "It is empty."
