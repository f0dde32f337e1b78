"""The cache of the last model of this process, for a next job with the same model.

Reuse does not change values, because a program's values are a function of its batch alone. A model
is loaded again if anything differs that could change it: target, arguments and imports of its
component, files that the arguments name, `runtime.seed`, threads, or TensorFlow's settings. Models
that are objects in memory are never kept.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extractkit.core.component import Component
from extractkit.core.job import Runtime
from extractkit.engine.catalog_files import files_read
from extractkit.inputs.file_access import Stamp
from extractkit.models import Compilation, Fetch, Model, Program
from extractkit.models.process import import_modules
from extractkit.runs.schema import canonical


@dataclass(frozen=True)
class _Key:
    component: str
    settings: tuple[int, bool, str | None]
    files: Mapping[str, Stamp]
    directory: str
    environment: Mapping[str, str]


@dataclass
class _Loaded:
    key: _Key
    model: Any
    fetches: tuple[Fetch, ...] = ()
    compilation: Compilation | None = None
    program: Program | None = None


@dataclass
class _Process:
    """One entry, since two models at once may not fit into memory."""

    last: _Loaded | None = field(default=None)


_PROCESS = _Process()
_KEEPING: ContextVar[bool] = ContextVar("keeping", default=False)


@contextmanager
def kept() -> Iterator[None]:
    """Within the block, reuse the previous job's model and keep the model for the next job."""
    token = _KEEPING.set(True)
    try:
        yield
    finally:
        _KEEPING.reset(token)


def forget() -> None:
    """Drop the cached model. Call this before changing its weights or anything else in it."""
    _PROCESS.last = None


def model_of(component: Component, runtime: Runtime) -> Any:
    """Return the object that the component builds, without checking that it is a model.

    Raises:
        UserError: the component cannot be built.
    """
    if not _KEEPING.get():
        return _built(component)
    before = _key(component, runtime)
    if _PROCESS.last is not None and before is not None and _PROCESS.last.key == before:
        return _PROCESS.last.model
    forget()  # before the next one takes its memory
    model = _built(component)
    # Loading sets environment variables, and a file may have changed in the meantime.
    after = _key(component, runtime)
    if before is not None and after is not None and before.files == after.files:
        _PROCESS.last = _Loaded(after, model)
    return model


def _built(component: Component) -> Any:
    import_modules(component.imports)
    return component.build()


def program_of(model: Model, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
    """Return the program for these fetches; reuse the last one if it has the same."""
    loaded = _PROCESS.last
    if loaded is None or loaded.model is not model:
        return model.program(fetches, compilation)
    same = (loaded.fetches, loaded.compilation) == (tuple(fetches), compilation)
    if loaded.program is None or not same:
        loaded.program = None
        loaded.program = model.program(fetches, compilation)
        loaded.fetches, loaded.compilation = tuple(fetches), compilation
    return loaded.program


def _key(component: Component, runtime: Runtime) -> _Key | None:
    """Return the cache key of a component; None for objects in memory and missing files."""
    try:
        written = canonical(component)
        files = {str(path.absolute()): Stamp.of(path) for path in files_read(component)}
    except (TypeError, OSError):
        return None  # an object in memory, or a file that was removed
    settings = (runtime.seed, runtime.deterministic, runtime.device)
    return _Key(written, settings, files, str(Path.cwd()), dict(os.environ))
