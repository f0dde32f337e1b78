"""Recognition of the format of a path from its content, or of why it is not supported.

    recognize("model.pb").model  # "frozen_graph"
    recognize("model.pt").what  # "a pickle of PyTorch"

Files are inspected, never loaded. TensorFlow is not imported, and neither HDF5 files nor pickles
are opened. Loaders refuse a path by what it is.
"""

import importlib.util
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from extractkit.advice import override
from extractkit.errors import ModelError, choices, nearest
from extractkit.models.failures import error_summary
from extractkit.models.recognition.content import EMPTY, SPLIT, Recognized, recognize_file

__all__ = [
    "Recognized",
    "held",
    "recognize",
    "refuse_damaged",
    "refuse_missing",
    "refuse_others",
    "refuse_unknown",
    "refuse_unreachable",
]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_HUGGING_FACE = ("huggingface.co/", "hf.co/")
# The parts of a hub page's address between the repository and the revision.
_PAGES = ("tree", "blob", "resolve")
# The ending of a file in a URL. `.0` in `bert-1.0` is not one.
_ENDING = re.compile(r"\.[A-Za-z]\w*$")
SAVED_MODELS = ("saved_model.pb", "saved_model.pbtxt")
# Written by keras-hub, formerly KerasNLP.
_KERAS_HUB = {"keras_hub_version", "keras_nlp_version"}
KERAS_METADATA = "keras_metadata.pb"
"""The file in which Keras 2 saves the configurations of layers beside a SavedModel's graph."""


def recognize(path: str) -> Recognized | None:
    """Return what a path holds, or None if nothing exists there or it is not recognised.

    Nothing is loaded, and TensorFlow is not imported.

    Args:
        path: the path as typed: a file, a folder, the prefix of a checkpoint, a URL.

    Raises:
        OSError: the file cannot be read.
    """
    if (elsewhere := remote(path)) is not None:
        return elsewhere
    if "\0" in path:
        return None
    given = Path(path).expanduser()
    if given.is_dir():
        return _folder(given)
    if given.is_file():
        return recognize_file(given)
    return _prefix(given)


def remote(path: str) -> Recognized | None:
    """Return advice for a path that is not on this machine, or None if it is."""
    found = _SCHEME.fullmatch(path)
    if found is None:
        return None
    scheme, rest = found[1].lower(), found[2]
    if scheme == "file":
        from urllib.request import url2pathname

        local = url2pathname(rest.removeprefix("localhost"))
        return Recognized("a URL of a local file", advice=f"Give its path: {local}")
    words = _fetching(scheme, path, rest)
    how = f": {shlex.join(words)}" if words else ""
    return Recognized(
        "not on this machine",
        advice=f"Copy it to this machine and give the path of the copy{how}",
    )


def _fetching(scheme: str, path: str, rest: str) -> list[str]:
    """Return the words of the command that copies a URL, or none if unknown."""
    match scheme:
        case "gs":
            return ["gcloud", "storage", "cp", "-r", path, "."]
        case "s3" if _ENDING.search(path):  # with --recursive a single object is not copied
            return ["aws", "s3", "cp", path, "."]
        case "s3":
            return ["aws", "s3", "cp", "--recursive", path, "NAME"]
        case "hf":
            return _from_hub(rest)
        case "http" | "https":
            for host in _HUGGING_FACE:
                if rest.startswith(host):
                    return _from_hub(rest.removeprefix(host))
            return ["curl", "-LO", path]
    return []


def _from_hub(address: str) -> list[str]:
    """Return the words of the command that downloads `OWNER/NAME[@REVISION][/INSIDE]`.

    It may also be the address of a page: `OWNER/NAME/tree/REVISION/INSIDE`.
    """
    parts = [part for part in address.partition("?")[0].split("/") if part]
    # A few of the oldest repositories have no owner.
    length = 1 if len(parts) > 1 and parts[1] in _PAGES else 2
    repository, _, revision = "/".join(parts[:length]).partition("@")
    inside = parts[length:]
    if inside and inside[0] in _PAGES:
        revision, inside = "".join(inside[1:2]), inside[2:]
    words = ["hf", "download", repository]
    if inside and _ENDING.search(inside[-1]):
        words.append("/".join(inside))
    elif inside:
        words += ["--include", "/".join([*inside, "*"])]
    if revision and revision != "main":
        words += ["--revision", revision]
    return [*words, "--local-dir", "NAME"]


def _folder(folder: Path) -> Recognized | None:
    inside = {entry.name for entry in folder.iterdir()}
    path = str(folder)
    if inside & set(SAVED_MODELS):
        # tf-keras reads its layers; its graph can be read without tf-keras.
        if KERAS_METADATA in inside and importlib.util.find_spec("tf_keras") is not None:
            return Recognized("a SavedModel of Keras 2", "keras", path)
        return Recognized("a SavedModel", "saved_model", path)
    if "saved_model.cpb" in inside:
        return Recognized("a SavedModel in TensorFlow's split format", advice=SPLIT)
    if "bert_config.json" in inside:
        return Recognized("a BERT as Google released it", "bert", path)
    if "config.json" in inside:
        return _configured(folder)
    if "model.json" in inside and (found := recognize_file(folder / "model.json")) is not None:
        return found
    if "variables.index" in inside or "variables" in inside:
        return _variables(folder)
    return _of_files(folder, inside)


def _configured(folder: Path) -> Recognized | None:
    """Recognize a folder with a `config.json`: Hugging Face, keras-hub, or an unpacked archive."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (ValueError, OSError):
        return None
    if not isinstance(config, dict):
        return None
    if "model_type" in config:
        return Recognized("a model of Hugging Face", "hugging_face", str(folder))
    if not (folder / "metadata.json").is_file():
        return None
    if _is_archive_of_keras(folder):
        pack = f"python -m zipfile -c NAME.keras {shlex.quote(str(folder))}/*"
        return Recognized(
            "a .keras archive that was unpacked",
            advice=f"Pack it again: {pack}, then model=keras model.path=NAME.keras",
        )
    return Recognized("a preset of keras-hub", "keras_hub", str(folder))


def _is_archive_of_keras(folder: Path) -> bool:
    """Return whether `metadata.json` belongs to a Keras model.

    keras-hub also records its own version.
    """
    try:
        noted = json.loads((folder / "metadata.json").read_text("utf-8"))
    except (ValueError, OSError):
        return False
    return isinstance(noted, dict) and "keras_version" in noted and not _KERAS_HUB & set(noted)


def _variables(folder: Path) -> Recognized | None:
    """Recognize the variables of a SavedModel whose graph is missing."""
    for candidate in (folder, folder / "variables"):
        if (candidate / "variables.index").is_file():
            found = recognize_file(candidate / "variables.index")
            whole = candidate.parent
            if any((whole / name).is_file() for name in SAVED_MODELS):
                return Recognized("the variables of a SavedModel", "saved_model", str(whole))
            if found is not None and found.model is not None:
                return Recognized(
                    "the variables of a SavedModel without its saved_model.pb",
                    "checkpoint",
                    found.path,
                    advice="Copy saved_model.pb beside the folder variables for the whole model",
                )
            return found
    return None


def _of_files(folder: Path, inside: set[str]) -> Recognized | None:
    """Recognize a folder with the files of a checkpoint, or with one recognised file."""
    metas = [name for name in inside if name.endswith(".meta")]
    indices = [name for name in inside if name.endswith(".index")]
    if metas:
        return Recognized(
            "a folder of graphs and checkpoints of TensorFlow 1", "meta_graph", str(folder)
        )
    if indices:
        return Recognized("a folder of TensorFlow checkpoints", "checkpoint", str(folder))
    files = [folder / name for name in sorted(inside) if (folder / name).is_file()]
    found = [one for one in map(recognize_file, files) if one is not None and one is not EMPTY]
    readable = [one for one in found if one.model is not None]
    alone = readable if readable else found
    if len(alone) != 1:
        return None
    return replace(alone[0], what=f"a folder with {alone[0].what} in it")


def _prefix(given: Path) -> Recognized | None:
    """Recognize the prefix of a checkpoint, which is not the name of a file."""
    if not given.parent.is_dir() or not given.name:
        return None
    if (index := given.with_name(f"{given.name}.index")).is_file():
        return recognize_file(index)
    shards = [
        entry
        for entry in given.parent.iterdir()
        if entry.name.startswith(f"{given.name}.data-") and entry.is_file()
    ]
    if shards:
        return recognize_file(min(shards))
    meta = given.with_name(f"{given.name}.meta")
    return recognize_file(meta) if meta.is_file() else None


# The number of bytes of an unknown file to show.
_SHOWN = 12
# Number of names in a folder to show.
_MOST = 5


def refuse_unreachable(path: str, key: str = "model.path") -> None:
    """Refuse a path that is not on this machine or cannot be looked up.

    Raises:
        ModelError: it is a URL, it is too long, it names a user that does not exist, or a folder in
            it cannot be entered.
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
    """Refuse a path that is recognised as another format than these, and name the format.

    An unrecognised path is accepted: the loader itself reports the problem.

    Args:
        path: the path as given.
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
    """Refuse a path that does not exist, and list what exists.

    Args:
        path: the path as given.
        models: see `refuse_others`; for the prefix of a checkpoint, which is not a file.
        kind: what the loader reads, as a plural noun: "graphs".
        fits: returns whether an entry of the folder is one of these.
        key: the configuration key.
        ending: the ending of entries' names to omit.
        more: a sentence to add.

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
    """Refuse a file that its reader failed on: as damaged only if it is of that format.

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
        f"{key}={path!r}: {file.name!r} is {what} that is damaged or cut off "
        f"({error_summary(error)}). "
        f"Copy it again"
    ) from error


def refuse_unknown(path: str, file: Path, what: str, key: str = "model.path") -> NoReturn:
    """Refuse a file that is neither what it should be nor recognised.

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
    """Return a sentence on what a folder holds, nearest to `wanted` first."""
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    shown = nearest(wanted, names, _MOST) if wanted else names[:_MOST]
    more = len(names) - len(shown)
    listed = ", ".join(map(repr, shown)) + (f" and {more:,} more" if more else "")
    return f"It holds {listed}." if names else "It is empty."
