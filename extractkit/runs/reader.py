"""Reading a run: a mapping of addresses to lazy views. Needs no TensorFlow."""

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from extractkit.core.catalog import Layout
from extractkit.core.checkpoints import AXIS
from extractkit.core.component import Component, require
from extractkit.core.notebook import WithPlots, WithWidgets
from extractkit.core.selectors import parse_selector
from extractkit.core.shards import OuterAxis
from extractkit.core.spec import SAMPLE, TensorSpec, unique_dims
from extractkit.core.statistics.examples import Examples, Places, examples, token_axes
from extractkit.core.statistics.results import Statistics
from extractkit.core.transforms import Operand
from extractkit.core.trust import NO_TRUST, Trust
from extractkit.core.values import Array
from extractkit.errors import (
    RunDirectoryError,
    SelectionError,
    UnknownTensorError,
    choices,
    counted,
)
from extractkit.runs import JOURNAL, SAMPLES, journal, manifest
from extractkit.runs.directory import path_of
from extractkit.runs.drift import Drift, read_drift
from extractkit.runs.journal import Journal, Listed
from extractkit.runs.manifest import Manifest, Status
from extractkit.runs.samples import MISSING, Samples, why_missing
from extractkit.runs.shards import check_names
from extractkit.runs.statistics import read_statistics
from extractkit.runs.trajectory import views_of
from extractkit.runs.views import Committed, TensorView
from extractkit.sinks import ShardReader, Sink


class Run(WithPlots, WithWidgets, Mapping[str, TensorView]):
    """A run: its tensors by name, its samples and its manifest.

    Keys follow the manifest's order. A key is a tensor's address, or `address@selector` if several
    selectors store it differently. An address or a record's `name` works too if it is unique.

    Attributes:
        path: the run directory.
        manifest: the run's description of itself.
        samples: one row (a dict) for each sample, read on access.
    """

    def __init__(self, path: Path, manifest: Manifest, committed: Committed) -> None:
        self.path = path
        self.manifest = manifest
        self._committed = committed
        recorded = {file.name: file for file in manifest.files} if committed.check else {}
        self.samples = Samples(
            path / SAMPLES, recorded.get(SAMPLES), schema=manifest.samples_schema
        )
        self._views = views_of(manifest, committed)

    @property
    def status(self) -> Status:
        """The state of the run. An unfinished run holds only some samples."""
        return self.manifest.status

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """The labels along the checkpoint axis, the first axis of every tensor; often none."""
        return next((axis.labels for axis in self._axes if axis.name == AXIS), ())

    def at(self, checkpoint: str | int) -> "Run":
        """Return the run of one checkpoint, whose tensors have no checkpoint axis.

        Args:
            checkpoint: its label or its step.

        Raises:
            UnknownTensorError: no checkpoint has that label or step.
        """
        axis = next(iter(self._axes), OuterAxis(AXIS, (), ()))
        position = axis.find(checkpoint, str(self.path))
        return Run(self.path, self.manifest, self._committed.at(position))

    @cached_property
    def statistics(self) -> Statistics:
        """The statistics over all samples: `run.statistics[ADDRESS].moments.mean`.

        Results of a run over checkpoints have these as a first axis. Those of an unfinished run
        can be read once all of its samples are stored, as they are at each step of a training.

        Raises:
            RunDirectoryError: samples are still to be stored, or the recorded results are damaged.
        """
        # Those at hand are of one checkpoint only, if the run is that of one.
        found = read_statistics(
            *(self.path, self.manifest),
            lambda: journal.read(self.path / JOURNAL, brief=True).by_shard(),
        )
        for position in self._committed.outer:
            found = found.at(position.at)
        return found

    def examples(self, key: str, unit: int | None = None, *, smallest: bool = False) -> Examples:
        """Return the samples and tokens with a unit's largest values, from the statistic `top`.

        They are looked up in `run.samples`, and print as a table.

        Args:
            key: the key of a tensor with the statistic `top`.
            unit: the number of the feature; None: all, one after the other.
            smallest: those of the smallest values, if the statistic has them.

        Raises:
            UnknownTensorError: there are no such results, or the run has checkpoints:
                `run.at(checkpoint).examples(…)`.
        """
        self._check_one_checkpoint(f"examples({key!r})")
        results = self.statistics[key]["top"]
        (recorded,) = (one for one in self.manifest.statistics if one.key == key)
        places = Places(recorded.spec.sample_shape[:-1])
        if (layout := Layout.of(recorded.record)) is not None:
            spec = TensorSpec(recorded.record.spec.dtype, layout.dims)
            places = Places.of(Operand.of(spec, key), recorded.transforms, places.sizes)
        return examples(results, places, self.samples, unit, smallest=smallest)

    def by_token(
        self, key: str, sample: int, axis: str | int | None = None
    ) -> list[tuple[str, Array]]:
        """Return the values of a sample at each of its tokens, beside the token's text.

        Args:
            key: the key of a tensor with an axis of tokens. Slices of this axis are followed.
            sample: the index of the sample.
            axis: the axis of the tokens, by name or by number in stored order. Attention has two,
                `query` and `key`.

        Returns:
            One pair for each token: its text, and the values there, without that axis.

        Raises:
            UnknownTensorError: the tensor has no such axis or several, the sample has no tokens or
                no values, or the run has checkpoints: `run.at(checkpoint).by_token(…)`.
            IndexError: there is no such sample.
        """
        self._check_one_checkpoint(f"by_token({key!r}, {sample})")
        view = self[key]
        places = _along_tokens(view)
        chosen = [at for at in places if axis is None or axis in (at, view.dims[at])]
        if len(chosen) != 1:
            raise UnknownTensorError(_no_one_axis(view, [*places], axis))
        row, at = self.samples[sample], chosen[0]
        kept, values = places[at].kept(row), np.moveaxis(view.sample(sample), at - 1, 0)
        if (reason := self.missing.get(int(row["index"]))) is not None:
            raise UnknownTensorError(f"sample {sample} of {self.path} has no values: {reason}")
        if kept is None or len(kept) != len(values):
            raise UnknownTensorError(
                f"{self.path} has no tokens of sample {sample} along axis {view.dims[at] or at!r} "
                f"of {view.key!r}. Samples have tokens if a tokenizer that belongs to the model "
                f"takes their text, as with model=bert inputs=texts, unless the job has "
                f"runtime.keep_texts=false"
            )
        texts = [str(row["tokens"][number]) for number in kept]
        return list(zip(texts, values, strict=True))

    def _check_one_checkpoint(self, call: str) -> None:
        if self.checkpoints:
            raise UnknownTensorError(
                f"{self.path} has {len(self.checkpoints)} checkpoints. Look at one: "
                f"run.at({self.checkpoints[-1]!r}).{call}"
            )

    @cached_property
    def drift(self) -> Drift | None:
        """The drift of each tensor over the checkpoints; None if there is none, or not yet.

        Raises:
            RunDirectoryError: the recorded drift is damaged.
        """
        return read_drift(self.path, self.manifest.files)

    @cached_property
    def journal(self) -> Journal:
        """The committed shards, with the checks of their values; read on first access.

        Raises:
            RunDirectoryError: the journal was damaged after the run was opened.
        """
        return journal.read(self.path / JOURNAL)

    @cached_property
    def missing(self) -> dict[int, str]:
        """The samples without values, by index, with the reason.

        They keep their position. If all samples have one shape, NaN takes the place of a value, or
        zero or an empty text in types without NaN. If shapes vary, a missing sample has no
        elements.
        """
        reasons = ((int(row["index"]), why_missing(row)) for row in self.samples)
        found = {index: reason for index, reason in reasons if reason is not None}
        for entry in self._committed.entries.values():
            found |= {int(index): reason for index, reason in entry.missing.items()}
        return dict(sorted(found.items()))

    @property
    def committed(self) -> tuple[range, ...]:
        """The samples whose values are stored, as ranges: all samples of a finished run.

        A run with an axis of checkpoints, of which none has been chosen, has ranges for each.
        """
        return tuple(range(shard.start, shard.stop) for shard in self._committed.shards)

    @property
    def skipped(self) -> NoReturn:
        raise AttributeError(
            "run.skipped has three new names: run.missing (samples without values, by index), "
            "run.manifest.unextractable (tensors) and run.manifest.excluded (checkpoints)"
        )

    def select(self, **predicates: object) -> dict[str, TensorView]:
        """Return the tensors that match all predicates, written as in `selectors.NAME`.

        For example `run.select(inside="*Attention", op_type="Softmax")`. Predicates with a reserved
        name need a dictionary: `run.select(**{"not": {"kind": "weight"}})`.

        Raises:
            ConfigError: a predicate does not exist.
            SelectionError: no tensor matches.
        """
        predicate = parse_selector("select", predicates).predicate
        found = {key: view for key, view in self._views.items() if predicate.matches(view.record)}
        if not found:
            given = ", ".join(f"{key}={value!r}" for key, value in predicates.items())
            wanted = str(next(iter(predicates.values()), ""))
            raise SelectionError(
                f"select({given}) matched 0 of {counted(len(self), 'tensor')} of {self.path}. "
                f"{choices(wanted, self)}"
            )
        return found

    def to_xarray(self, *keys: str) -> Any:
        """Return some tensors, or all, as an `xarray.Dataset`: read whole, padded, axes named.

        The coordinate `sample` holds the samples' ids. If samples are missing, `missing` (bool)
        marks them. `checkpoint` holds the checkpoints' steps, or labels if they have no steps.

        Statistics have a dataset of their own: `run.statistics.to_xarray()`.

        Raises:
            MissingExtraError: xarray is not installed.
            UnknownTensorError: the run has no such tensor, or statistics alone.
        """
        if not keys and not self._views and self.manifest.statistics:
            raise UnknownTensorError(
                f"{self.path} has statistics and no values per sample. Its results are in "
                f"run.statistics.to_xarray()"
            )
        views = [self[key] for key in keys] if keys else list(self.values())
        ids = [str(row["id"]) for row in self.samples]
        return to_dataset(views, ids, self.missing, self._axes)

    def __getitem__(self, key: str) -> TensorView:
        # Not with `or`: a view is a sequence, so an empty or scalar one is false or ambiguous.
        view = self._views.get(key, self._others.get(key))
        if view is None:
            same = [k for k, v in self._views.items() if key in (v.record.address, v.record.name)]
            hint = f"It is stored as {' and '.join(map(repr, same))}." if same else None
            counted = [
                f"run.statistics[{one.key!r}]"
                for one in self.manifest.statistics
                if key in (one.key, one.record.address, one.record.name)
            ]
            if counted and not same:
                hint = f"It has statistics and no values per sample: {' and '.join(counted)}"
            raise UnknownTensorError(
                f"{key!r} is not a tensor of {self.path}. {hint or choices(key, self._views)}"
            )
        return view

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __repr__(self) -> str:
        size = f"{counted(len(self), 'tensor')}, {counted(self.manifest.samples, 'sample')}"
        chosen = zip(self.manifest.outer_axes, self._committed.outer, strict=False)
        size += "".join(f", {axis.name} {axis.labels[one.at]!r}" for axis, one in chosen)
        size += "".join(f", {counted(len(axis), axis.name)}" for axis in self._axes)
        return f"<Run {self.path}: {self.status}, {size}>"

    @property
    def _axes(self) -> tuple[OuterAxis, ...]:
        """The outer axes along which no position has been chosen."""
        return self.manifest.outer_axes[len(self._committed.outer) :]

    @cached_property
    def _others(self) -> dict[str, TensorView]:
        """The views by every address and name that only one tensor has.

        Gradients, for example, are not the values of the tensor at that address.
        """
        found: dict[str, list[TensorView]] = {}
        for view in self._views.values():
            for alias in {view.record.address, view.record.name} if not view.request else ():
                found.setdefault(alias, []).append(view)
        return {alias: views[0] for alias, views in found.items() if len(views) == 1}


def _along_tokens(view: TensorView) -> dict[int, Places]:
    """Return the stored axes that tokens are along, each with the way to its tokens."""
    layout = Layout.of(view.record)
    if view.constant or layout is None or view.transforms is None or view.result:
        return {}
    tensor = Operand.of(TensorSpec(view.record.spec.dtype, layout.dims), view.key)
    sizes = view.spec.sample_shape
    found = (Places.of(tensor, view.transforms, sizes, at) for at in token_axes(tensor))
    return {one.axis + 1: one for one in found if one.slices is not None and one.axis is not None}


def _no_one_axis(view: TensorView, found: list[int], axis: str | int | None) -> str:
    """Return why no axis of tokens is chosen, or several are."""
    has = f"{view.key!r} has dims {list(view.dims)}"
    if not found:
        return f"{has}, and tokens are along none of them"
    names = [view.dims[at] for at in found]
    known = [
        at if name is None or names.count(name) > 1 else name
        for at, name in zip(found, names, strict=True)
    ]
    if axis is None or axis in names:
        return (
            f"{has}, and tokens are along {' and '.join(map(repr, known))}. Choose one: "
            f"run.by_token({view.key!r}, SAMPLE, axis={known[0]!r})"
        )
    advice = choices(str(axis), map(str, known))
    return f"axis={axis!r}: {has}, and tokens are not along this one. {advice}"


def open_run(
    path: str | Path,
    sink: Sink | None = None,
    *,
    check: bool = True,
    trust: Sequence[str] = (),
) -> Run:
    """Open a run directory. Reads the manifest and the journal only.

    The entry of a shard is parsed and checked when its values are first read.

    Args:
        path: the run directory.
        sink: the sink that reads the values; None: the first sink of the run's configuration.
        check: compare the digest of each shard's file with the journal before the first read, so
            that damaged values raise an error.
        trust: modules whose callables the run's configuration may name, for sinks that neither
            come with extractkit nor are registered.

    Raises:
        RunDirectoryError: it is not a run, is damaged, or is finished but lacks shards.
    """
    directory = path_of(path, "path")
    found = manifest.read(directory)
    planned, places = found.shards, journal.places(directory / JOURNAL)
    # A step of a training that is being recorded is in the journal, but not planned yet.
    committed = {shard: place for shard in planned if (place := places.get(shard.key)) is not None}
    if found.status is Status.FINISHED and len(committed) < len(planned):
        missing = [shard.key for shard in planned if shard not in committed]
        raise RunDirectoryError(
            f"{directory} is recorded as finished, but {JOURNAL} lacks {len(missing)} of "
            f"{len(planned)} shards, the first being {missing[0]!r}: it is damaged"
        )
    sinks = found.sinks
    entries = Listed(
        directory / JOURNAL, committed, lambda entry: check_names(directory, entry, sinks)
    )
    name = next(iter(sinks))
    reader = sink_of(found, name, Trust(tuple(trust))) if sink is None else sink
    return Run(
        directory,
        found,
        Committed(directory, found.status, found.samples, entries, name, reader, check),
    )


def sink_of(manifest: Manifest, name: str, trust: Trust = NO_TRUST) -> Sink:
    """Return one of the sinks that wrote a run, ready to read.

    Raises:
        ConfigError: the manifest names an untrusted callable. A run may come from anywhere, and a
            `_target_` could be any callable.
        RunDirectoryError: the target is not a sink.
    """
    component = Component.parse(f"sinks.{name}", manifest.sinks[name], trust)
    target = component.function()
    if not isinstance(target, type) or not issubclass(target, ShardReader):
        raise RunDirectoryError(
            f"{component.at}._target_={component.target!r} is not a sink. Give one that reads the "
            f"run: extractkit.open(path, sink=…)"
        )
    sink: Sink = component.build()
    return sink


def to_dataset(
    views: Iterable[TensorView],
    ids: Sequence[str],
    missing: Collection[int] = (),
    axes: Sequence[OuterAxis] = (),
) -> Any:
    """Return an `xarray.Dataset` with one variable, read whole and padded, for each view.

    Args:
        ids: ids of all samples, for the coordinate `sample`.
        missing: indices of the samples without values, for the coordinate `missing`, bool
            (sample,). If there are none, the coordinate is omitted.
        axes: outer axes, each for a coordinate of steps, or of labels if it has no steps.

    Raises:
        MissingExtraError: xarray is not installed.
    """
    xarray = require("xarray", "to_xarray")
    sizes: dict[str, Hashable] = {}
    variables = {}
    for view in views:
        dims = unique_dims(view.dims, view.shape, sizes)
        attributes = {"address": view.record.address, "name": view.record.name}
        variables[view.key] = (dims, np.asarray(view), attributes)
    coordinates: dict[str, Any] = {}
    if SAMPLE in sizes:
        coordinates[SAMPLE] = list(ids)
        if missing:
            marks = [number in missing for number in range(len(ids))]
            coordinates[MISSING] = (SAMPLE, np.array(marks, bool))
    coordinates |= {axis.name: axis.coordinates for axis in axes if axis.name in sizes}
    return xarray.Dataset(variables, coords=coordinates)
