"""Recording of a model while it is trained: a run over checkpoints that are added step by step.

A step becomes a checkpoint of the manifest once all of its shards are in the journal. So a process
that is killed at any moment leaves a run of whole steps. What it had begun is computed again when
training resumes.

The statistic `histogram` of each step is also written for TensorBoard, if that is asked for.
"""

import logging
import os
import platform
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakValueDictionary

import tensorflow as tf

from extractkit.advice import command
from extractkit.core.checkpoints import Checkpoint, ExcludedCheckpoint
from extractkit.core.job import Job
from extractkit.core.statistics import Partials
from extractkit.core.statistics.histograms import Histogram, buckets
from extractkit.core.values import Array
from extractkit.engine import Silent
from extractkit.engine.execute import Execution, resumed_now, started_now
from extractkit.engine.identity import identity, weights_of
from extractkit.engine.prepare import Prepared
from extractkit.engine.stream import Stream
from extractkit.errors import JobError, RunDirectoryError, counted
from extractkit.runs import ELSEWHERE, MANIFEST, RUN_KEY
from extractkit.runs import manifest as manifests
from extractkit.runs.directory import locked, run_log
from extractkit.runs.manifest import Manifest, Status
from extractkit.runs.recorder import Recorder, new_run
from extractkit.runs.same_job import check_configuration, check_versions
from extractkit.runs.statistics import results

_log = logging.getLogger(__name__)

_PLUGIN = "histograms"


class TrainingSteps:
    """A `CheckpointAxis` of the steps of a training. The model has the weights of the last one.

    Attributes:
        checkpoints: The steps so far.
        excluded: Nothing.
        loads: The number of times that the weights have changed.
    """

    excluded: Sequence[ExcludedCheckpoint] = ()

    def __init__(self) -> None:
        self.checkpoints: tuple[Checkpoint, ...] = ()
        self.loads = 0

    def choose(self, policy: str) -> None:
        """Do nothing. There are no files to check."""

    def use(self, position: int) -> None:
        """Check that the model has the weights of `checkpoints[position]`.

        Raises:
            JobError: They are those of an earlier step.
        """
        if position < len(self.checkpoints) - 1:
            label = self.checkpoints[position].label
            raise JobError(f"the weights of {label!r} existed only at that step of the training")

    def follow(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Take over the steps, of which the last one has the weights that the model has now."""
        self.checkpoints = tuple(checkpoints)
        self.loads += 1


_OPEN: "WeakValueDictionary[Path, Recording]" = WeakValueDictionary()
"""The recordings of this process, by run directory. `fit` does not report that it has failed."""


def begin(job: Job, steps: TrainingSteps, unit: str, directory: Path) -> "Recording":
    """Start a run of a model that is about to be trained, or resume it.

    Args:
        job: The job, whose model is an adapter with `steps` as its checkpoints.
        unit: What the steps count: "epoch" or "step".
        directory: The run directory: empty, or with a run of the same job.

    Raises:
        UserError: A mistake in the job, or the directory holds something else. A new run leaves
            nothing behind, and a recorded one stays as it is.
        JobError: The model fails, or the disk refuses.
    """
    directory = Path(os.path.abspath(directory))  # noqa: PTH100 - links stay
    if (other := _OPEN.get(directory)) is not None:
        other.close()
    resumed = (directory / MANIFEST).exists()
    with ExitStack() as lock:
        if resumed:
            lock.enter_context(locked(directory))
            started = _resumed(directory, job, unit)
        else:
            started = lock.enter_context(new_run(directory, started_now(job, unit), {}))
        steps.follow(started.checkpoints)
        execution = Execution(job, directory, started, Silent(), resumed=resumed)
        with run_log(directory, _ignored), execution.ending():
            recorder = execution.start()
            _check_whole(directory, started, recorder)
            prepared, found = execution.prepared(recorder)
            recorder.discard_unplanned()
            execution.report(prepared, recorder.manifest)
            # Kept, since it holds the encoded samples for all steps.
            stream = prepared.stream(found, state_before=recorder.state_before)
        how = (execution, prepared, stream, recorder, lock.pop_all())
        recording = Recording(directory, unit, steps, *how)
    _OPEN[directory] = recording
    return recording


def _resumed(directory: Path, job: Job, unit: str) -> Manifest:
    """Return the manifest of a run that is to be resumed.

    Raises:
        RunDirectoryError: It was not recorded during training, or with other settings.
    """
    recorded = manifests.read(directory)
    at = f"{RUN_KEY}={directory}"
    if recorded.training is None:
        raise RunDirectoryError(f"{at} holds a run that no training has recorded. {ELSEWHERE}")
    if recorded.training != unit:
        raise RunDirectoryError(
            f"{at} holds a run of every {recorded.training}, which cannot be resumed with every "
            f"{unit}. {ELSEWHERE}"
        )
    check_versions(directory, recorded)
    check_configuration(directory, recorded, job.resolved)
    return resumed_now(recorded)


def _check_whole(directory: Path, started: Manifest, recorder: Recorder) -> None:
    """Check that the recorded steps are undamaged, since they cannot be computed again.

    Raises:
        RunDirectoryError: A shard is damaged or missing.
    """
    lost = [shard.key for shard in started.shards if shard not in recorder.committed]
    if lost:
        raise RunDirectoryError(
            f"{RUN_KEY}={directory} is damaged in {counted(len(lost), 'shard')}, first "
            f"{lost[0]!r}, and the weights of that step existed only during training. See what is "
            f"damaged: {command('verify', directory)}. {ELSEWHERE}"
        )


def _ignored(message: str) -> None:
    """Leave a message to the run's log."""


@dataclass(eq=False)
class Recording:
    """A run that is being recorded, whose lock is held.

    Attributes:
        directory: The run directory.
        unit: What the steps count: "epoch" or "step".
        steps: The axis of the steps.
    """

    directory: Path
    unit: str
    steps: TrainingSteps
    _execution: Execution
    _prepared: Prepared
    _stream: Stream
    _recorder: Recorder
    _lock: ExitStack

    @property
    def last(self) -> int | None:
        """The last recorded step; None if there is none."""
        return self.steps.checkpoints[-1].step if self.steps.checkpoints else None

    @property
    def _finished(self) -> bool:
        """Whether the run was finished, and has no new step since then."""
        return self._recorder.manifest.status is Status.FINISHED

    def find(self, step: int) -> Checkpoint | None:
        """Return a recorded step, or None."""
        return next((one for one in self.steps.checkpoints if one.step == step), None)

    def weights(self) -> str:
        """Return the digest of the model's weights."""
        return self._prepared.opened.model.weights_digest()

    def statistics(self, step: int) -> Partials:
        """Return the results of all statistics at a recorded step, by tensor and name."""
        position = [one.step for one in self.steps.checkpoints].index(step)
        manifest, committed = self._recorder.manifest, self._recorder.committed
        entries = {shard: committed[shard] for shard in manifest.shards_at(position)}
        found = results(self.directory, manifest, entries)
        return {
            at: {name: array[0] for name, array in arrays.items()} for at, arrays in found.items()
        }

    def record(self, step: int, weights: str) -> None:
        """Compute and commit a step with the weights that the model has now.

        Steps from this one on, which an interrupted training had reached with other weights, are
        dropped.

        Args:
            weights: Their digest.

        Raises:
            JobError: The model fails, or the disk refuses. Committed steps stay readable.
            RunDirectoryError: A finished run has this step, or the run has only later ones. It
                stays as it is.
        """
        before = tuple(one for one in self.steps.checkpoints if (one.step or 0) < step)
        label = f"{self.unit}_{step}"
        position = len(before)
        if self.last is not None and step < self.last and self.find(step) is None:
            raise RunDirectoryError(
                f"{RUN_KEY}={self.directory} has no {label!r}, but later steps, up to "
                f"{self.steps.checkpoints[-1].label!r}: it was recorded with another every=…, or "
                f"this training counts its steps otherwise. Give the same every=… as before. "
                f"{ELSEWHERE}"
            )
        if position < len(self.steps.checkpoints) and self._finished:
            raise RunDirectoryError(
                f"{RUN_KEY}={self.directory} holds a finished run, and this training differs from "
                f"it at {label!r}, where its weights are others. The run stays as it is. "
                f"{ELSEWHERE}"
            )
        with self._writing():
            self._reopen()
            if position < len(self.steps.checkpoints):
                left = [one.label for one in self.steps.checkpoints[position:]]
                _log.warning("training took another course: %s are dropped", ", ".join(left))
                self._recorder.set_checkpoints(before, weights_of(before))
                self._recorder.discard_unplanned()
            size = self._prepared.opened.model.catalog.weights_bytes
            steps = (*before, Checkpoint(label, step, "", weights, size))
            self.steps.follow(steps)
            began = time.perf_counter()
            shards = self._recorder.manifest.shards_at(position)
            if not self._recorder.manifest.volatile.self_check:
                samples = [shard for shard in shards if len(shard)]
                self._execution.check(
                    self._prepared, self._stream, self._recorder, samples, position
                )
            for one in self._stream.shards(shards):
                self._execution.commit(one, self._recorder)
            self._recorder.set_checkpoints(steps, weights_of(steps))
            timings = self._execution.timings
            timings["extract"] = timings.get("extract", 0) + time.perf_counter() - began
            _log.info("recorded %s", label)

    def finish(self) -> None:
        """Finish the run: write the files over all steps, unless there is nothing new."""
        if not self.steps.checkpoints or self._finished:
            self.close()
            return
        with self._writing():
            self._reopen()
            manifest = self._recorder.manifest
            self._recorder.manifest = replace(manifest, identity=identity(self._prepared, manifest))
            self._execution.timings.setdefault("extract", 0.0)
            self._execution.finish(self._prepared, self._recorder)
        self._release()

    def close(self) -> None:
        """End the run as interrupted. Training can resume it."""
        if _OPEN.get(self.directory) is not self:
            return
        if self._execution.resumed and not self._execution.reopened:
            self._recorder.abandon()
        else:
            self._recorder.fail(Status.INTERRUPTED, self._execution.timings)
        self._release()

    def _reopen(self) -> None:
        """Mark a resumed run as started, once something changes in it."""
        if self._execution.resumed:
            self._execution.reopen(self._recorder)

    def _writing(self) -> ExitStack:
        if _OPEN.get(self.directory) is not self:
            raise RunDirectoryError(
                f"{RUN_KEY}={self.directory} is being recorded by a later training in this process"
            )
        stack = ExitStack()
        stack.push(self._failed)
        stack.enter_context(run_log(self.directory, _ignored))
        stack.enter_context(self._execution.ending())
        return stack

    def _failed(self, *error: object) -> None:
        if error[0] is not None:
            self._release()

    def _release(self) -> None:
        _OPEN.pop(self.directory, None)
        self._lock.close()


class HistogramWriter:
    """Writes an event file of TensorBoard.

    An event is a record of its own. A process that is killed while writing one leaves all others
    readable. If a step is written again, TensorBoard drops what it has of this and later steps.

    Args:
        directory: TensorBoard's `--logdir`, or a folder in it. It is created if needed.

    Raises:
        JobError: the file cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        name = f"events.out.tfevents.{time.time():.6f}.{platform.node()}.{os.getpid()}"
        self._path = directory / name
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file = tf.io.TFRecordWriter(str(self._path))
        except (OSError, tf.errors.OpError) as error:
            raise JobError(f"{self._path} cannot be written: {error}") from error
        self._write(tf.compat.v1.Event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(self, step: int, statistics: Partials) -> None:
        """Write the histograms among the statistics of a step, each under the key of its tensor.

        Raises:
            JobError: the disk refuses.
        """
        found = {
            key: rows
            for (key, name), results in statistics.items()
            if name == Histogram.name and len(rows := buckets(results))
        }
        summary = tf.compat.v1.Summary(value=[_value(key, rows) for key, rows in found.items()])
        self._write(tf.compat.v1.Event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, event: tf.compat.v1.Event) -> None:
        try:
            self._file.write(event.SerializeToString())
            self._file.flush()
        except tf.errors.OpError as error:
            raise JobError(f"{self._path} cannot be written: {error}") from error


def _value(key: str, rows: Array) -> tf.compat.v1.Summary.Value:
    plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name=_PLUGIN)
    metadata = tf.compat.v1.SummaryMetadata(plugin_data=plugin, data_class="DATA_CLASS_TENSOR")
    tensor = tf.make_tensor_proto(rows, tf.float64)
    return tf.compat.v1.Summary.Value(tag=key, metadata=metadata, tensor=tensor)
