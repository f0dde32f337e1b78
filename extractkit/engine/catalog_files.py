"""Catalogs of model files, kept on disk to list a model's tensors again without TensorFlow.

A catalog is found by the content of the model's files, the arguments of its loader and the versions
of all code that decides what they mean. Models that Python code builds have no such file.
"""

import builtins
import hashlib
import json
import logging
import os
import platform
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from extractkit.core.catalog import Catalog, Edges, Kind, Scope, TensorRecord
from extractkit.core.component import Component
from extractkit.core.spec import TensorSpec
from extractkit.errors import ExtractkitError
from extractkit.inputs.file_access import Stamp
from extractkit.models import Model
from extractkit.runs.environment import package_versions
from extractkit.runs.files import (
    Origin,
    content_of,
    files_of,
    files_with_companions,
    origin,
    origins,
)
from extractkit.runs.schema import canonical_json, digest, plain
from extractkit.store import listed_models
from extractkit.store.local import private_cache, remove_oldest, write_durably

_BERT = "extractkit.models.bert.load"
_FROM_FILES = frozenset(
    {
        _BERT,
        "extractkit.models.checkpoint.load",
        "extractkit.models.frozen_graph.load",
        "extractkit.models.hub.load",
        "extractkit.models.keras_file.load",
        "extractkit.models.meta_graph.load",
        "extractkit.models.saved_model.load",
        "extractkit.models.tensorflow_js.load",
        "extractkit.models.tflite.load",
    }
)
"""Loaders whose catalogs follow from files and arguments. Others run Python code that could change,
or take a model from a library by its name."""

_PATHS = ("path", "checkpoint", "weights")
MOST_CATALOGS = 100
"""Number of catalogs that are kept; the least recently used others are removed."""


@dataclass(frozen=True)
class CatalogFile:
    """The file on disk in which the catalog of a model is kept, or will be.

    Attributes:
        path: its path.
        model: the absolute path of the model; the name of its loader if it needs none.
        stamps: the model's files as they were when their content was looked at.
    """

    path: Path
    model: str
    stamps: Mapping[Path, Stamp]

    @classmethod
    def of(cls, component: Component) -> "CatalogFile | None":
        """Return the file for a model; None if its catalog is not kept.

        In a process that has imported Keras, the user may have registered classes with it, and a
        model file may then mean something else.
        """
        if not {"keras", "tf_keras"}.isdisjoint(sys.modules):
            return None
        try:
            folder = private_cache("catalogs")
            files = None if folder is None else _named_files(component)
            if folder is None or files is None:
                return None
            stamps = {path: Stamp.of(path) for path in files_read(component)}
            key = digest(
                {
                    "component": plain(component),
                    "files": [[one.key, one.sha256, one.bytes] for one in files],
                    "packages": package_versions(),
                    "machine": platform.machine(),
                    "code": own_code(),
                    "settings": _library_settings(),
                }
            )
        except (TypeError, OSError, RuntimeError, ExtractkitError):
            return None  # loading reports it, or the home directory is unknown
        given = component.arguments.get("path")
        model = component.target if given is None else str(Path(str(given)).expanduser().absolute())
        return cls(folder / f"{key}.json", model, stamps)

    def read(self) -> Catalog | None:
        """Return the catalog, and repeat the warnings of loading; None if it is not there.

        A damaged one counts as not there.
        """
        try:
            checksum, _, content = content_of(self.path).partition(b"\n")
            if hashlib.sha256(content).hexdigest().encode() != checksum:
                return None
            data = json.loads(content)
            found = _decoded(data)
        except (OSError, ExtractkitError):
            return None
        with suppress(OSError):
            os.utime(self.path)  # the least recently used are removed
        _repeat(data["logged"], data["warned"])
        return found

    def write(self, model: Model, heard: "Heard") -> None:
        """Keep the catalog of a model that was loaded from these files, and the warnings."""
        try:
            if model.definition_digest() is None:
                return  # it contains Python code
            encoded = _encoded(model.catalog)
            if _decoded(encoded).records != model.catalog.records:
                return
            encoded |= {"logged": heard.logged, "warned": heard.warned}
            content = canonical_json(encoded).encode(errors="surrogatepass")
            checksum = hashlib.sha256(content).hexdigest().encode()
            if all(Stamp.of(path) == stamp for path, stamp in self.stamps.items()):
                write_durably(self.path, checksum, b"\n", content)
                remove_oldest(self.path.parent, "*.json", MOST_CATALOGS)
                listed_models.keep(self.model, self.stamps, _matched(model.catalog))
        except (OSError, ExtractkitError):
            return  # a full disk, for example: the listing itself is complete


@dataclass(frozen=True)
class Heard:
    """Warnings as plain data.

    Attributes:
        logged: name of the logger, level and text of each.
        warned: text, category, file and line of each of Python's warnings.
    """

    logged: list[tuple[str, int, str]] = field(default_factory=list)
    warned: list[tuple[str, str, str, int]] = field(default_factory=list)


@contextmanager
def listening() -> Iterator[Heard]:
    """Take down what is logged or warned of within the block. Log records wait until its end.

    While a logger has a handler, `logging` does not print what no other handler takes.
    """
    own, held, heard = logging.getLogger("extractkit"), _Held(), Heard()
    propagated, show = own.propagate, warnings.showwarning

    def showing(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        heard.warned.append((str(message), category.__name__, filename, lineno))
        show(message, category, filename, lineno, file, line)

    own.addHandler(held)
    own.propagate, warnings.showwarning = False, showing
    try:
        yield heard
    finally:
        own.removeHandler(held)
        own.propagate, warnings.showwarning = propagated, show
        for record in held.records:
            own.handle(record)
            if record.levelno >= logging.WARNING:
                heard.logged.append((record.name, record.levelno, record.getMessage()))


class _Held(logging.Handler):
    """Keeps records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def _repeat(
    logged: Iterable[tuple[str, int, str]], warned: Iterable[tuple[str, str, str, int]]
) -> None:
    for name, level, text in logged:
        logging.getLogger(name).log(level, "%s", text)
    for text, name, file, line in warned:
        category = getattr(builtins, name, UserWarning)  # a class of a library is not imported
        warnings.showwarning(text, category, file, line)


def _encoded(catalog: Catalog) -> dict[str, Any]:
    """Return a catalog as plain data. Each scope is written once, because records share them."""
    scopes: dict[Scope, int] = {}
    records = [
        [
            *(one.address, one.kind.value, *one.spec.to_json().values()),
            [scopes.setdefault(scope, len(scopes)) for scope in one.scopes],
            *(one.name, one.op_type, one.depends_on_inputs, one.reason),
        ]
        for one in catalog.records
    ]
    edges = catalog.edges
    return {
        "model": catalog.model,
        "scopes": [[one.path, one.type, one.bases, one.name] for one in scopes],
        "records": records,
        "consumed": None if edges is None else [sorted(one) for one in edges.consumed],
    }


def _decoded(data: Mapping[str, Any]) -> Catalog:
    scopes = [Scope(path, kind, tuple(bases), name) for path, kind, bases, name in data["scopes"]]
    records = (
        TensorRecord(
            address,
            Kind(kind),
            TensorSpec.of(dtype, labels, shape),
            tuple(scopes[at] for at in own),
            *others,
        )
        for address, kind, dtype, labels, shape, own, *others in data["records"]
    )
    consumed = data["consumed"]
    edges = None if consumed is None else Edges(lambda: consumed)
    return Catalog(records, data["model"], edges)


def _matched(catalog: Catalog) -> Mapping[str, Sequence[str]]:
    """Return the values that predicates can match, in the order of the catalog."""
    records = [one for one in catalog.records if one.extractable]
    scopes = list(dict.fromkeys(scope for one in records for scope in one.scopes))
    types = list(dict.fromkeys(scope.type for scope in scopes))
    found = {
        "path": [one.address for one in records],
        "layer_type": types,
        "inside": [*types, *(scope.path for scope in scopes if scope.path)],
        "op_type": [one.op_type for one in records if one.op_type],
        "kind": [one.kind.value for one in records],
        "port": [one.address.rpartition(":")[2] for one in records],
        "dtype": [one.spec.dtype for one in records],
    }
    return {predicate: list(dict.fromkeys(values)) for predicate, values in found.items()}


def _named_files(component: Component) -> Sequence[Origin] | None:
    """Return the files that a model consists of, with their digests.

    None if there are others, or none, or if Python code takes part.
    """
    arguments = component.arguments
    if component.target not in _FROM_FILES or component.imports or component.partial:
        return None
    if _names_code(arguments) or arguments.get("checkpoints") is not None:
        return None
    found = list(origins([component]))
    if component.target == _BERT and arguments.get("path") is None:
        # The weights of the installed package, which is looked up without being imported.
        from extractkit.models.bert import installed_weights

        installed = origin(f"{component.at}.path", str(installed_weights()))
        found += [] if installed is None else [installed]
    given = {f"{component.at}.{name}" for name in _PATHS if arguments.get(name) is not None}
    complete = given <= {one.key for one in found}  # a preset is a name, not a file
    return found if found and complete else None


def files_read(component: Component) -> set[Path]:
    """Return the files that arguments name, directly or by a pattern, and those read with them."""
    found = set(files_of(component))
    for text in _texts(component.arguments):
        with suppress(OSError, ValueError):  # not a possible file name
            if (path := Path(text).expanduser()).is_file():
                found.update(files_with_companions(path)[0])
    return found


def _texts(value: object) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Component):
        yield from _texts(value.arguments)
    elif isinstance(value, Mapping | list | tuple):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(entry)


def _names_code(value: object) -> bool:
    """Return whether arguments name a callable, such as a factory or the class of a layer."""
    if isinstance(value, Mapping):
        return any(map(_names_code, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_names_code, value))
    return isinstance(value, Component)


def own_code() -> Sequence[Sequence[object]]:
    """Return the state of extractkit's own modules, which may change without a release."""
    root = Path(__file__).parents[1]
    found = []
    for path in sorted(root.rglob("*.py")):
        status = path.stat()
        found.append([path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns])
    return found


def _library_settings() -> Mapping[str, str]:
    """Return the settings by which TensorFlow and Keras may read a file differently."""
    found = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("TF_", "KERAS_")) and not name.startswith("TF_CPP_")
    }
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    with suppress(OSError):
        found["keras.json"] = (home / "keras.json").read_text("utf-8", errors="replace")
    return found
