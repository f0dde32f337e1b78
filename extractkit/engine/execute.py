"""Execution of a job, new or resumed: load, plan, stream, commit, finish."""

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import cast

from extractkit.advice import command
from extractkit.core.job import Job
from extractkit.core.plan import held_per_sample
from extractkit.core.shards import Shard
from extractkit.engine import Listener, Summary
from extractkit.engine.distributed.driver import Hired, hired
from extractkit.engine.identity import described
from extractkit.engine.model_cache import forget
from extractkit.engine.prepare import BATCH, Prepared, prepare
from extractkit.engine.samples import (
    SampleRow,
    Survey,
    recorded_survey,
    survey,
    too_short,
    without_texts,
)
from extractkit.engine.self_check import refuse_differences, self_check
from extractkit.engine.stream import STAGES, Stream
from extractkit.engine.threads import Pace
from extractkit.errors import ExtractkitError, FinalError, RunDirectoryError, UserError, counted
from extractkit.models.process import environment, impose
from extractkit.runs import SAMPLES, components
from extractkit.runs import manifest as manifests
from extractkit.runs.checking.files import damage, lasting_damage
from extractkit.runs.directory import check_space, file_overhead, human_bytes, locked, run_log
from extractkit.runs.environment import Resumed, Volatile, git_state, host, now, package_versions
from extractkit.runs.journal import Entry
from extractkit.runs.manifest import Manifest, RunPlan, Status
from extractkit.runs.parts import check_part_directory, part_directory
from extractkit.runs.recorder import AlreadyStored, Recorder, new_run
from extractkit.runs.same_job import check_repeats, check_same, find_finished
from extractkit.runs.samples import Samples
from extractkit.runs.shards import ShardValues, check_any_values
from extractkit.sinks import Sink

_log = logging.getLogger(__name__)


def execute(
    job: Job,
    directory: Path,
    *,
    hydra_files: Mapping[str, str],
    listener: Listener,
    repeats: Path | None = None,
) -> Path:
    """Run a job. The run directory is complete when this returns.

    Args:
        directory: the run directory, which must be empty. A part of the job (`runtime.part`) is a
            run of its own in a folder of it, see `runs/parts.py`.
        hydra_files: the files that Hydra composed, by name, for `.hydra/`.
        listener: receives progress events.
        repeats: the directory of the run to repeat. Model and inputs must be the recorded ones.

    Returns:
        The run directory: `directory`, the part's folder in it, or that of a finished run of the
            same identity below `runtime.reuse_from`, in which case `directory` is left unchanged.

    Raises:
        UserError: a mistake in the job. The directory is left unchanged.
        JobError: the job failed. Committed shards stay readable.
    """
    started = started_now(job)
    if job.runtime.threads is not None:
        impose(started.environment)
    if (part := job.runtime.part) is not None:
        check_part_directory(directory, part)
        directory = part_directory(directory, part)
    try:
        with (
            new_run(directory, started, hydra_files) as written,
            run_log(directory, listener.note),
        ):
            Execution(job, directory, written, listener, repeats).run()
    except AlreadyStored as found:
        listener.note(f"reused {found.run}: a finished run of the same identity")
        return found.run
    return directory


def resume(job: Job, directory: Path, *, listener: Listener) -> None:
    """Resume a run. The run directory is complete when this returns.

    Intact committed shards are kept, and all others are computed as they would have been. An
    undamaged finished run is left unchanged, and nothing is loaded.

    Args:
        job: the run's own job, made from its manifest. Call `impose` with its environment before
            the job's callables are imported.
        directory: the run directory.
        listener: receives progress events.

    Raises:
        RunDirectoryError: another process holds the run, or model, inputs or versions differ from
            the record.
        JobError: the job failed again. Committed shards stay readable.
        FinalError: the run is complete except for damaged files that hold none of its values.
    """
    with locked(directory):
        listener.stage("checking what is stored")
        recorded = manifests.read(directory)
        lasting = lasting_damage(directory, recorded)
        # Other runs have their shards hashed once, when the recorder starts.
        if recorded.status is Status.FINISHED:
            broken = damage(directory, recorded)
            if not broken:
                listener.note(f"{directory} is finished, and nothing of it is damaged")
                return
            if set(broken) <= set(lasting):
                raise _incomplete(directory, lasting)
        again = resumed_now(recorded)
        attempt = again.volatile.resumed[-1]
        if attempt.host.get("processor") != recorded.volatile.host.get("processor"):
            listener.note(
                "This machine has another processor than the one on which the run began: the last "
                "bits of values may differ from there on"
            )
        with run_log(directory, listener.note):
            Execution(job, directory, again, listener, resumed=True).run()
        if lasting:
            raise _incomplete(directory, lasting)


def started_now(job: Job, training: str | None = None) -> Manifest:
    """Return the manifest of a run that is started now.

    Args:
        training: see `Manifest`.
    """
    return Manifest(
        volatile=Volatile(started=now(), host=host(), working_directory=str(Path.cwd())),
        job_given=job.given,
        job_resolved=job.resolved,
        model_name=job.model_name,
        training=training,
        environment=environment(job.runtime.threads),
        seeds={"runtime": job.runtime.seed},
        versions=package_versions(),
        git=git_state(),
        part=None if job.runtime.part is None else str(job.runtime.part),
    )


def resumed_now(recorded: Manifest) -> Manifest:
    """Return the manifest of a run that is resumed now."""
    resumed = (*recorded.volatile.resumed, Resumed(now(), host()))
    return replace(recorded, volatile=replace(recorded.volatile, finished=None, resumed=resumed))


def _incomplete(directory: Path, lasting: Sequence[str]) -> FinalError:
    return FinalError(
        f"the values of {directory} are whole and can be used, but some of its files cannot be "
        f"made again: {'; '.join(lasting)}. For a run that lacks nothing: "
        f"{command('rerun', directory)}"
    )


def is_whole(directory: Path, recorded: Manifest) -> bool:
    """Return True if a run is finished and none of its files is damaged."""
    return recorded.status is Status.FINISHED and not damage(directory, recorded)


def _components(prepared: Prepared) -> bytes:
    return components.serialized(components.used(prepared.tensors))


@dataclass
class Execution:
    """The steps of an execution, in a run directory whose lock the caller holds.

    Attributes:
        job, directory, listener, repeats: see `execute`.
        manifest: the run's manifest as it starts.
        resumed: whether the run has been started before.
        reopened: whether a resumed run has been found to be of the same job.
        timings: seconds of each stage so far.
        computed: number of samples computed by this process.
        truncated: number of samples that were cut to fit the model.
        recorder: writes the run, once started.
    """

    job: Job
    directory: Path
    manifest: Manifest
    listener: Listener
    repeats: Path | None = None
    resumed: bool = False
    reopened: bool = False
    timings: dict[str, float] = field(default_factory=dict)
    computed: int = 0
    truncated: int = 0
    recorder: Recorder | None = None

    def run(self) -> None:
        """Run the job from its first step to its last."""
        with self.ending():
            recorder = self.start()
            with hired(self.job, self.listener.note) as workers:
                prepared, found = self.prepared(recorder)
                if not recorder.manifest.volatile.self_check:
                    stream = prepared.stream(found, state_before=recorder.state_before)
                    self.check(prepared, stream, recorder, recorder.manifest.sample_shards)
                self._commit(prepared, found, recorder, workers)
            self.finish(prepared, recorder)

    def start(self) -> Recorder:
        """Start writing the run."""
        _log.info("job: %s", " ".join(self.job.given) or "(no overrides)")
        # Sinks first, because they are quick to build and check their own settings.
        sinks = {name: cast(Sink, sink.build()) for name, sink in self.job.sinks.items()}
        self.recorder = Recorder.start(self.directory, self.manifest, sinks)
        return self.recorder

    def prepared(self, recorder: Recorder) -> tuple[Prepared, Survey]:
        """Return the prepared job and the samples' lengths, and record or check the plan."""
        planned = self.manifest.plan is not None
        settings = self.manifest.settings if planned else self._repeated
        record = None if planned else partial(self._record, recorder)
        prepared = prepare(self.job, settings, self.listener.stage, record)
        self.timings.update(prepared.timings)
        if prepared.declined is not None:
            self._note(f"runtime.compile=auto takes TensorFlow's graph: {prepared.declined}")
        return prepared, self._planned(prepared, recorder)

    @property
    def _repeated(self) -> Mapping[str, object] | None:
        """The settings of the run to repeat that this job would measure anew, with other results.

        Another machine, or another moment, may have another rate.
        """
        if self.repeats is None or self.job.runtime.batch_size is not None:
            return None
        recorded = manifests.read(self.repeats).settings
        return {BATCH: recorded[BATCH]} if BATCH in recorded else None

    @contextmanager
    def ending(self) -> Iterator[None]:
        """If the block fails, end the run as failed or interrupted."""
        try:
            yield
        except AlreadyStored:
            assert self.recorder is not None
            self.recorder.discard_samples()
            raise  # not a failure, and the directory is cleaned up
        except BaseException as error:
            if not isinstance(error, UserError):
                forget()  # the model may be in any state
            interrupted = isinstance(error, KeyboardInterrupt)
            # Unexpected errors are logged with their traceback.
            foreseen = interrupted or isinstance(error, ExtractkitError)
            _log.error("%s", "interrupted" if interrupted else error, exc_info=not foreseen)
            # A run that cannot be resumed stays unchanged, unless it is a worker that refuses.
            refused = isinstance(error, UserError) or self.manifest.training is not None
            if self.recorder is not None and self.resumed and not self.reopened and refused:
                self.recorder.abandon()
            elif self.recorder is not None:
                self.recorder.fail(
                    Status.INTERRUPTED if interrupted else Status.FAILED, self.timings
                )
            raise

    def _planned(self, prepared: Prepared, recorder: Recorder) -> Survey:
        """Return the samples' lengths, and freeze the plan in the manifest."""
        now = described(recorder.manifest, prepared)
        if now.model["definition"] is None:
            forget()  # Python code, for example, that may keep state between calls
        if recorder.manifest.plan is not None:
            check_same(recorder.manifest, now, str(self.directory))
            if recorder.manifest.components:
                recorder.restore_components(_components(prepared))
            found = self._recorded(prepared, recorder)
            if recorder.manifest.training is None:
                self.reopen(recorder)
            return found
        if self.repeats is not None:
            check_repeats(self.repeats, manifests.read(self.repeats), now)
        if not self.resumed:
            self._look_for_finished(now)
        part = self.job.runtime.part
        parts = 1 if part is None else part.count
        prepared.opened.check_space(self.directory, len(self.job.sinks), parts)
        found = self._surveyed(prepared, recorder)
        inputs = now.inputs and replace(now.inputs, truncated=self.truncated)
        planned = replace(now, inputs=inputs, plan=self._plan(prepared, found, recorder))
        recorder.freeze(planned, _components(prepared) if planned.components else None)
        return found

    def reopen(self, recorder: Recorder) -> None:
        """Mark the run as started again, unless that is done."""
        if not self.reopened:
            recorder.reopen()
            self.reopened = True

    def _record(self, recorder: Recorder, rows: Sequence[SampleRow]) -> None:
        """Record the rows of the next samples, and count those that were truncated."""
        self.truncated += sum(bool(row.get("truncated")) for row in rows)
        keep = self.job.runtime.keep_texts
        recorder.add_samples(rows if keep else [*map(without_texts, rows)])

    def _surveyed(self, prepared: Prepared, recorder: Recorder) -> Survey:
        """Return the survey of all samples, whose rows have been recorded."""
        opened, policy = prepared.opened, self.job.runtime.bad_samples
        if opened.surveyor is not None:
            found = opened.surveyor.result()
            # Which samples are too short for a slice was not known when their rows were recorded.
            if not too_short(found, prepared.varying):
                return found
        recorder.discard_samples()
        self.truncated = 0
        self.listener.stage("reading the samples")
        began = time.perf_counter()
        record = partial(self._record, recorder)
        found = survey(opened.model, opened.source, record, policy, prepared.varying)
        self.timings["survey"] = self.timings.get("survey", 0) + time.perf_counter() - began
        return found

    def _recorded(self, prepared: Prepared, recorder: Recorder) -> Survey:
        """Return the survey of the original run, read from the samples' rows."""
        recorded = recorder.manifest
        file = next((file for file in recorded.files if file.name == SAMPLES), None)
        if file is None:
            raise RunDirectoryError(
                f"{self.directory} has a plan but records no {SAMPLES}: damaged"
            )
        try:
            file.check(self.directory)
        except RunDirectoryError as error:
            self._note(f"{error}; it is written again")
            found = self._surveyed(prepared, recorder)
            recorder.restore_samples(file)
            return found
        signature = prepared.opened.model.signature
        rows = Samples(self.directory / SAMPLES, schema=recorded.samples_schema)
        return recorded_survey(signature, rows, recorded.samples)

    def _look_for_finished(self, now: Manifest) -> None:
        root = self.job.runtime.reuse_from
        if root is None:
            return
        if now.identity is None:
            self._note("runtime.reuse_from: it is unknown what this model computes, so it is run")
        elif (found := find_finished(Path(root), now.identity, self._note)) is not None:
            raise AlreadyStored(found)

    def _plan(self, prepared: Prepared, found: Survey, recorder: Recorder) -> RunPlan:
        lengths = found.lengths
        unforeseen = prepared.trial.scaled(lengths)
        held = held_per_sample(prepared.tensors, lengths) + unforeseen
        shards = prepared.opened.shards(lengths, held, self.job.runtime.shard_size)
        times, sinks = prepared.opened.sets_of_weights, len(self.job.sinks)
        stored = prepared.opened.stored_bytes(lengths, len(shards))
        computed = int(unforeseen.sum()) * times
        total = sum(size or 0 for size in stored.values()) + computed
        overhead = file_overhead(len(prepared.tensors), len(shards) * times)
        files = prepared.opened.disk_bytes(stored, sinks) + (computed + overhead) * sinks
        if (part := self.job.runtime.part) is not None:
            files = math.ceil(files / part.count)  # an estimate
        check_space(self.directory, files + recorder.sample_bytes)
        exact = all(tensor.predictable for tensor in prepared.tensors)
        return RunPlan.of(total, exact, [(shard.start, shard.stop) for shard in shards])

    def check(
        self,
        prepared: Prepared,
        stream: Stream,
        recorder: Recorder,
        shards: Sequence[Shard],
        position: int | None = None,
    ) -> None:
        """Compare the model's outputs with its own call; see `self_check`."""
        if not self.job.runtime.self_check:
            return
        began = time.perf_counter()
        self.listener.stage("checking the outputs against the model's own call")
        checked = self_check(prepared, stream, shards, position)
        self.timings["self_check"] = time.perf_counter() - began
        for note in checked.notes:
            self._note(note)
        refuse_differences(checked, len(recorder.committed))
        for one in checked.records:
            equal = f"outputs as from {one.loaded_by}, to {one.largest_difference:.2g}"
            _log.info("self-check: %s", one.not_applicable or equal)
        recorder.record_self_check(checked.records)

    def _commit(
        self, prepared: Prepared, found: Survey, recorder: Recorder, workers: Hired | None
    ) -> None:
        """Store every planned shard that is missing."""
        plan, shards = recorder.manifest.plan, recorder.manifest.shards
        assert plan is not None
        samples = sum(map(len, shards))
        share = plan.bytes * len(shards) // max(1, len(recorder.manifest.planned_shards))
        self.listener.planned(prepared.tensors, samples, share)
        counts = (len(prepared.tensors), samples, len(shards))
        _log.info("plan: %d tensors, %d samples, %d shards, %s", *counts, human_bytes(share))
        self.report(prepared, recorder.manifest)
        missing = [shard for shard in shards if shard not in recorder.committed]
        if len(missing) < len(shards):
            done = len(shards) - len(missing)
            self._note(f"{done} of {len(shards)} shards are committed already")
            self.listener.advanced(sum(map(len, recorder.committed)), recorder.bytes)
        began = time.perf_counter()
        self.computed = sum(map(len, missing))
        ordered = prepared.ordered(missing, found)
        if workers is None:
            pace = Pace(*STAGES)

            def advanced(done: int) -> None:
                self.listener.advanced(done, 0)
                self.listener.paced(pace.slowest())

            stream = prepared.stream(found, on_batch=advanced, state_before=recorder.state_before)
            with closing(stream.shards(ordered, pace=pace)) as computed:
                for one in computed:
                    self.commit(one, recorder)
                    del one  # free its memory before the next is taken
        else:
            workers.compute(
                ordered, recorder, sum(prepared.timings.values()), self._stored, self._note
            )
        self.timings["extract"] = time.perf_counter() - began

    def commit(self, one: ShardValues, recorder: Recorder) -> None:
        """Store a shard."""
        began = time.perf_counter()
        before = recorder.bytes
        recorder.commit(one)
        _log.info("committed %s in %.3f s", one.shard.key, time.perf_counter() - began)
        self.listener.advanced(0, recorder.bytes - before)

    def _stored(self, shard: Shard, entry: Entry) -> None:
        """Report a worker's shard as committed."""
        _log.info("committed %s", shard.key)
        self.listener.advanced(len(shard), sum(file.size for file in entry.stored))

    def finish(self, prepared: Prepared, recorder: Recorder) -> None:
        """Finish the run, and report what it holds."""
        every = sum(map(len, recorder.manifest.planned_shards))
        check_any_values(recorder.committed.values(), every)
        if recorder.manifest.checkpoints and recorder.manifest.part is None:
            count = len(recorder.manifest.checkpoints)
            self.listener.note(
                f"all is stored; measuring how tensors move over {count} checkpoints"
            )
        self.listener.stage("finishing the run: checks and index")
        ended = recorder.finish(self.timings)
        assert ended.actual is not None
        whole = ended.part is None
        found = ended.checked_values
        summary = Summary(
            directory=self.directory,
            tensors=len(prepared.tensors),
            samples=ended.samples if whole else ended.actual.samples,
            checkpoints=len(ended.checkpoints) if whole else 0,
            truncated=ended.inputs.truncated if ended.inputs else 0,
            shards=len(ended.shards),
            bytes=ended.actual.bytes,
            seconds=self.timings["extract"],
            computed=self.computed,
            non_finite=tuple(k for k, one in found.items() if not one.finite),
            missing=ended.actual.missing,
            constant=tuple(k for k, one in found.items() if one.constant),
            unchanging=tuple(k for k, one in found.items() if one.never_changes),
            overflowing=ended.overflowing,
            gaps=ended.gaps,
        )
        self.listener.finished(summary)

    def report(self, prepared: Prepared, planned: Manifest) -> None:
        """Report what the user should know about the samples, the tensors and the checkpoints."""
        for note in prepared.opened.source.notes:
            self._note(note)
        if prepared.shared.note is not None:
            self._note(prepared.shared.note)
        for note in components.notes(components.used(prepared.tensors), planned):
            self._note(note)
        for excluded in planned.excluded:
            self._note(f"checkpoint {excluded.label!r} is excluded: {excluded.reason}")
        if planned.inputs is not None and planned.inputs.truncated:
            were = "was" if planned.inputs.truncated == 1 else "were"
            self._note(
                f"{planned.inputs.truncated} of {planned.samples} samples {were} cut off to fit "
                f"the model (marked in samples.jsonl)"
            )
        if unextractable := prepared.opened.unextractable:
            self._note(
                f"{counted(len(unextractable), 'matched tensor')} cannot be extracted, "
                f"first {unextractable[0].address}: {unextractable[0].reason}"
            )

    def _note(self, message: str) -> None:
        _log.info("%s", message)
        self.listener.note(message)
