"""Caches: the model that this process loaded last, and samples encoded for several sets of weights.

Caching does not change values, because a program's values are a function of its batch alone. A
model is loaded again if anything that it depends on differs: its component's target and arguments,
the files that these name (size and time), the working directory, the environment, and the settings
of the process (seed, determinism, device). A model without a definition digest is also loaded
again.

Encoded samples are kept as long as memory allows, and shards are computed in an order that makes
use of them: ranges that fit into memory together are computed at all checkpoints before the next
ranges, so that weights are loaded as rarely as possible.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Generic, TypeVar

from extractkit.core.component import Component
from extractkit.core.job import Runtime
from extractkit.core.plan import Lengths, Shard, numpy_dtype
from extractkit.inputs import InputSpec, Signature
from extractkit.inputs.files import Stamp
from extractkit.models import Compilation, Fetch, Model, Program
from extractkit.models.tensorflow_process import import_modules
from extractkit.runs.files import files_of, files_with_companions
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
        files = {str(path.absolute()): Stamp.of(path) for path in _files(component)}
    except (TypeError, OSError):
        return None  # an object in memory, or a file that was removed
    settings = (runtime.seed, runtime.deterministic, runtime.device)
    return _Key(written, settings, files, str(Path.cwd()), dict(os.environ))


def _files(component: Component) -> set[Path]:
    """Yield the files that arguments name, directly or by a pattern."""
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


MEMORY = 256 * 1024 * 1024
"""Bytes of encoded samples to keep. If the model also converts them, this doubles."""

Place = tuple[int, int]
"""The range of a shard, without its checkpoint."""

_T = TypeVar("_T")


@dataclass(eq=False)
class ReadAlready(Generic[_T]):
    """Encoded samples by range. Drops the least recently used ones first."""

    memory: int = MEMORY
    _kept: OrderedDict[Place, tuple[_T, int]] = field(default_factory=OrderedDict)
    _bytes: int = 0

    def get(self, place: Place) -> _T | None:
        """Return the encoded samples of a range; None if they are not in the cache."""
        if place not in self._kept:
            return None
        self._kept.move_to_end(place)
        return self._kept[place][0]

    def keep(self, place: Place, value: _T, size: int) -> None:
        """Keep the encoded samples of a range, unless they alone exceed the limit."""
        if size > self.memory:
            return
        while self._bytes + size > self.memory:
            _, (_, freed) = self._kept.popitem(last=False)
            self._bytes -= freed
        self._kept[place] = (value, size)
        self._bytes += size


def in_blocks(
    shards: Sequence[Shard], size: Callable[[Shard], int], memory: int = MEMORY
) -> Iterator[Shard]:
    """Return the same shards in the order in which they are computed fastest.

    Args:
        shards: in the order of a run: by checkpoint, then by range.
        size: returns the approximate bytes of a range's encoded samples.
    """
    block: dict[Shard, int] = {}
    number = used = 0
    for place in dict.fromkeys(Shard(shard.start, shard.stop) for shard in shards):
        own = size(place)
        if used and used + own > memory:
            number, used = number + 1, 0
        block[place] = number
        used += own
    yield from sorted(
        shards, key=lambda shard: (block[Shard(shard.start, shard.stop)], *shard.place)
    )


def encoded_bytes(signature: Signature, lengths: Lengths) -> Callable[[Shard], int]:
    """Return a function that estimates the bytes of a range's encoded samples.

    A text counts as eight.
    """

    def of_spec(spec: InputSpec, shard: Shard) -> int:
        own = lengths.part(shard.start, shard.stop)
        sizes = [
            int(own.axes[dim].max(initial=0)) if dim is not None else size or 1
            for dim, size in zip(spec.dims, spec.shape, strict=True)
        ]
        return len(shard) * prod(sizes) * numpy_dtype(spec.dtype).itemsize

    return lambda shard: sum(of_spec(spec, shard) for spec in signature.specs)
