"""`extractkit.Callback`: a run of a model's values at the steps of its training."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from extractkit.api import Group, example_among, live_inputs
from extractkit.config.plain_data import compose_values
from extractkit.core.component import Component
from extractkit.core.job import settings_that
from extractkit.core.keys import Effect
from extractkit.core.statistics.histograms import Histogram
from extractkit.engine.recording import HistogramWriter, Recording, TrainingSteps, begin
from extractkit.errors import ConfigError, JobError, RunDirectoryError
from extractkit.models.keras_models.training import TrainingCallback
from extractkit.runs import ELSEWHERE, RUN_KEY
from extractkit.runs.directory import path_of
from extractkit.runs.reader import Run, open_run

_MODEL = "extractkit.models.in_memory.trained_model"


class Callback(TrainingCallback):
    """A callback for `model.fit` of Keras 3 and tf-keras that records values while it trains.

    The run has a checkpoint for each recorded step. It can be read during training, and is finished
    when training ends. Training is not changed by a single bit: neither weights nor
    generators, metrics or any other state.

        probe = extractkit.Callback("outputs", x_test[:64], "runs/training", every="epoch")
        model.fit(x, y, epochs=10, callbacks=[probe])
        probe.run["dense:output"].at(10)

    With a run directory that holds a run of the same model, inputs and settings, training resumes
    that run. A step that is recorded with the same weights is kept. If training repeats one with
    other weights, it replaces this step and all later ones of an interrupted run, and is stopped at
    a finished one.

    Args:
        selectors: as for `extractkit.extract`.
        inputs: the samples to compute values of, as for `extractkit.extract`.
        run_dir: the run directory: empty, or with a run to resume.
        every: "epoch", or a number of steps of the optimizer. The weights with which training
            begins are recorded too, as step 0.
        runtime, sinks, trust: as for `extractkit.extract`. Seed and determinism are those of the
            training.
        tensorboard: a directory for TensorBoard, for its histograms of the statistic `histogram`
            at each step; None: none are written.
        on_error: "raise", to stop training if values cannot be recorded, or "warn", to continue it
            without a record.

    Raises:
        UserError: a mistake in the arguments, here or when training begins.
        JobError: the model fails on the samples, or the disk refuses, during training.
    """

    def __init__(
        self,
        selectors: Group,
        inputs: object,
        run_dir: str | Path,
        *,
        every: str | int = "epoch",
        runtime: Mapping[str, object] | None = None,
        sinks: Group = None,
        trust: Sequence[str] = (),
        tensorboard: str | Path | None = None,
        on_error: str = "raise",
    ) -> None:
        whole = isinstance(every, int) and not isinstance(every, bool) and every >= 1
        if every != "epoch" and not whole:
            raise ConfigError(
                f"every={every!r} is neither 'epoch' nor a whole number of steps, 1 or more"
            )
        if inputs is None:
            raise ConfigError(
                "inputs=None holds no samples. Give those to compute values of, such as x_test[:64]"
            )
        if on_error not in ("raise", "warn"):
            raise ConfigError(f"on_error={on_error!r} is neither 'raise' nor 'warn'")
        super().__init__(every)
        self.run_dir = path_of(run_dir, "run_dir").absolute()
        self.on_error = on_error
        arguments = {"model": None, "steps": TrainingSteps(), **example_among(inputs)}
        live = {
            "model": Component("model", _MODEL, arguments),
            "inputs": live_inputs(inputs),
        }
        groups = {"selectors": selectors, "runtime": _settled(runtime), "sinks": sinks}
        self._job = compose_values(groups, live, trust).job
        self._trust = tuple(trust)
        self.tensorboard = None if tensorboard is None else Path(tensorboard).absolute()
        names = {name for one in self._job.selectors for name in one.asked.names}
        if tensorboard is not None and Histogram.name not in names:
            raise ConfigError(
                f"tensorboard={str(tensorboard)!r} is for histograms, and no selector asks for "
                f"them. Add statistics: [histogram] to one"
            )
        self._histograms: HistogramWriter | None = None
        self._recording: Recording | None = None

    @property
    def run(self) -> Run:
        """The run, with the steps that are recorded so far.

        Raises:
            RunDirectoryError: training has not begun.
        """
        return open_run(self.run_dir, trust=self._trust)

    def begin(self) -> None:
        """Start the run, or open it to resume it."""
        self._close()
        steps = TrainingSteps()
        arguments = {**self._job.model.arguments, "model": self.model, "steps": steps}
        job = replace(self._job, model=replace(self._job.model, arguments=arguments))
        unit = "step" if self.each_batch else "epoch"
        with self._guarded():
            self._recording = recording = begin(job, steps, unit, self.run_dir)
            if self.tensorboard is not None:
                self._histograms = HistogramWriter(self.tensorboard)
                for one in recording.steps.checkpoints:
                    self._draw(recording, one.step or 0)

    def start(self, step: int, *, due: bool) -> None:
        """Record the weights with which training begins, or compare them with the record.

        Raises:
            RunDirectoryError: the run has other weights at this step, or begins after it.
        """
        with self._guarded() as recording:
            if recording is None:
                return
            first = next(iter(recording.steps.checkpoints), None)
            if first is not None and step < (first.step or 0):
                raise RunDirectoryError(
                    f"{RUN_KEY}={self.run_dir} holds a training recorded from {first.label!r}, and "
                    f"this one begins before that. {ELSEWHERE}"
                )
            weights, known = recording.weights(), recording.find(step)
            if known is not None and known.sha256 != weights:
                raise RunDirectoryError(
                    f"run_dir={self.run_dir} holds another training: at {known.label!r} it has "
                    f"other weights than those with which this one begins. To continue that one, "
                    f"restore its model and optimizer, as keras.callbacks.BackupAndRestore does, "
                    f"and give fit(initial_epoch=…) the epochs that are done. Or choose another "
                    f"directory"
                )
            if recording.last is None or (due and step > recording.last):
                self._add(recording, step, weights)

    def record(self, step: int) -> None:
        """Record a step, unless it is recorded with the same weights."""
        with self._guarded() as recording:
            if recording is None:
                return
            weights, known = recording.weights(), recording.find(step)
            if known is None or known.sha256 != weights:
                self._add(recording, step, weights)

    def end(self) -> None:
        """Finish the run."""
        with self._guarded() as recording:
            if recording is not None:
                recording.finish()
        self._close()

    def _add(self, recording: Recording, step: int, weights: str) -> None:
        recording.record(step, weights)
        self._draw(recording, step)

    def _draw(self, recording: Recording, step: int) -> None:
        if self._histograms is not None:
            self._histograms.write(step, recording.statistics(step))

    def _close(self) -> None:
        """Release the run and the event file."""
        if self._recording is not None:
            self._recording.close()
        if self._histograms is not None:
            self._histograms.close()
        self._recording = self._histograms = None

    @contextmanager
    def _guarded(self) -> Iterator[Recording | None]:
        """Give the recording, and close it if the block fails; None after a failure."""
        try:
            yield self._recording
        except BaseException as error:
            self._close()
            if self.on_error == "raise" or not isinstance(error, JobError):
                raise
            warnings.warn(
                f"extractkit.Callback records no more steps in {self.run_dir}: {error}",
                stacklevel=2,
            )


def _settled(runtime: Mapping[str, object] | None) -> dict[str, object]:
    """Return settings of `runtime` for a process that belongs to a training.

    Raises:
        ConfigError: one of them would change the training, or has no meaning for it.
    """
    given = dict(runtime or {})
    if given.get("deterministic"):
        raise ConfigError(
            "runtime.deterministic=true would change the training. Call "
            "tf.config.experimental.enable_op_determinism() before it instead"
        )
    for key in ("seed", *settings_that(Effect.WHERE, Effect.NONE)):
        if key != "self_check" and given.get(key) is not None:
            raise ConfigError(f"runtime.{key}={given[key]} has no effect on a run of a training")
    return {**given, "deterministic": False}
