"""What predicates can match in models that were listed before, which shells complete.

It is kept in the user's cache, a file for each model, and read without NumPy: a shell waits for it.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from extractkit.errors import JobError
from extractkit.store.local import cache_folder, private_cache, remove_oldest, write_durably

FOLDER = "completion"
"""Name of the folder in extractkit's cache."""

MOST_MODELS = 100
"""Number of models that are kept; the least recently listed others are removed."""


def keep(model: str, files: Iterable[Path], values: Mapping[str, Sequence[str]]) -> None:
    """Keep the values of a model, unless that fails.

    Args:
        model: the absolute path of its file or folder, or the loader of one without.
        files: its files. What is kept is not used once one of them has changed.
        values: for each predicate, the values that it can match: `{"op_type": ["Softmax"]}`.
    """
    folder = private_cache(FOLDER)
    if folder is None:
        return
    try:
        document = {"files": {str(path): _stamp(path) for path in files}, "values": values}
        write_durably(folder / _name(model), json.dumps(document).encode())
        remove_oldest(folder, "*.json", MOST_MODELS)
    except (OSError, JobError):
        return  # a full disk, for example


def kept(model: str) -> Mapping[str, Sequence[str]]:
    """Return the values of a model; none if it was not listed, or has changed since then."""
    folder = cache_folder()
    if folder is None:
        return {}
    try:
        document = json.loads((folder / FOLDER / _name(model)).read_bytes())
        unchanged = all(_stamp(Path(path)) == one for path, one in document["files"].items())
        return document["values"] if unchanged else {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}  # a damaged file counts as none


def _name(model: str) -> str:
    return f"{hashlib.sha256(os.fsencode(model)).hexdigest()}.json"


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
