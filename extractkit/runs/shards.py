"""Shards on disk: written by any process, checked, published, and found intact or damaged later.

A worker writes its files durably under temporary names of its own. The driver checks and renames
them, so a worker that is late or has lost its driver never changes a published file.
"""

import io
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from extractkit.core.checkpoints import AXIS
from extractkit.core.digests import Algorithm, digest
from extractkit.core.shards import Shard, positions_in
from extractkit.core.statistics import Partials
from extractkit.core.value_checks import ValueChecks
from extractkit.core.values import Dense, State, Values
from extractkit.errors import FinalError, RunDirectoryError
from extractkit.runs import JOURNAL, SHARDS, journal, shard_file
from extractkit.runs.files import StoredFile
from extractkit.runs.journal import Entry
from extractkit.runs.manifest import Manifest
from extractkit.runs.statistics import serialized
from extractkit.sinks import Buffer, Sink
from extractkit.sinks import serialized as serialized_by
from extractkit.sinks.npz import UNREADABLE, NpzSink
from extractkit.store.local import (
    TEMPORARY,
    check_directory,
    cut,
    make_durable,
    publish,
    remove,
    temporary_of,
    write_apart,
    write_durably,
)

STATE_SUFFIX = ".state.npz"
STATISTICS_SUFFIX = ".statistics.npz"


def state_file(shard: Shard) -> str:
    """Return the name of the file with the state after a shard, within the run directory."""
    return shard_file(shard, STATE_SUFFIX)


def statistics_file(shard: Shard) -> str:
    """Return the name, within the run, of the file with a shard's partial results."""
    return shard_file(shard, STATISTICS_SUFFIX)


def to_bytes(state: State) -> bytes:
    """Serialise a state as an `.npz` file whose arrays are named by their positions."""
    return NpzSink().serialize({str(at): Dense(array) for at, array in enumerate(state)})


def check_state(manifest: Manifest, entry: Entry) -> None:
    """Check that an entry names the state after its shard, and statistics, if the run has them.

    Raises:
        RunDirectoryError: it lacks one of them.
    """
    if manifest.statistics and entry.statistics is None and entry.stop:
        raise RunDirectoryError(
            f"{JOURNAL}, shard {entry.shard!r} names no statistics, and the run has some"
        )
    if manifest.model.get("state") == "carry" and entry.state is None and entry.stop:
        raise RunDirectoryError(
            f"{JOURNAL}, shard {entry.shard!r} names no state, and the run carries one"
        )


def state_before(directory: Path, entries: Mapping[Shard, Entry], shard: Shard) -> State:
    """Read the state that a shard starts from, which is the state after the preceding shard.

    Args:
        entries: the committed shards.
        shard: a shard of samples, not the first.

    Raises:
        RunDirectoryError: the preceding shard is not committed, or its state is missing or damaged.
    """
    # Another thread may be committing later shards.
    before = next((entries[key] for key in list(entries) if key.stop == shard.start), None)
    if before is None or before.state is None:
        raise RunDirectoryError(
            f"{directory / JOURNAL} has no state before sample {shard.start}, from which shard "
            f"{shard.key} starts"
        )
    return state_of(directory, before.state)


def state_of(directory: Path, file: StoredFile) -> State:
    """Read a state from its file.

    Raises:
        RunDirectoryError: the file is missing or damaged.
    """
    content = file.content(directory)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return tuple(archive[str(at)] for at in range(len(archive.files)))
    except (*UNREADABLE, KeyError) as error:
        raise RunDirectoryError(f"{directory / file.name} is damaged: {error}") from error


@dataclass(frozen=True, eq=False)
class ShardValues:
    """Everything that is stored of a computed shard.

    Attributes:
        shard: the shard.
        values: the values of each tensor, by key, as files hold them.
        stats: what the checks found in them, by the same keys.
        missing: samples of the shard without values: by index, the reason.
        compute_seconds: seconds spent in the model; None if unknown.
        state: the state that the model carries to the next shard; None if it carries none.
        statistics: partial results of statistics over the shard, by tensor and statistic. Empty if
            there are none.
    """

    shard: Shard
    values: Mapping[str, Values]
    stats: Mapping[str, ValueChecks] = field(default_factory=dict)
    missing: Mapping[int, str] = field(default_factory=dict)
    compute_seconds: float | None = None
    state: State | None = None
    statistics: Partials = field(default_factory=dict)


@dataclass(frozen=True)
class Storing:
    """Writes the files of shards.

    Attributes:
        directory: the run directory.
        sinks: the sinks that write them, by name.
        digests: the algorithm of their digests.
        writer: the unique name of a worker; None for the process that holds the run's lock.
    """

    directory: Path
    sinks: Mapping[str, Sink]
    digests: Algorithm
    writer: str | None = None

    def store(self, one: ShardValues) -> Entry:
        """Write a shard's files durably. The shard is committed by adding the entry to the journal.

        Holds one sink's file in memory at a time.

        Raises:
            JobError: the disk refuses.
        """
        shard, files = one.shard, {}
        # Digests are computed while the disk writes. There is nothing else to do at a run's end.
        with ThreadPoolExecutor(1, "extractkit-digests") as beside:
            values = beside.submit(digest, one.values.items(), self.digests)
            for name, sink in self.sinks.items():
                buffers = serialized_by(sink, one.values)
                files[name] = self._written(beside, shard_file(shard, sink.suffix), *buffers)
                del buffers
            carried = partial = None
            if one.state is not None:
                carried = self._written(beside, state_file(shard), to_bytes(one.state))
            if one.statistics:
                content = serialized(one.statistics)
                partial = self._written(beside, statistics_file(shard), content)
        return Entry(
            shard.key,
            shard.start,
            shard.stop,
            files,
            values.result(),
            one.stats,
            {str(index): reason for index, reason in one.missing.items()},
            {} if one.compute_seconds is None else {"compute": one.compute_seconds},
            shard.along(AXIS),
            carried,
            partial,
        )

    def _written(self, beside: Executor, name: str, *content: Buffer) -> StoredFile:
        path = self.directory / name
        file = beside.submit(StoredFile.of, name, *content, by=self.digests)
        if self.writer is None:
            write_durably(path, *content)
        else:
            write_apart(path, *content, writer=self.writer)
        return file.result()


def check_stored(directory: Path, entry: Entry, writer: str) -> None:
    """Check the files that a worker has written against its entry.

    Raises:
        RunDirectoryError: a file is missing, or has another size or digest.
    """
    for file in entry.stored:
        replace(file, name=temporary_of(Path(file.name), writer).as_posix()).check(directory)


def take_over(directory: Path, entry: Entry, writer: str) -> None:
    """Rename a worker's files to their final names, durably.

    Raises:
        JobError: the disk refuses.
    """
    for file in entry.stored:
        path = directory / file.name
        publish(temporary_of(path, writer), path)


def remove_temporary(directory: Path) -> None:
    """Remove temporary files of killed workers and of shards that were written twice.

    Raises:
        JobError: the disk refuses.
    """
    for path in sorted((directory / SHARDS).glob(f"*{TEMPORARY}")):
        remove(path)


def remove_uncommitted(directory: Path, committed: Iterable[Entry]) -> None:
    """Remove the files of a training's shards that are not committed, or not any more.

    Args:
        committed: the entries of the journal.

    Raises:
        JobError: the disk refuses.
    """
    kept = {Path(file.name).name for entry in committed for file in entry.stored}
    for path in sorted((directory / SHARDS).glob(f"{AXIS}-*")):
        if path.name not in kept and positions_in(path.name):
            remove(path)


_log = logging.getLogger(__name__)

_SUFFIX = re.compile(r"(\.[A-Za-z0-9]+)+")


def intact_entries(
    directory: Path, manifest: Manifest, sinks: Collection[str]
) -> dict[Shard, Entry]:
    """Return the committed shards whose files exist and are as written.

    A journal line that was being written when its process died is cut off, and damaged lines are
    removed. Their shards are stored again.

    Args:
        sinks: names of the sinks that wrote the run.

    Returns:
        The entries without statistics and timings, which would grow large over many shards.

    Raises:
        RunDirectoryError: the journal is not a file or has another version, or the directory of
            shards is not a real directory of the run.
        JobError: the disk refuses.
    """
    check_directory(directory / SHARDS)
    path = directory / JOURNAL
    if path.exists():
        # A process that died may have written a line that is not yet durable.
        make_durable(path)
    found = journal.read(path, salvage=True, brief=True)
    if found.damaged:
        _log.warning("%s: damaged lines %s are removed", path, found.damaged)
        journal.rewrite(path, journal.read(path, salvage=True).entries)
    elif found.torn is not None:
        _log.warning("%s: its last line was not finished; the shard is stored again", path)
        cut(path, found.size)
    planned = set(manifest.shards)
    entries = {}
    for shard, entry in found.by_shard().items():
        try:
            if shard not in planned:
                raise RunDirectoryError(f"{path} lists shard {entry.shard!r}, which is not planned")
            check_state(manifest, entry)
            check_entry(directory, entry, sinks)
        except RunDirectoryError as error:
            _log.warning("%s; its planned samples are stored again", error)
        else:
            entries[shard] = entry
    return entries


def check_entry(directory: Path, entry: Entry, sinks: Collection[str]) -> None:
    """Check one shard's files against its journal entry.

    Raises:
        RunDirectoryError: a file is missing or damaged, or has a name that its shard cannot have.
    """
    check_names(directory, entry, sinks)
    for file in entry.stored:
        file.check(directory)


def check_names(directory: Path, entry: Entry, sinks: Collection[str]) -> None:
    """Check that an entry names exactly the files that its shard has.

    Raises:
        RunDirectoryError: it names other files.
    """
    shard = entry.covers
    at = f"{directory / JOURNAL}, shard {entry.shard!r}"
    if not entry.consistent or set(entry.files) != set(sinks):
        raise RunDirectoryError(
            f"{at}: files of {', '.join(sorted(entry.files)) or 'no sink'} for samples "
            f"{entry.start} … {entry.stop}, but {', '.join(sorted(sinks))} wrote the run"
        )
    for file in entry.files.values():
        suffix = file.name.removeprefix(shard_file(shard, ""))
        if suffix == file.name or not _SUFFIX.fullmatch(suffix):
            raise RunDirectoryError(
                f"{at} names the file {file.name!r}, not {shard_file(shard, '.…')!r}"
            )
    for beside, name in ((entry.state, state_file), (entry.statistics, statistics_file)):
        if beside is not None and beside.name != name(shard):
            raise RunDirectoryError(f"{at} names {beside.name!r}, not {name(shard)!r}")


def check_any_values(entries: Iterable[Entry], samples: int) -> None:
    """Refuse to finish a run in which no sample has a value.

    Args:
        entries: the entries of all shards.
        samples: number of samples, counted once for each checkpoint. 0 for a run of constants
            alone, which is accepted.

    Raises:
        FinalError: all samples are missing.
    """
    count, first = 0, ""
    for entry in entries:
        count += len(entry.missing)
        first = first or next(iter(entry.missing.values()), "")
    if samples and count == samples:
        raise FinalError(
            f"no sample has a value: all {samples} are missing. "
            f"The first: {first.removesuffix('.')}. To store values that are not finite: "
            f"runtime.non_finite=warn. To see where a model fails: runtime.bad_samples=fail. "
            f"That takes a new run, because this one keeps its settings"
        )
