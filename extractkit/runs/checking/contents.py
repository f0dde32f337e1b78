"""Checks of the values in shards against the records."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from extractkit.core.plan import Shard, numpy_dtype
from extractkit.core.value_checks import examine
from extractkit.core.values import Dense, Values, digest, sample_shapes, varies, without
from extractkit.errors import RunDirectoryError
from extractkit.runs import JOURNAL
from extractkit.runs.checking.files import SampleRows
from extractkit.runs.checking.result import Check, Finding, counted
from extractkit.runs.journal import Entry
from extractkit.runs.manifest import Manifest, RunTensor
from extractkit.sinks import Sink, StoredTensor

_UNREADABLE = (
    RunDirectoryError,
    LookupError,
    TypeError,
    ValueError,
    OSError,
    RuntimeError,
    EOFError,
    MemoryError,
)
"""Exceptions of file readers for a file that is as written but not a valid shard."""


def shard_contents(
    directory: Path,
    manifest: Manifest,
    entries: Mapping[Shard, Entry],
    sinks: Mapping[str, Sink],
    rows: SampleRows,
) -> Check:
    """Check keys, counts, types, shapes, digests, statistics and missing samples of every shard.

    Holds one tensor of one shard in memory at a time.

    Args:
        entries: entries with their intact files. No other file is opened.
        rows: lengths and missing samples according to the samples' rows.
    """
    found: list[Finding] = []
    read = 0
    for shard, entry in entries.items():
        tensors = [t for t in manifest.tensors if t.stored.constant == shard.constant]
        for name, file in entry.files.items():
            path = directory / file.name
            content = _Content(
                path, file.name, entry, shard, sinks[name], rows, _sliced(manifest), found
            )
            content.check(tensors)
            read += len(tensors)
    return Check.of(
        "values", f"{counted(read, 'tensor')} in {counted(len(entries), 'shard')}", found
    )


def read_whole(sink: Sink, path: Path, shard: Shard, tensor: StoredTensor) -> Values:
    """Read all values of one tensor in one shard."""
    if tensor.constant:
        return Dense(sink.read_constant(path, tensor.key))
    return sink.read(path, tensor.key, 0, len(shard))


@dataclass(frozen=True, eq=False)
class _Content:
    """One shard as one sink wrote it. Adds everything that is wrong to `found`."""

    path: Path
    file: str
    entry: Entry
    shard: Shard
    sink: Sink
    rows: SampleRows
    sliced: frozenset[str]
    found: list[Finding]
    unreadable: set[str] = field(default_factory=set)

    def check(self, tensors: list[RunTensor]) -> None:
        absent = self._absent()
        if self.entry.stats and (extra := set(self.entry.stats) ^ {t.key for t in tensors}):
            self._add(f"{JOURNAL} has statistics of other tensors: {', '.join(sorted(extra))}")
        content = digest(self._checked(tensors, absent))
        if not self.unreadable and content != self.entry.values:
            self._add("the digest of its values is not the recorded one")

    def _checked(self, tensors: list[RunTensor], absent: list[int]) -> Iterator[tuple[str, Values]]:
        for tensor in tensors:
            key = tensor.key
            try:
                value = read_whole(self.sink, self.path, self.shard, tensor.stored)
                wrong = self._form(tensor, value, absent)
                wrong = wrong or self._substance(tensor.stored, value, absent)
            except _UNREADABLE as error:
                self.unreadable.add(key)
                self._add(f"it cannot be read: {error}", key)
                continue
            for message in wrong:
                self._add(message, key)
            yield key, value

    def _absent(self) -> list[int]:
        """Return the positions of the samples without values."""
        missing = {int(index) for index in self.entry.missing if index.isdecimal()}
        within = {index for index in missing if self.shard.start <= index < self.shard.stop}
        if len(within) != len(self.entry.missing):
            self._add(f"{JOURNAL} records missing samples that are not in the shard")
        known = {i for i in self.rows.missing if self.shard.start <= i < self.shard.stop}
        if lost := sorted(known - within):
            self._add(f"{JOURNAL} lacks missing samples, first {lost[0]}")
        return [index - self.shard.start for index in sorted(within)]

    def _form(self, tensor: RunTensor, value: Values, absent: list[int]) -> list[str]:
        """Check count, type and shape."""
        stored = tensor.stored
        wrong = []
        if not _same_type(value.values.dtype, stored.dtype):
            wrong.append(f"its type is {value.values.dtype}, not {stored.dtype}")
        if stored.constant:
            if _differs(value.values.shape, stored.shape):
                wrong.append(f"its shape is {list(value.values.shape)}, not {list(stored.shape)}")
            return wrong
        if isinstance(value, Dense) == varies(stored.shape):
            wrong.append(f"it is stored {'padded' if varies(stored.shape) else 'ragged'}")
            return wrong
        if len(value) != len(self.shard):
            wrong.append(f"it has {len(value)} samples, not {len(self.shard)}")
            return wrong
        shapes = sample_shapes(value)
        if shapes.shape[1] != len(stored.shape):
            wrong.append(f"its samples have {shapes.shape[1]} axes, not {len(stored.shape)}")
            return wrong
        present = np.delete(np.arange(len(shapes)), absent)
        for axis, size in enumerate(stored.shape):
            off = self._off(tensor, axis, size, shapes[:, axis])
            off = off[np.isin(off, present)]
            if len(off):
                at = int(off[0])
                wrong.append(
                    f"sample {self.shard.start + at} has shape {shapes[at].tolist()}: its axis "
                    f"{axis} is not as long as recorded"
                )
        return wrong

    def _off(
        self, tensor: RunTensor, axis: int, size: int | None, lengths: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.intp]:
        """Return the positions of samples whose length is not the expected one."""
        if size is not None:
            return np.flatnonzero(lengths != size)
        # The first of the stored dims is the sample axis.
        own = self.rows.along(tensor.stored.dims[axis + 1])
        if own is None:
            return np.flatnonzero(lengths < 0)
        own = own[self.shard.start : self.shard.stop]
        if self.sliced.intersection(tensor.selectors):
            return np.flatnonzero(lengths > own)
        return np.flatnonzero(lengths != own)

    def _substance(self, stored: StoredTensor, value: Values, absent: list[int]) -> list[str]:
        """Check the blanks in place of missing samples, and the statistics."""
        wrong = []
        blank = without(value, absent, stored.shape)
        if absent and digest([("", blank)]) != digest([("", value)]):
            wrong.append("a missing sample has a value")
        recorded = self.entry.stats.get(stored.key)
        if recorded is not None:
            start = None if stored.constant else self.shard.start
            if examine(blank, start) != recorded:
                wrong.append(f"{JOURNAL} records other statistics of it (NaN, extremes, …)")
        return wrong

    def _add(self, message: str, tensor: str | None = None) -> None:
        of = f", {tensor!r}" if tensor is not None else ""
        self.found.append(
            Finding(self.file, f"{self.path}{of}: {message}", self.entry.shard, tensor)
        )


def _sliced(manifest: Manifest) -> frozenset[str]:
    """Return the selectors that store slices, whose axes are shorter than their names suggest."""
    selectors = manifest.job_resolved.get("selectors")
    if not isinstance(selectors, Mapping):
        return frozenset()
    return frozenset(
        str(name)
        for name, entry in selectors.items()
        if isinstance(entry, Mapping) and entry.get("slice")
    )


def _same_type(found: np.dtype[Any], recorded: str) -> bool:
    expected = numpy_dtype(recorded)
    if expected.kind == "O":
        return found.kind in "OSU"
    return found == expected


def _differs(found: tuple[int, ...], recorded: tuple[int | None, ...]) -> bool:
    return len(found) != len(recorded) or any(
        size is not None and size != own for own, size in zip(found, recorded, strict=True)
    )
