"""Writing a run: start it, record it, finish it, or undo it after a user's mistake."""

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from extractkit.advice import command
from extractkit.core.checkpoints import AXIS, Checkpoint
from extractkit.core.shards import OuterAxis, Shard
from extractkit.core.value_checks import EXAMINATION, ValueChecks
from extractkit.core.values import State
from extractkit.errors import ConfigError, JobError, RunDirectoryError, UserError
from extractkit.runs import (
    COMPONENTS,
    HYDRA,
    JOURNAL,
    LOCK,
    LOG,
    MANIFEST,
    SAMPLES,
    SHARDS,
    journal,
    manifest,
)
from extractkit.runs.directory import check_unused, new_directory
from extractkit.runs.drift import DRIFT, Drift, drift_of, to_bytes
from extractkit.runs.environment import SelfCheck, now
from extractkit.runs.files import StoredFile, content_of
from extractkit.runs.journal import Entry
from extractkit.runs.manifest import Actual, Manifest, Status
from extractkit.runs.samples import SCHEMA as ROWS_SCHEMA
from extractkit.runs.samples import Row, SamplesWriter
from extractkit.runs.shards import (
    ShardValues,
    Storing,
    intact_entries,
    remove_temporary,
    remove_uncommitted,
    state_before,
    take_over,
)
from extractkit.runs.statistics import RESULTS, results, serialized
from extractkit.runs.trajectory import views_of
from extractkit.runs.views import Committed
from extractkit.sinks import Sink, StoredShard
from extractkit.store.local import make_directory, make_durable, remove, write_durably


class AlreadyStored(Exception):  # noqa: N818 - nothing went wrong
    """Raised inside `new_run` if a finished run, `run`, already holds what the job would store."""

    def __init__(self, run: Path) -> None:
        super().__init__(f"{run} is a finished run of the same identity")
        self.run = run


@contextmanager
def new_run(
    directory: Path, started: Manifest, hydra_files: Mapping[str, str]
) -> Iterator[Manifest]:
    """Start a new run, and hold its lock while the context lasts.

    Writes the files that Hydra composed, then a manifest with status "started". From there on the
    run can be resumed. A user's mistake inside the context removes everything again.

    Raises:
        RunDirectoryError: the directory is in use, another process holds its lock, or it cannot be
            made.
        JobError: the disk refuses.
    """
    with new_directory(directory, check_unused):
        try:
            yield _begin(directory, started, hydra_files)
        except (UserError, AlreadyStored):
            _undo(directory)
            raise


def hydra_files(directory: Path, recorded: Manifest, note: Callable[[str], None]) -> dict[str, str]:
    """Return the intact files that Hydra composed for a run: their texts by file name.

    The run does not need these files, because the manifest records the resolved configuration.

    Args:
        note: receives a message for each file that is missing or damaged.
    """
    found = {}
    for file in recorded.files:
        folder, _, name = file.name.rpartition("/")
        if folder != HYDRA or "/" in name:
            continue
        try:
            file.check(directory)
            found[name] = content_of(directory / file.name).decode("utf-8")
        except (RunDirectoryError, FileNotFoundError, UnicodeDecodeError) as error:
            note(f"ignored, since the run does not need it: {error}")
    return found


def _begin(directory: Path, started: Manifest, hydra_files: Mapping[str, str]) -> Manifest:
    # After a power failure, the lock file shows that the rest was written by extractkit.
    make_durable(directory / LOCK)
    files = []
    try:
        if hydra_files:
            make_directory(directory / HYDRA)
        for name, text in hydra_files.items():
            write_durably(directory / HYDRA / name, text.encode())
            file = StoredFile.of(f"{HYDRA}/{name}", text.encode(), by=started.digests)
            files.append(file)
        started = replace(started, files=tuple(files))
        manifest.write(directory, started)
    except BaseException:
        _undo(directory)  # a directory that is neither empty nor a run could not be used again
        raise
    return started


def _undo(directory: Path) -> None:
    """Remove what a run has written, unless a shard has been committed."""
    if (directory / JOURNAL).exists():
        return
    # While there is a manifest, the run is complete. The manifest is therefore removed last.
    shutil.rmtree(directory / SHARDS, ignore_errors=True)
    for name in (LOG, SAMPLES, COMPONENTS, MANIFEST):
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / HYDRA, ignore_errors=True)


_log = logging.getLogger(__name__)


class Recorder:
    """Writes one run, shard by shard. Not thread-safe.

    Every method raises JobError if the disk refuses. Committed shards stay valid.

    Attributes:
        directory: the run directory.
        manifest: the manifest as last written.
        committed: the entry of every stored shard.
        bytes: size of all shard files so far, over all sinks.
    """

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        sinks: Mapping[str, Sink],
        committed: Mapping[Shard, Entry],
    ) -> None:
        self.directory = directory
        self.manifest = manifest
        self.committed: dict[Shard, Entry] = {}
        self.bytes = 0
        self._found: dict[str, ValueChecks] = {}
        for shard, entry in committed.items():
            self._remember(shard, entry)
        self._storing = Storing(directory, dict(sinks), manifest.digests)
        self._samples: SamplesWriter | None = None

    @classmethod
    def start(cls, directory: Path, started: Manifest, sinks: Mapping[str, Sink]) -> "Recorder":
        """Start writing a run, new or resumed, whose lock the caller holds.

        Committed shards whose files are damaged or missing are dropped, to be stored again. So is
        a journal line that was being written when a process died.

        Raises:
            ConfigError: two sinks would write files with the same names.
            RunDirectoryError: the journal is damaged.
        """
        by_suffix: dict[str, str] = {}
        for name, sink in sinks.items():
            if (other := by_suffix.setdefault(sink.suffix, name)) != name:
                raise ConfigError(
                    f"sinks.{other} and sinks.{name} both write *{sink.suffix}: choose one of them"
                )
        committed = intact_entries(directory, started, sinks)
        make_directory(directory / SHARDS)
        recorder = cls(directory, started, sinks, committed)
        recorder._found = journal.value_stats(directory / JOURNAL, committed)
        return recorder

    def reopen(self) -> None:
        """Mark a run that had ended as started again.

        The files over all shards of a training's steps are removed, since steps will be added.
        """
        reopened = replace(self.manifest, status=Status.STARTED, actual=None)
        if reopened.training is None:
            self._write(reopened)
            return
        kept = [one for one in reopened.files if one.name in (SAMPLES, COMPONENTS)]
        outdated = [one for one in reopened.files if one not in kept]
        self._write(replace(reopened, files=tuple(kept), identity=None))
        for file in outdated:
            remove(self.directory / file.name)

    def set_checkpoints(self, checkpoints: Sequence[Checkpoint], weights: str) -> None:
        """Record the steps of a training whose shards are all committed.

        Args:
            weights: the digest of all their weights.
        """
        model = {**self.manifest.model, "weights": weights}
        self._write(replace(self.manifest, checkpoints=tuple(checkpoints), model=model))

    def discard_unplanned(self) -> None:
        """Remove shards of steps that are not recorded, or not any more, and then their files."""
        planned, path = set(self.manifest.shards), self.directory / JOURNAL
        entries = journal.read(path).entries
        kept = [one for one in entries if one.covers in planned]
        if len(kept) < len(entries):
            journal.rewrite(path, kept)
            self.committed = {one: self.committed[one] for one in self.committed if one in planned}
            self.bytes = sum(file.size for one in self.committed.values() for file in one.stored)
            self._found = journal.value_stats(path, self.committed)
        remove_uncommitted(self.directory, kept)

    def add_worker(self, host: Mapping[str, object]) -> None:
        """Remember the machine of a worker, to be recorded when the run ends."""
        volatile = self.manifest.volatile
        if host not in volatile.workers:
            volatile = replace(volatile, workers=(*volatile.workers, host))
            self.manifest = replace(self.manifest, volatile=volatile)

    def add_samples(self, rows: Iterable[Row]) -> None:
        """Record the next samples' rows (`index`, `id`, `source`, …), in order."""
        if self._samples is None:
            self._samples = SamplesWriter(self.directory / SAMPLES, self.manifest.digests)
        self._samples.extend(rows)

    def freeze(self, planned: Manifest, components: bytes | None = None) -> None:
        """Publish the samples' rows, once complete, and record the plan made from them.

        From here on, the manifest does not change until the run ends.

        Args:
            components: the content of `components.npz`; None: the run has no such file.
        """
        self.add_samples(())
        assert self._samples is not None
        samples, self._samples = self._samples.publish(), None
        made = [samples]
        if components is not None:
            write_durably(self.directory / COMPONENTS, components)
            made.append(StoredFile.of(COMPONENTS, components, by=self.manifest.digests))
        files = _with(planned.files, made)
        self._write(
            replace(planned, status=Status.STARTED, files=files, samples_schema=ROWS_SCHEMA)
        )

    def record_self_check(self, checks: tuple[SelfCheck, ...]) -> None:
        """Record the results of the self-check."""
        volatile = replace(self.manifest.volatile, self_check=checks)
        self._write(replace(self.manifest, volatile=volatile))

    @property
    def sample_bytes(self) -> int:
        """Size of the rows that have been added but not yet published."""
        return 0 if self._samples is None else self._samples.bytes

    def restore_samples(self, recorded: StoredFile) -> None:
        """Publish rows that have been added again in place of a damaged file.

        Raises:
            RunDirectoryError: the rows differ from the recorded ones.
        """
        self.add_samples(())
        assert self._samples is not None
        if self._samples.content != recorded:
            raise RunDirectoryError(
                f"{self.directory / SAMPLES} is damaged, and the rows made now differ from those "
                f"recorded. Repeat the run: {command('rerun', self.directory)}"
            )
        samples, self._samples = self._samples, None
        samples.publish()

    def restore_components(self, content: bytes) -> None:
        """Write `components.npz` again, if it is missing or damaged.

        Args:
            content: its recorded content.
        """
        for file in self.manifest.files:
            if file.name == COMPONENTS and not file.whole(self.directory):
                write_durably(self.directory / COMPONENTS, content)

    def commit(self, one: ShardValues) -> Entry:
        """Store a shard. Once this returns, the shard survives a crash of the machine.

        Holds one sink's file in memory at a time.
        """
        entry = self._storing.store(one)
        self._accept(one.shard, entry)
        return entry

    def state_before(self, shard: Shard) -> State:
        """Return the state that a shard starts from. The first shard has none."""
        return state_before(self.directory, self.committed, shard)

    def accept(self, shard: Shard, entry: Entry, writer: str) -> None:
        """Commit a shard that a worker has stored and `check_stored` has verified.

        Args:
            writer: the worker's name, see `Storing`.
        """
        take_over(self.directory, entry, writer)
        self._accept(shard, entry)

    def _accept(self, shard: Shard, entry: Entry) -> None:
        journal.append(self.directory / JOURNAL, entry)
        self._remember(shard, entry)

    def _remember(self, shard: Shard, entry: Entry) -> None:
        """Keep only what the end of the run needs, because the rest adds up over many shards."""
        for key, stats in entry.stats.items():
            before = self._found.get(key)
            self._found[key] = EXAMINATION.merge(before, stats) if before else stats
        self.bytes += sum(file.size for file in entry.stored)
        self.committed[shard] = replace(entry, stats={}, timings={})

    def finish(self, timings: Mapping[str, float] | None = None) -> Manifest:
        """Finish the run: write the sinks' files over all shards, the log and the manifest.

        Args:
            timings: seconds of each stage over the whole run.

        Raises:
            JobError: the disk refuses, or a planned shard was not committed.
        """
        missing = [shard.key for shard in self.manifest.shards if shard not in self.committed]
        if missing:
            raise JobError(f"{len(missing)} shards were never committed, first {missing[0]!r}")
        remove_temporary(self.directory)
        # In the plan's order, not the order of the commits.
        entries = {shard: self.committed[shard] for shard in self.manifest.shards}
        # A part has no files over all shards. They are made when the parts are joined.
        began = time.perf_counter()
        files = self._write_whole_run(entries) if self.manifest.part is None else []
        spent = {**(timings or {}), "finish": time.perf_counter() - began}
        self._end(
            replace(
                self.manifest,
                status=Status.FINISHED,
                files=_with(self.manifest.files, files),
                actual=Actual.of(entries.values(), self._values()),
            ),
            spent,
            self._log(),
        )
        return self.manifest

    def _write_whole_run(self, entries: Mapping[Shard, Entry]) -> list[StoredFile]:
        """Write the files that cover all shards together."""
        tensors = [tensor.stored for tensor in self.manifest.tensors]
        files = []
        for name, sink in self._storing.sinks.items():
            shards = [
                StoredShard(shard, self.directory / entry.files[name].name)
                for shard, entry in entries.items()
            ]
            for file, content in sink.finish(self.directory, tensors, shards).items():
                write_durably(self.directory / file, content)
                files.append(StoredFile.of(file, content, by=self.manifest.digests))
        if self.manifest.statistics:
            content = serialized(results(self.directory, self.manifest, entries))
            write_durably(self.directory / RESULTS, content)
            files.append(StoredFile.of(RESULTS, content, by=self.manifest.digests))
        axis = next((one for one in self.manifest.outer_axes if one.name == AXIS), None)
        if axis is not None:
            _log.info("measuring drift over %d checkpoints", len(axis))
            content = to_bytes(self._drift(axis, entries))
            write_durably(self.directory / DRIFT, content)
            files.append(StoredFile.of(DRIFT, content, by=self.manifest.digests))
        return files

    def _drift(self, axis: OuterAxis, entries: Mapping[Shard, Entry]) -> Drift:
        """Measure how the tensors move over the checkpoints, from the committed values."""
        name, sink = next(iter(self._storing.sinks.items()))
        manifest = self.manifest
        # Each file was just written, or was checked against its digest when the run was resumed.
        committed = Committed(
            self.directory, manifest.status, manifest.samples, entries, name, sink, check=False
        )
        views = views_of(manifest, committed)
        missing = {int(index) for entry in entries.values() for index in entry.missing}
        return drift_of(views, axis, missing)

    def fail(
        self, status: Status = Status.FAILED, timings: Mapping[str, float] | None = None
    ) -> None:
        """End a run that cannot be finished now. Committed shards stay readable.

        Another error is being reported, so errors of the disk are ignored. The status then stays
        "started".
        """
        self.abandon()
        with suppress(JobError):
            self._end(replace(self.manifest, status=status, actual=None), timings, None)

    def abandon(self) -> None:
        """Leave the run as recorded. Rows of samples that were never published are lost."""
        self.discard_samples()

    def discard_samples(self) -> None:
        """Remove the samples' rows that have been added but not yet published."""
        if self._samples is not None:
            self._samples.discard()
            self._samples = None

    def _values(self) -> dict[str, ValueChecks]:
        """Return the checks of each tensor's values, in the manifest's order."""
        manifest = self.manifest
        keys = [one.key for one in manifest.tensors] + [one.key for one in manifest.statistics]
        return {key: self._found[key] for key in keys if key in self._found}

    def _end(
        self, ended: Manifest, timings: Mapping[str, float] | None, log: StoredFile | None
    ) -> None:
        volatile = replace(ended.volatile, finished=now(), timings=timings or {}, log=log)
        self._write(replace(ended, volatile=volatile))

    def _log(self) -> StoredFile | None:
        if not (self.directory / LOG).exists():
            return None
        before = self.manifest.volatile.log
        if before is not None:
            try:
                before.check(self.directory, growing=True)
            except RunDirectoryError:
                return before  # so that a damaged log is not recorded as the right one
        make_durable(self.directory / LOG)
        return StoredFile.on_disk(self.directory, LOG, by=self.manifest.digests)

    def _write(self, changed: Manifest) -> None:
        manifest.write(self.directory, changed)
        self.manifest = changed


def _with(files: Sequence[StoredFile], more: Sequence[StoredFile]) -> tuple[StoredFile, ...]:
    """Return files with others added. A file of the same name is replaced."""
    named = {file.name: file for file in (*files, *more)}
    return tuple(named.values())
