"""Samples that fail or hold NaN: isolated from their batch, then missing or reported."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from extractkit.core.plan import PlannedTensor
from extractkit.core.value_checks import ValueChecks, non_finite_samples
from extractkit.core.values import Array, Values
from extractkit.engine.batches import Batch
from extractkit.engine.samples import WAY_OUT, check_first, first_usable, named
from extractkit.errors import BadSampleError, FinalError, InputError, SampleError
from extractkit.inputs import Signature, Source, identity
from extractkit.models import CarriesState, Model, Program

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class BatchResult:
    """The result of a batch.

    Attributes:
        rows: rows of the batch that have values.
        values: an array for each fetch, with these rows; empty if there are none.
        failed: the other rows, each with the model's error.
        batch: the batch with which these values were computed; None if no row has values.
    """

    rows: Sequence[int]
    values: Sequence[Array]
    failed: Mapping[int, str] = field(default_factory=dict)
    batch: Batch | None = None


Explain = Callable[[Batch], str | None]
"""Explains the fault of a single sample beyond the model's error; None: nothing to add.
"""


def nothing_to_add(batch: Batch) -> None:
    """Explain nothing."""


def run(program: Program, batch: Batch, signature: Signature) -> BatchResult:
    """Run a batch. If the model fails, run it again with no more padding than needed.

    Padding may reach a length that the model does not accept: a rounded one, or that of a sample
    which is no longer in the batch.

    Raises:
        SampleError: the model fails both times.
    """
    try:
        return BatchResult(range(len(batch)), program(*batch.arguments), batch=batch)
    except SampleError:
        less = batch.trimmed(signature)
        if less is batch:
            raise
    return BatchResult(range(len(less)), program(*less.arguments), batch=less)


def run_isolated(
    program: Program,
    batch: Batch,
    signature: Signature,
    explain: Explain = nothing_to_add,
    refused: Mapping[int, str] | None = None,
) -> BatchResult:
    """Run a batch. If the model fails, exclude the samples on which it fails alone.

    The result depends on the batch alone. The other samples are run together again, not one by one,
    because values may depend on the size of a batch.

    Args:
        refused: rows on which the model is known to fail alone, each with its error.

    Raises:
        SampleError: the model fails on samples together, but on none of them alone.
        JobError: it fails in a way that values cannot cause, and would fail on any sample.
    """
    if refused:
        failed = {
            row: explained(failure, explain(batch.take([row]))) for row, failure in refused.items()
        }
        rows = [row for row in range(len(batch)) if row not in failed]
        if not rows:
            return BatchResult((), (), failed)
        rest = run_isolated(program, batch.take(rows), signature, explain)
        failed |= {rows[at]: reason for at, reason in rest.failed.items()}
        return BatchResult([rows[at] for at in rest.rows], rest.values, failed, rest.batch)
    try:
        return run(program, batch, signature)
    except SampleError as error:
        failed = dict(failing_alone(program, batch, signature, error, explain))
        if not failed:
            raise
    rows = [row for row in range(len(batch)) if row not in failed]
    if not rows:
        return BatchResult((), (), failed)
    rest = run(program, batch.take(rows), signature)
    return BatchResult(rows, rest.values, failed, rest.batch)


def failing_alone(
    program: Program,
    batch: Batch,
    signature: Signature,
    error: SampleError,
    explain: Explain = nothing_to_add,
) -> Iterator[tuple[int, str]]:
    """Return the rows of a batch on which a model fails alone, each with its error.

    Args:
        error: its error on all of them together.
    """
    if len(batch) == 1:
        yield 0, explained(str(error), explain(batch))
        return
    for row in range(len(batch)):
        alone = batch.take([row])
        try:
            run(program, alone, signature)
        except SampleError as own:
            yield row, explained(str(own), explain(alone))


def explained(failure: str, fault: str | None) -> str:
    """Return a model's error, preceded by the fault of the sample's sizes."""
    return failure if fault is None else f"{fault}: {failure}"


def first_explained(failure: str, fault: str | None) -> str:
    """Like `explained`, for the first sample tried, which the message does not name."""
    return explained(failure, fault and f"the first sample that was tried does not fit: {fault}")


def try_out(
    model: Model,
    source: Source,
    policy: str,
    attempt: Callable[[Source], Result],
    tensors: Sequence[PlannedTensor] = (),
) -> Result:
    """Return the result of an attempt on the first samples.

    With the policy "skip" these are the first usable ones. If the model fails on them, the attempt
    is repeated without the first of them.

    Args:
        policy, tensors: as `survey` takes them.

    Raises:
        InputError: no sample can be used.
        BadSampleError: the model fails on the first samples, and the policy is "fail".
        SampleError: the model fails on all samples that were tried, and none may be missing.
        JobError: it fails in a way that values cannot cause.
    """
    if policy != "skip":
        return _tried_once(model, source, attempt)
    samples = first_usable(model, source, tensors)
    while True:
        try:
            return attempt(samples)
        except SampleError:
            if len(samples) == 1:
                raise
        samples = samples.behind_first()


def _tried_once(model: Model, source: Source, attempt: Callable[[Source], Result]) -> Result:
    try:
        return attempt(source)
    except InputError:
        check_first(model, source)
        raise
    except SampleError as error:
        first = named(identity(source, 0).id, 0)
        failure = str(error).removesuffix(".")
        message = f"{failure}. It was tried on the first samples, from {first} on"
        if isinstance(model, CarriesState):
            # No sample can be missing: each starts from the state after the previous ones.
            raise SampleError(message) from error
        raise BadSampleError(f"{message}. {WAY_OUT}") from error


def refuse_non_finite(
    stats: Mapping[str, ValueChecks], name: Callable[[int], str], *, skippable: bool = True
) -> None:
    """Fail the job if any value is NaN or infinite.

    Args:
        stats: the findings in each tensor, by key.
        name: formats the sample of an index for messages.
        skippable: whether the job can skip samples.

    Raises:
        FinalError: a tensor has such values; the message names it and the first sample with such
            values.
    """
    for key, found in stats.items():
        if found.finite:
            continue
        counts, where, skip = (found.nan, found.inf), "", ""
        if found.first:
            index, counts = next(iter(found.first.items()))
            where = f" for sample {name(int(index))}"
            # Skipping samples does not help for tensors that do not depend on them, such as
            # weights.
            if skippable:
                skip = ". To skip samples that have some: runtime.non_finite=skip"
        if found.samples > 1:
            have = "has" if found.samples == 2 else "have"
            where += f", and {found.samples - 1} more of its shard {have} some"
        raise FinalError(
            f"{key!r} holds {_counted(*counts)}{where}. To store them: "
            f"runtime.non_finite=warn{skip}. "
            f"That takes a new run, as this one keeps its settings"
        )


def non_finite_reasons(values: Mapping[str, Values]) -> dict[int, str]:
    """Return by position where the samples have NaN or infinite values, and how many."""
    reasons: dict[int, str] = {}
    more: dict[int, int] = {}
    for key, value in values.items():
        for position, counts in non_finite_samples(value).items():
            if position in reasons:
                more[position] = more.get(position, 0) + 1
            else:
                reasons[position] = f"{key!r} holds {_counted(*counts)}"
    for position, count in more.items():
        reasons[position] += f" (and {count} more tensor{'s' if count > 1 else ''})"
    return dict(sorted(reasons.items()))


def _counted(nan: int, inf: int) -> str:
    counts = [f"{nan} NaN" if nan else "", f"{inf} infinite" if inf else ""]
    return f"{' and '.join(filter(None, counts))} value{'s' if nan + inf > 1 else ''}"
