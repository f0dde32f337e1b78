"""The plan of a job, made without running it: `extractkit plan`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from extractkit.core.catalog import TensorRecord
from extractkit.core.checkpoints import Checkpoint, ExcludedCheckpoint
from extractkit.core.job import AUTO, GRAPH, OPENVINO, Job
from extractkit.core.notebook import Shown
from extractkit.core.plan import PlannedTensor, SampleLengths, groups_of, held_per_sample
from extractkit.core.shards import Shard
from extractkit.core.values import varies
from extractkit.engine.compilers import check_installed, compiled
from extractkit.engine.loading import Opened, open_job
from extractkit.engine.prepare import sharing_of
from extractkit.engine.samples import check_slices, longest, survey, too_short
from extractkit.engine.sharing import Shared
from extractkit.engine.stream import fetches
from extractkit.errors import counted
from extractkit.runs.directory import check_space, free_bytes, human_bytes
from extractkit.runs.schema import plain

EXACT, UPPER_BOUND, AT_LEAST = "exact", "upper bound", "at least"


@dataclass(frozen=True)
class Preview(Shown):
    """The plan of a job.

    Attributes:
        model: name of the model.
        tensors: the tensors to store.
        measured: keys of tensors whose axes were measured by running the model on the first sample.
        matches: number of tensors that each selector stores.
        unextractable: tensors that selectors match but that cannot be extracted.
        samples: number of samples.
        checkpoints: the sets of weights that the job uses.
        excluded: checkpoints that cannot be used.
        bytes: predicted size of the values. `bound` is "exact", "upper bound" (texts may be shorter
            than the longest allowed) or "at least" (some lengths are computed by the model).
        sizes: predicted bytes of each tensor by key, over all checkpoints; None if only the model
            can compute them. Statistics of several tensors have bytes of their own.
        shards: ranges of samples, each of which is stored for every checkpoint.
        directory: the run directory; free_bytes: free bytes on its disk.
        shared: which samples may share a batch, and why not more; None if nothing depends on
            samples.
        compile: the compiler; declined: why `auto` did not take another one.
    """

    model: str
    tensors: tuple[PlannedTensor, ...]
    measured: tuple[str, ...]
    matches: Mapping[str, int]
    unextractable: tuple[TensorRecord, ...]
    samples: int
    checkpoints: tuple[Checkpoint, ...]
    excluded: tuple[ExcludedCheckpoint, ...]
    bytes: int
    bound: str
    sizes: Mapping[str, int | None]
    shards: tuple[Shard, ...]
    directory: Path
    free_bytes: int
    shared: Shared | None = None
    compile: str = GRAPH
    declined: str | None = None

    def __repr__(self) -> str:
        size = f"{counted(self.samples, 'sample')}, {counted(len(self.tensors), 'tensor')}"
        return f"<Preview of {self.model!r}: {size}, {self.bound} {human_bytes(self.bytes)}>"

    def to_json(self) -> dict[str, object]:
        """Return the plan as `extractkit plan --json` prints it."""
        return {
            "model": self.model,
            "samples": self.samples,
            "checkpoints": [
                {"label": one.label, "step": one.step, "path": one.path} for one in self.checkpoints
            ],
            "excluded": [
                {"label": one.label, "path": one.path, "reason": one.reason}
                for one in self.excluded
            ],
            "bytes": self.bytes,
            "bound": self.bound,
            "directory": str(self.directory),
            "free_bytes": self.free_bytes,
            "matches": dict(self.matches),
            "tensors": [
                {
                    "key": tensor.key,
                    "address": tensor.address,
                    "kind": str(tensor.record.kind),
                    "selectors": list(tensor.selectors),
                    **tensor.spec.to_json(),
                    "bytes": self.sizes[tensor.key],
                    "measured": tensor.key in self.measured,
                    "statistics": list(tensor.statistics.names),
                    "request": plain(tensor.request.written),
                }
                for tensor in self.tensors
            ],
            "together": [
                {
                    "selector": one.group.selector,
                    "statistic": one.group.statistic.name,
                    "tensors": list(one.group.tensors),
                    "bytes": self.sizes[one.group.key],
                }
                for one in groups_of(self.tensors)
            ],
            "unextractable": [
                {"address": record.address, "reason": record.reason}
                for record in self.unextractable
            ],
            "sharing": self.shared and str(self.shared.sharing),
            "sharing_reason": self.shared and self.shared.reason,
            "sharing_measured": self.shared and plain(self.shared.measured),
            "compile": self.compile,
            "compile_declined": self.declined,
            "shards": [{"start": shard.start, "stop": shard.stop} for shard in self.shards],
        }


def preview(job: Job, directory: Path, *, exact: bool = False) -> Preview:
    """Return the plan of a job. Nothing is written.

    Args:
        directory: the run directory.
        exact: read (and tokenise) every sample, so that the sizes of texts are exact as well.

    Raises:
        UserError: the job cannot be planned.
        DiskSpaceError: the predicted bytes do not fit on the disk of `directory`.
    """
    check_installed(job.runtime)
    unmeasured = open_job(job, (lambda rows: None) if exact else None)
    measured = {tensor.key for tensor in unmeasured.tensors if tensor.layout is None}
    opened = unmeasured.measured()
    opened.check_space(directory, len(job.sinks))
    varying = bool(opened.varying)
    shared = sharing_of(opened) if varying else None
    declined = None
    if shared is not None and job.runtime.compile != GRAPH:
        # For XLA, this finds what it cannot compile.
        program = opened.model.program(fetches(opened.varying), opened.compilation)
    if shared is not None and job.runtime.compile in (AUTO, OPENVINO):
        chosen = compiled(opened, job.runtime, program, shared.sharing)
        opened, declined = chosen.opened, chosen.declined
    bounds = None if exact else longest(opened.model, opened.source)
    result = _planned(job, opened, measured, directory, bounds, shared)
    needed = opened.disk_bytes(result.sizes, len(job.sinks))
    if bounds is not None and needed > result.free_bytes:
        # A bound is not enough to refuse, so read the samples.
        result = _planned(job, opened, measured, directory, None, shared)
    check_space(directory, opened.disk_bytes(result.sizes, len(job.sinks)))
    return replace(result, compile=opened.compilation.compile, declined=declined)


def _planned(
    job: Job,
    opened: Opened,
    measured: set[str],
    directory: Path,
    bounds: SampleLengths | None,
    shared: Shared | None,
) -> Preview:
    lengths = bounds or _lengths(opened)
    held = held_per_sample(opened.tensors, lengths)
    shards = opened.shards(lengths, held, job.runtime.shard_size)
    sizes = opened.stored_bytes(lengths, len(shards))
    ragged = any(varies(tensor.spec.sample_shape) for tensor in opened.varying)
    bound = UPPER_BOUND if bounds is not None and ragged else EXACT
    return Preview(
        model=opened.model.name,
        tensors=opened.tensors,
        measured=tuple(t.key for t in opened.tensors if t.key in measured),
        matches=opened.matches,
        unextractable=opened.unextractable,
        samples=lengths.samples,
        checkpoints=tuple(opened.axis.checkpoints) if opened.axis is not None else (),
        excluded=tuple(opened.axis.excluded) if opened.axis is not None else (),
        bytes=sum(size or 0 for size in sizes.values()),
        bound=AT_LEAST if None in sizes.values() else bound,
        sizes=sizes,
        shared=shared,
        shards=shards,
        directory=directory,
        free_bytes=free_bytes(directory),
    )


def _lengths(opened: Opened) -> SampleLengths:
    """Return the lengths of every sample, by reading them all."""
    varying = opened.varying
    if opened.surveyor is not None:
        found = opened.surveyor.result()
        if not too_short(found, varying):
            check_slices(found, varying, opened.bad_samples)
            return found.lengths
    found = survey(opened.model, opened.source, lambda rows: None, opened.bad_samples, varying)
    return found.lengths
