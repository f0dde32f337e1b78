"""The recorder: how a job leaves a run behind. The engine hands it values and knows no file."""

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from extractkit.errors import ConfigError, JobError, RunDirectoryError
from extractkit.plan import Shard
from extractkit.runs import journal, manifest
from extractkit.runs.directory import JOURNAL, SAMPLES, SHARDS
from extractkit.runs.journal import Entry, StoredFile
from extractkit.runs.manifest import Manifest, Status
from extractkit.runs.samples import Row, SamplesWriter
from extractkit.runs.write import make_durable, write_durably, writing
from extractkit.sinks.protocol import Sink, StoredShard
from extractkit.values import Values, digest


class Recorder:
    """Writes one run, shard by shard. Not for use from several threads at once.

    Every method raises JobError where the disk refuses; what was committed before stays good.

    Attributes:
        directory: of the run.
        manifest: as last written.
        bytes: size of all shard files so far, over all sinks.
    """

    def __init__(self, directory: Path, manifest: Manifest, sinks: Mapping[str, Sink]) -> None:
        self.directory = directory
        self.manifest = manifest
        self.bytes = 0
        self._sinks = dict(sinks)
        self._entries: dict[Shard, Entry] = {}
        self._samples = SamplesWriter(directory / SAMPLES)

    @classmethod
    def start(cls, directory: Path, plan: Manifest, sinks: Mapping[str, Sink]) -> "Recorder":
        """Begin a run: write its manifest, with the plan in it, and make room for shards.

        The directory may hold a manifest and a log already, written before the model was loaded.

        Raises:
            ConfigError: two sinks would write files of the same names.
            RunDirectoryError: shards have been committed there.
        """
        by_suffix: dict[str, str] = {}
        for name, sink in sinks.items():
            if (other := by_suffix.setdefault(sink.suffix, name)) != name:
                raise ConfigError(
                    f"sinks.{other} and sinks.{name} both write *{sink.suffix}: choose one of them"
                )
        if (directory / JOURNAL).exists():
            raise RunDirectoryError(
                f"{directory} holds committed shards. Choose another directory: hydra.run.dir=…"
            )
        with writing(directory):
            (directory / SHARDS).mkdir(parents=True, exist_ok=True)
        started = replace(plan, status=Status.STARTED)
        manifest.write(directory, started)
        return cls(directory, started, sinks)

    def add_samples(self, rows: Iterable[Row]) -> None:
        """Record the next samples' rows (`index`, `id`, `source`, …), in order."""
        self._samples.extend(rows)

    def revise(self, planned: Manifest) -> None:
        """Once every sample has its row: publish the rows, and record the plan made from them."""
        self._samples.publish()
        manifest.write(self.directory, planned)
        self.manifest = planned

    def commit(
        self,
        shard: Shard,
        values: Mapping[str, Values],
        timings: Mapping[str, float] | None = None,
        stats: Mapping[str, Mapping[str, object]] | None = None,
    ) -> Entry:
        """Store a shard; once this returns, the shard survives a crash of the machine.

        One sink's file is in memory at a time.
        """
        files = {}
        for name, sink in self._sinks.items():
            image = sink.serialize(values)
            path = f"{SHARDS}/{shard.key}{sink.suffix}"
            files[name] = StoredFile(path, hashlib.sha256(image).hexdigest(), len(image))
            write_durably(self.directory / path, image)
            del image
        entry = Entry(
            shard.key,
            shard.start,
            shard.stop,
            files,
            digest(values.items()),
            stats or {},
            timings or {},
        )
        journal.append(self.directory / JOURNAL, entry)
        self._entries[shard] = entry
        self.bytes += sum(file.bytes for file in files.values())
        return entry

    def finish(
        self,
        actual: Mapping[str, object] | None = None,
        timings: Mapping[str, float] | None = None,
    ) -> Manifest:
        """End the run: samples, the sinks' files over all shards, the manifest.

        Args:
            actual: what to record beside `samples`, `shards` and `bytes`.
            timings: seconds of each stage over the whole run.

        Raises:
            JobError: also where a planned shard was not committed.
        """
        missing = [shard.key for shard in self.manifest.shards if shard not in self._entries]
        if missing:
            raise JobError(f"{len(missing)} shards were never committed, first {missing[0]!r}")
        self._samples.publish()
        tensors = [tensor.stored for tensor in self.manifest.tensors]
        for name, sink in self._sinks.items():
            shards = [
                StoredShard(shard.start, shard.stop, self.directory / entry.files[name].name)
                for shard, entry in self._entries.items()
            ]
            with writing(self.directory):
                written = sink.finish(self.directory, tensors, shards)
            for path in written:
                make_durable(path)
        counted = {
            "samples": sum(len(shard) for shard in self._entries),
            "shards": len(self._entries),
            "bytes": self.bytes,
        }
        self._end(Status.FINISHED, timings, actual={**counted, **(actual or {})})
        return self.manifest

    def fail(
        self,
        status: Status = Status.FAILED,
        timings: Mapping[str, float] | None = None,
    ) -> None:
        """End a run that cannot be finished; committed shards stay readable.

        Something else has gone wrong already, so a disk that refuses is passed over: the manifest
        then goes on saying "started".
        """
        self._samples.discard()
        with suppress(JobError):
            self._end(status, timings)

    def _end(
        self,
        status: Status,
        timings: Mapping[str, float] | None,
        actual: Mapping[str, object] | None = None,
    ) -> None:
        volatile = replace(
            self.manifest.volatile,
            finished=manifest.now(),
            timings={**self.manifest.volatile.timings, **(timings or {})},
        )
        ended = replace(self.manifest, status=status, actual=actual, volatile=volatile)
        manifest.write(self.directory, ended)
        self.manifest = ended
