"""One job from start to end: begin the run, load, plan, stream, commit, finish."""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from extractkit.engine.batches import read_batch
from extractkit.engine.batching import BatchRules
from extractkit.engine.listener import Listener, Summary
from extractkit.engine.opening import Opened, open_job
from extractkit.engine.stream import Stream, assembly, fetch, put
from extractkit.engine.survey import Row, survey
from extractkit.errors import ExtractkitError, UserError
from extractkit.job import Job
from extractkit.models.protocol import Program
from extractkit.plan import (
    CONSTANTS_SHARD,
    Lengths,
    PlannedTensor,
    Shard,
    bytes_per_sample,
    plan_shards,
)
from extractkit.runs import manifest as manifests
from extractkit.runs.beginning import begin, take_back
from extractkit.runs.disk import check_space, human_bytes
from extractkit.runs.environment import git_state, host, package_versions
from extractkit.runs.log import run_log
from extractkit.runs.manifest import (
    Manifest,
    RunInputs,
    RunPlan,
    RunTensor,
    Skipped,
    Status,
    Volatile,
)
from extractkit.runs.recorder import Recorder
from extractkit.sinks.protocol import Sink, StoredTensor
from extractkit.values import Dense, Values, non_finite

_log = logging.getLogger(__name__)


def execute(
    job: Job, directory: Path, *, hydra_files: Mapping[str, str], listener: Listener
) -> None:
    """Run a job; the run directory is complete when this returns.

    Args:
        directory: the run directory, which must not hold anything yet.
        hydra_files: what Hydra composed, by file name, for `.hydra/`.
        listener: is told how it goes.

    Raises:
        UserError: a mistake in the job; the directory is left as it was found.
        JobError: the job failed; shards that were committed stay readable.
    """
    started = Manifest(
        volatile=Volatile(started=manifests.now(), host=host()),
        job_given=job.given,
        job_resolved=job.resolved,
        seeds={"runtime": job.runtime.seed},
        versions=package_versions(),
        git=git_state(),
    )
    made = begin(directory, started, hydra_files)
    try:
        with run_log(directory):
            _Execution(job, directory, started, listener).run()
    except UserError:
        take_back(directory, made)
        raise


@dataclass
class _Execution:
    job: Job
    directory: Path
    manifest: Manifest
    listener: Listener
    timings: dict[str, float] = field(default_factory=dict)
    trial: "_Trial" = field(default_factory=lambda: _Trial(Lengths(1, {}), 0))
    truncated: int = 0
    non_finite: set[str] = field(default_factory=set)

    def run(self) -> None:
        _log.info("job: %s", " ".join(self.job.given) or "(no overrides)")
        recorder: Recorder | None = None
        try:
            # Sinks come first: they are quick to build, and tell what they do not like.
            sinks = {name: cast(Sink, sink.build()) for name, sink in self.job.sinks.items()}
            recorder = Recorder.start(self.directory, self.manifest, sinks)
            began = time.perf_counter()
            opened = open_job(self.job).measured()
            tensors = opened.tensors
            self.timings["load"] = time.perf_counter() - began
            program = self._compiled(opened, tensors)
            self.manifest = self._described(opened, tensors)
            self._extract(opened, tensors, program, recorder)
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            # What nobody foresaw is told with its traceback.
            foreseen = interrupted or isinstance(error, ExtractkitError)
            _log.error("%s", "interrupted" if interrupted else error, exc_info=not foreseen)
            if recorder is not None:
                recorder.fail(Status.INTERRUPTED if interrupted else Status.FAILED, self.timings)
            raise

    def _compiled(self, opened: Opened, tensors: Sequence[PlannedTensor]) -> Program | None:
        """The program of all tensors that depend on the samples, tried on the first sample.

        The trial compiles it, and a model that cannot run says so before anything is stored.
        """
        varying = [tensor for tensor in tensors if not tensor.constant]
        if not varying:
            return None
        began = time.perf_counter()
        program = opened.model.program([fetch(t) for t in varying], opened.compilation)
        first = read_batch(opened.model, opened.source, [0])
        lengths = Lengths(1, {axis: size.astype(np.int64) for axis, size in first.lengths.items()})
        for tensor in varying:
            tensor.check_lengths(lengths)
        values = program(first.features, first.lengths)
        self.trial = _Trial(
            lengths,
            sum(v.nbytes for t, v in zip(varying, values, strict=True) if not t.predictable),
        )
        put(varying, [assembly(tensor, lengths) for tensor in varying], [0], values)
        self.timings["compile"] = time.perf_counter() - began
        return program

    def _extract(
        self,
        opened: Opened,
        tensors: Sequence[PlannedTensor],
        program: Program | None,
        recorder: Recorder,
    ) -> None:
        began = time.perf_counter()

        def record(rows: Sequence[Row]) -> None:
            self.truncated += sum(bool(row.get("truncated")) for row in rows)
            recorder.add_samples(rows)

        lengths = survey(opened.model, opened.source, record)
        self.timings["survey"] = time.perf_counter() - began
        shards = self._plan(tensors, lengths, recorder)
        self._notes(opened, lengths)
        began = time.perf_counter()
        self._commit_constants(opened, tensors, recorder)
        if program is not None:
            self._commit_samples(opened, tensors, program, lengths, shards, recorder)
        seconds = time.perf_counter() - began
        self.timings["extract"] = seconds
        recorder.finish({"truncated": self.truncated}, self.timings)
        summary = Summary(
            directory=self.directory,
            tensors=len(tensors),
            samples=lengths.samples,
            truncated=self.truncated,
            shards=len(shards),
            bytes=recorder.bytes,
            seconds=seconds,
            non_finite=tuple(t.key for t in tensors if t.key in self.non_finite),
        )
        _log.info("finished: %s", summary)
        self.listener.finished(summary)

    def _plan(
        self, tensors: Sequence[PlannedTensor], lengths: Lengths, recorder: Recorder
    ) -> tuple[Shard, ...]:
        for tensor in tensors:
            tensor.check_lengths(lengths)
        per_sample = bytes_per_sample(tensors, lengths) + self.trial.scaled(lengths)
        constants = sum(tensor.constant_bytes or 0 for tensor in tensors if tensor.constant)
        total = int(per_sample.sum()) + constants
        check_space(self.directory, total * len(self.job.sinks))
        shards = plan_shards(per_sample, self.job.runtime.shard_size)
        exact = all(tensor.predictable for tensor in tensors)
        plan = RunPlan(total, exact, tuple((shard.start, shard.stop) for shard in shards))
        recorder.revise(replace(self.manifest, plan=plan))
        self.listener.planned(tensors, lengths.samples, total)
        _log.info(
            "plan: %d tensors, %d samples, %d shards, %s",
            *(len(tensors), lengths.samples, len(shards), human_bytes(total)),
        )
        return shards

    def _notes(self, opened: Opened, lengths: Lengths) -> None:
        for note in opened.source.notes:
            self._note(note)
        if self.truncated:
            self._note(
                f"{self.truncated} of {lengths.samples} samples were cut off to fit the model "
                f"(marked in samples.jsonl)"
            )
        if opened.skipped:
            self._note(
                f"{len(opened.skipped)} matched tensors cannot be extracted and are left out, "
                f"first {opened.skipped[0].address}: {opened.skipped[0].reason}"
            )

    def _note(self, message: str) -> None:
        _log.info("%s", message)
        self.listener.note(message)

    def _commit_constants(
        self, opened: Opened, tensors: Sequence[PlannedTensor], recorder: Recorder
    ) -> None:
        constants = [tensor for tensor in tensors if tensor.constant]
        if not constants:
            return
        found = opened.model.constants([fetch(tensor) for tensor in constants])
        values: dict[str, Values] = {
            tensor.key: Dense(value) for tensor, value in zip(constants, found, strict=True)
        }
        self._commit(CONSTANTS_SHARD, values, recorder, {})

    def _commit_samples(
        self,
        opened: Opened,
        tensors: Sequence[PlannedTensor],
        program: Program,
        lengths: Lengths,
        shards: Sequence[Shard],
        recorder: Recorder,
    ) -> None:
        varying = [tensor for tensor in tensors if not tensor.constant]
        runtime = self.job.runtime
        padded = opened.model.masks_padding and all(tensor.bears_padding for tensor in varying)
        batch_size = min(runtime.batch_size, opened.model.signature.batch or runtime.batch_size)
        rules = BatchRules(batch_size, runtime.batch_tokens, padded)
        stream = Stream(
            opened.model,
            opened.source,
            program,
            varying,
            lengths,
            rules,
            on_batch=lambda samples: self.listener.advanced(samples, 0),
        )
        with closing(stream.shards(shards)) as computed:
            for one in computed:
                self._commit(one.shard, one.values, recorder, {"compute": one.compute_seconds})
                del one  # before the next is taken, and the one after that begun

    def _commit(
        self,
        shard: Shard,
        values: Mapping[str, Values],
        recorder: Recorder,
        timings: dict[str, float],
    ) -> None:
        counts = {key: non_finite(value) for key, value in values.items()}
        stats = {key: {"non_finite": count} for key, count in counts.items() if count}
        self.non_finite.update(stats)
        began = time.perf_counter()
        before = recorder.bytes
        recorder.commit(shard, values, timings, stats)
        _log.info("committed %s in %.3f s", shard.key, time.perf_counter() - began)
        self.listener.advanced(0, recorder.bytes - before)

    def _described(self, opened: Opened, tensors: Sequence[PlannedTensor]) -> Manifest:
        """The manifest with everything that is known once the job has been opened."""
        catalog = opened.model.catalog
        runtime = self.job.runtime
        settings = {
            **opened.settings,
            "compile": runtime.compile,
            "device": runtime.device,
            "deterministic": runtime.deterministic,
            "batch_size": runtime.batch_size,
            "batch_tokens": runtime.batch_tokens,
        }
        source = opened.source
        return replace(
            self.manifest,
            model={**opened.model.describe(), "weights": opened.model.weights_digest()},
            inputs=RunInputs(source.fingerprint, len(source), source.notes)
            if len(source)
            else None,
            tensors=tuple(
                RunTensor(_stored(tensor), catalog[tensor.address], tensor.selectors)
                for tensor in tensors
            ),
            skipped=tuple(Skipped(r.address, r.reason or "") for r in opened.skipped),
            settings=settings,
        )


@dataclass(frozen=True, eq=False)
class _Trial:
    """What the first sample took of tensors whose lengths the model computes: it stands for all."""

    lengths: Lengths
    bytes: int

    def scaled(self, lengths: Lengths) -> npt.NDArray[np.int64]:
        """Bytes of each sample, in proportion to its own lengths: int64 (samples,)."""
        ratio = np.ones(lengths.samples)
        for axis, own in lengths.axes.items():
            ratio *= own / max(1, int(self.lengths.axes[axis][0])) if self.bytes else 1
        return np.ceil(ratio * self.bytes).astype(np.int64)


def _stored(tensor: PlannedTensor) -> StoredTensor:
    return StoredTensor(
        key=tensor.key,
        dtype=tensor.dtype,
        dims=tensor.dims or (),
        shape=tensor.sample_shape,
        constant=tensor.constant,
    )
