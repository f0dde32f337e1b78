"""Read a run: a mapping of addresses to lazy views. Needs no TensorFlow."""

import importlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from extractkit.core.catalog import SAMPLE
from extractkit.core.checkpoints import AXIS, Checkpoint
from extractkit.core.component import Component
from extractkit.core.selectors import parse_selector
from extractkit.core.trust import NOBODY, Trust
from extractkit.errors import (
    MissingExtraError,
    RunDirectoryError,
    SelectionError,
    UnknownTensorError,
    choices,
)
from extractkit.runs import journal, manifest
from extractkit.runs.drift import Drift, read_drift
from extractkit.runs.intact import check_names
from extractkit.runs.journal import Journal
from extractkit.runs.layout import JOURNAL, SAMPLES
from extractkit.runs.manifest import Manifest, Status
from extractkit.runs.samples import Samples
from extractkit.runs.trajectory import place_of, trajectories
from extractkit.runs.views import Committed, TensorView
from extractkit.sinks.protocol import Sink

SKIPPED = "skipped"
"""The coordinate that tells samples without values from others, of which NaN is the value."""


def to_dataset(
    views: Iterable[TensorView],
    ids: Sequence[str],
    skipped: Collection[int] = (),
    checkpoints: Sequence[Checkpoint] = (),
) -> Any:
    """An `xarray.Dataset` with one variable, read whole and padded, for each view.

    Args:
        ids: of all samples: the coordinate `sample`.
        skipped: numbers of those without values: the coordinate `skipped`, bool (sample,), true for
            them. Where there are none, there is no such coordinate.
        checkpoints: their steps, or labels where they have none: the coordinate `checkpoint`.

    Raises:
        MissingExtraError: xarray is not installed.
    """
    try:
        xarray = importlib.import_module("xarray")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "to_xarray needs xarray. Install it: pip install 'extractkit[xarray]'"
        ) from error
    sizes: dict[str, int] = {}
    variables = {}
    for view in views:
        dims = unique_dims(view.dims, view.shape, sizes)
        attributes = {"address": view.record.address, "name": view.record.name}
        variables[view.key] = (dims, np.asarray(view), attributes)
    coordinates: dict[str, Any] = {}
    if SAMPLE in sizes:
        coordinates[SAMPLE] = list(ids)
        if skipped:
            marks = [number in skipped for number in range(len(ids))]
            coordinates[SKIPPED] = (SAMPLE, np.array(marks, bool))
    if checkpoints and AXIS in sizes:
        coordinates[AXIS] = steps_or_labels(checkpoints)
    return xarray.Dataset(variables, coords=coordinates)


def steps_or_labels(checkpoints: Sequence[Checkpoint]) -> list[int] | list[str]:
    """What stands along the axis of checkpoints: their steps, if all of them have one."""
    steps = [one.step for one in checkpoints if one.step is not None]
    return steps if len(steps) == len(checkpoints) else [one.label for one in checkpoints]


def unique_dims(
    dims: Sequence[str | None], shape: Sequence[int], sizes: dict[str, int]
) -> tuple[str, ...]:
    """Names for the axes of one variable, no two alike; `sizes` remembers those of all variables.

    A name means one length in a Dataset. So the second "token" of an attention map becomes
    "token_1", and so does a "token" that was sliced to another length. Unnamed axes are "axis".
    """
    names: list[str] = []
    for dim, size in zip(dims, shape, strict=True):
        name = next(
            candidate
            for candidate in _candidates(dim or "axis")
            if candidate not in names and sizes.get(candidate, size) == size
        )
        sizes[name] = size
        names.append(name)
    return tuple(names)


def _candidates(name: str) -> Iterator[str]:
    yield name
    number = 0
    while True:
        number += 1
        yield f"{name}_{number}"


_READING = ("suffix", "read", "read_shapes", "read_constant")


class Run(Mapping[str, TensorView]):
    """A run: its tensors by name, its samples and its manifest.

    Keys stand in the manifest's order. A lookup takes a tensor's key (its address, or
    `address@selector` where several selectors store it differently), and also an address or a
    record's `name` where only one tensor has it.

    Attributes:
        path: the run directory.
        manifest: what the run says of itself.
        samples: one row (a dict) for each sample, read when asked for.
    """

    def __init__(self, path: Path, manifest: Manifest, committed: Committed) -> None:
        self.path = path
        self.manifest = manifest
        self._committed = committed
        recorded = {file.name: file for file in manifest.files} if committed.check else {}
        self.samples = Samples(path / SAMPLES, recorded.get(SAMPLES))
        self._views: dict[str, TensorView]
        if manifest.checkpoints and committed.checkpoint is None:
            self._views = dict(trajectories(manifest, committed))
        else:
            self._views = {t.key: TensorView(t, committed) for t in manifest.tensors}

    @property
    def status(self) -> Status:
        """How far the run has come; of an unfinished one only some samples can be read."""
        return self.manifest.status

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """The labels along the axis of checkpoints, the first one of every tensor; mostly none."""
        return tuple(one.label for one in self._axis)

    def at(self, checkpoint: str | int) -> "Run":
        """The run of one checkpoint alone: its tensors have no axis of checkpoints.

        Args:
            checkpoint: its label or its step.

        Raises:
            UnknownTensorError: there is none of that label or step.
        """
        place = place_of(checkpoint, self._axis, str(self.path))
        return Run(self.path, self.manifest, self._committed.at(place))

    @cached_property
    def drift(self) -> Drift | None:
        """How each tensor moves over the checkpoints; None of a run that has none, or not yet.

        Raises:
            RunDirectoryError: what the run recorded of it is damaged.
        """
        return read_drift(self.path, self.manifest.files)

    @cached_property
    def journal(self) -> Journal:
        """The shards that were committed, with what was found in their values; read when asked for.

        Raises:
            RunDirectoryError: it has been damaged since the run was opened.
        """
        return journal.read(self.path / JOURNAL)

    @cached_property
    def skipped(self) -> dict[int, str]:
        """The samples without values: by index, why.

        They keep their place. Where all samples have one shape NaN stands there, or zero or an
        empty text in types without NaN; where shapes vary, nothing does.
        """
        found = {int(row["index"]): str(row["skipped"]) for row in self.samples if "skipped" in row}
        for entry in self._committed.entries.values():
            found |= {int(index): reason for index, reason in entry.skipped.items()}
        return dict(sorted(found.items()))

    def select(self, **predicates: object) -> dict[str, TensorView]:
        """The tensors that hold for all predicates, as `selectors.NAME` takes them.

        For example `run.select(inside="*Attention", op_type="Softmax")`. What Python reserves goes
        into a dictionary: `run.select(**{"not": {"kind": "weight"}})`.

        Raises:
            ConfigError: a predicate that does not exist.
            SelectionError: nothing matches.
        """
        predicate = parse_selector("select", predicates).predicate
        found = {key: view for key, view in self._views.items() if predicate.matches(view.record)}
        if not found:
            given = ", ".join(f"{key}={value!r}" for key, value in predicates.items())
            wanted = str(next(iter(predicates.values()), ""))
            raise SelectionError(
                f"select({given}) matched 0 of {len(self)} tensors of {self.path}. "
                f"{choices(wanted, self)}"
            )
        return found

    def to_xarray(self, *keys: str) -> Any:
        """Some tensors, or all, as an `xarray.Dataset`: read whole, padded, axes named.

        The coordinate `sample` holds the samples' ids; where samples were skipped, `skipped` (bool)
        is true for those. `checkpoint` holds the checkpoints' steps, or labels where they have no
        steps.

        Raises:
            MissingExtraError: xarray is not installed.
            UnknownTensorError: there is no such tensor.
        """
        views = [self[key] for key in keys] if keys else list(self.values())
        ids = [str(row["id"]) for row in self.samples]
        return to_dataset(views, ids, self.skipped, self._axis)

    def __getitem__(self, key: str) -> TensorView:
        # Not by `or`: a view is a sequence, and an empty or scalar one has no truth.
        view = self._views.get(key, self._others.get(key))
        if view is None:
            same = [k for k, v in self._views.items() if key in (v.record.address, v.record.name)]
            hint = f"It is stored as {' and '.join(map(repr, same))}." if same else None
            raise UnknownTensorError(
                f"{key!r} is no tensor of {self.path}. {hint or choices(key, self._views)}"
            )
        return view

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __repr__(self) -> str:
        size = f"{len(self)} tensors, {self.manifest.samples} samples"
        if self._committed.checkpoint is not None:
            label = self.manifest.checkpoints[self._committed.checkpoint].label
            size += f", checkpoint {label!r}"
        elif self.checkpoints:
            size += f", {len(self.checkpoints)} checkpoints"
        return f"<Run {self.path}: {self.status}, {size}>"

    @property
    def _axis(self) -> tuple[Checkpoint, ...]:
        """The checkpoints; none where it is the run of one of them."""
        return self.manifest.checkpoints if self._committed.checkpoint is None else ()

    @cached_property
    def _others(self) -> dict[str, TensorView]:
        """Views by address and by name, where only one has it."""
        found: dict[str, list[TensorView]] = {}
        for view in self._views.values():
            for alias in {view.record.address, view.record.name}:
                found.setdefault(alias, []).append(view)
        return {alias: views[0] for alias, views in found.items() if len(views) == 1}


def open_run(
    path: str | Path,
    sink: Sink | None = None,
    *,
    check: bool = True,
    trust: Sequence[str] = (),
) -> Run:
    """Open a run directory; nothing but manifest and journal is read yet.

    Args:
        path: the run directory.
        sink: what reads the values; None: the first sink of the run's configuration.
        check: whether the SHA-256 of each shard's file is held against the journal before it is
            read for the first time, so that damaged values are an error.
        trust: modules whose callables the run's configuration may name, for sinks that are neither
            ours nor registered.

    Raises:
        RunDirectoryError: it is no run, is damaged, or says finished while shards are missing.
    """
    directory = Path(path)
    found = manifest.read(directory)
    written = journal.read(directory / JOURNAL, brief=True)
    entries = written.by_shard()
    missing = [shard.key for shard in found.shards if shard not in entries]
    if found.status is Status.FINISHED and missing:
        raise RunDirectoryError(
            f"{directory} says it is finished, but {JOURNAL} lacks {len(missing)} of "
            f"{len(found.shards)} shards, the first being {missing[0]!r}: it is damaged"
        )
    sinks = found.sinks
    for entry in written.entries:
        check_names(directory, entry, sinks)
    name = next(iter(sinks))
    reader = sink_of(found, name, Trust(tuple(trust))) if sink is None else sink
    committed = Committed(directory, found.status, found.samples, entries, name, reader, check)
    return Run(directory, found, committed)


def sink_of(manifest: Manifest, name: str, trust: Trust = NOBODY) -> Sink:
    """One of the sinks that wrote a run, ready to read.

    Raises:
        ConfigError: the manifest names something that is not meant for that: a run may come from
            anywhere, and a `_target_` could be any callable.
        RunDirectoryError: what it names reads no shards.
    """
    component = Component.parse(f"sinks.{name}", manifest.sinks[name], trust)
    target = component.function()
    if not isinstance(target, type) or not all(hasattr(target, part) for part in _READING):
        raise RunDirectoryError(
            f"{component.at}._target_={component.target!r} is not a sink. Give one that reads the "
            f"run: extractkit.open(path, sink=…)"
        )
    sink: Sink = component.build()
    return sink
