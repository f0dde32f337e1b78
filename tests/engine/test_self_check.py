"""Jobs that hold the model's outputs against the model's own call, before anything is stored."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from extractkit import cli
from extractkit.core.catalog import Kind, TensorRecord
from extractkit.core.job import Job, Runtime
from extractkit.core.spec import TensorSpec
from extractkit.core.values import Array
from extractkit.engine import Silent
from extractkit.engine.batches import Batch
from extractkit.engine.execute import execute, resume
from extractkit.engine.self_check import outputs_apart
from extractkit.errors import ConfigError, JobError, ModelError, SampleError
from extractkit.models import SAME_OBJECT, Compilation, Fetch, NoOwnCallError, OwnCall, Program
from extractkit.models.weight_files import WeightFile
from extractkit.runs import JOURNAL, manifest
from extractkit.runs.environment import SelfCheck, Volatile, joined_checks
from extractkit.runs.manifest import Status
from extractkit.runs.parts import join
from extractkit.testing.reference import ReferenceModel
from tests.engine.checkpoint_examples import files, over
from tests.engine.examples import Collected, executed, job

HIDDEN: Mapping[str, object] = {"path": "attention:output"}


class Off(ReferenceModel):
    """Its programs are off by a hundredth."""

    off = 1e-2

    def program(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
        right = super().program(fetches, compilation)

        def run(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> list[Array]:
            values = list(right(features, lengths))
            for at, fetch in enumerate(fetches):
                if fetch.address == ":output":
                    values[at] = values[at] + np.float32(self.off)
            return values

        return run


def failed(directory: Path, wanted: Job) -> str:
    """Run a job that has to find itself wrong; what it says."""
    with pytest.raises(JobError) as error:
        execute(wanted, directory, hydra_files={}, listener=Silent())
    assert not (directory / JOURNAL).exists()
    assert not list((directory / "shards").iterdir())
    assert manifest.read(directory).status is Status.FAILED
    return str(error.value)


def volatile(directory: Path) -> Volatile:
    return manifest.read(directory).volatile


def test_a_job_records_what_it_compared(tmp_path: Path) -> None:
    run = executed(tmp_path / "run", job(HIDDEN, batch_size=4))
    assert run.manifest.volatile.self_check == (
        SelfCheck(
            checkpoint=None,
            loaded_by=SAME_OBJECT,
            outputs=(":output",),
            samples=4,
            largest_difference=0.0,
            relative_difference=0.0,
            tolerance="1e-05 + 0.0001 of a tensor's largest value",
        ),
    )
    assert run.manifest.volatile.timings["self_check"] > 0


def test_a_program_that_is_off_ends_the_job_though_its_output_is_not_selected(
    tmp_path: Path,
) -> None:
    assert failed(tmp_path / "run", job(HIDDEN, model=Off(), batch_size=4)) == (
        "runtime.self_check: ':output' is not the model's own output: 16 elements apart, by 0.01 "
        "at most. It was compared for 4 samples with the same object (its weights "
        "are not checked), to 1e-05 + 0.0001 of a tensor's largest value. "
        "Nothing is stored. Either extractkit computes this model wrongly, which is "
        "worth a report, or the model is not the same each time that it is loaded and called. To "
        "extract all the same: runtime.self_check=false"
    )
    assert volatile(tmp_path / "run").self_check == ()


class Counted(ReferenceModel):
    """Counts the programs that are compiled."""

    programs = 0

    def program(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
        type(self).programs += 1
        return super().program(fetches, compilation)


@pytest.mark.parametrize(
    ("selector", "more"),
    [
        ({"path": ":output"}, 0),
        (HIDDEN, 1),
        ({"path": ":output", "cast": "float16"}, 1),
    ],
    ids=["selected", "not selected", "transformed"],
)
def test_outputs_that_the_job_stores_as_they_are_take_no_second_program(
    selector: Mapping[str, object], more: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(name: str, self_check: bool) -> int:
        monkeypatch.setattr(Counted, "programs", 0)
        executed(tmp_path / name, job(selector, model=Counted(), self_check=self_check))
        return Counted.programs

    assert compiled("checked", True) - compiled("unchecked", False) == more


@pytest.mark.parametrize("selector", [{"path": "*output"}, {"path": ":output"}])
def test_stored_outputs_that_are_off_end_the_job(
    selector: Mapping[str, object], tmp_path: Path
) -> None:
    found = failed(tmp_path / "run", job(selector, model=Off(), batch_size=4))
    assert "':output' is not the model's own output: 16 elements apart, by 0.01" in found


def test_the_advice_of_that_message_works(tmp_path: Path) -> None:
    run = executed(tmp_path / "run", job(HIDDEN, model=Off(), self_check=False))
    assert run.status is Status.FINISHED
    assert run.manifest.volatile.self_check == ()
    assert "self_check" not in run.manifest.volatile.timings


def test_it_is_a_failure_of_the_job_and_no_mistake_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(JobError) as error:
        executed(tmp_path / "run", job(HIDDEN, model=Off()))
    assert cli.report(error.value) == cli.FAILED
    assert "':output' is not the model's own output" in capsys.readouterr().err


def test_last_bits_may_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Off, "off", 2e-6)
    run = executed(tmp_path / "run", job(HIDDEN, model=Off()))
    (check,) = run.manifest.volatile.self_check
    assert 1e-6 < check.largest_difference < 3e-6
    assert check.largest_difference <= check.relative_difference < 1e-4


class Moody(ReferenceModel):
    """Gives something else each time that it is called."""

    calls = 0

    def forward(self, tokens: Array) -> dict[str, Array]:
        vars(self)["calls"] = self.calls + 1
        found = super().forward(tokens)
        return {**found, ":output": found[":output"] * np.float32(1 + self.calls)}


def test_a_model_that_is_never_the_same_ends_the_job(tmp_path: Path) -> None:
    assert "the model is not the same each time" in failed(
        tmp_path / "run", job(HIDDEN, model=Moody())
    )


class Undefined(ReferenceModel):
    """Its output is NaN throughout."""

    def forward(self, tokens: Array) -> dict[str, Array]:
        found = super().forward(tokens)
        return {**found, ":output": np.full_like(found[":output"], np.nan)}


def test_nan_is_equal_to_nan(tmp_path: Path) -> None:
    (check,) = executed(
        tmp_path / "run", job(HIDDEN, model=Undefined())
    ).manifest.volatile.self_check
    assert check.outputs == (":output",)
    assert check.largest_difference == 0


def test_every_stage_of_a_job_has_a_name_of_its_own(tmp_path: Path) -> None:
    listener = Collected()
    executed(tmp_path / "run", job(HIDDEN), listener)
    assert listener.stages == [
        "loading the model",
        "reading the samples",
        "measuring how tensors follow the samples' sizes",
        "compiling, and running the first sample",
        "measuring whether samples may share a batch",
        "checking the outputs against the model's own call",
        "finishing the run: checks and index",
    ]


# ---- sets of weights


class Stale(ReferenceModel):
    """Keeps the kernel that it had: only the embeddings of the second checkpoint are loaded."""

    def become(self, file: WeightFile) -> None:
        before = self.weights["attention:kernel"]
        super().become(file)
        if self.checkpoints is not None and "step_1" in file.path:
            vars(self)["weights"] = {**self.weights, "attention:kernel": before}


def test_the_first_second_and_last_checkpoint_are_compared(tmp_path: Path) -> None:
    paths = files(tmp_path, range(5))
    found = executed(tmp_path / "run", over(paths)).manifest.volatile.self_check
    assert [one.checkpoint for one in found] == ["step_0", "step_1", "step_4"]
    assert {one.loaded_by for one in found} == {"a ReferenceModel made anew"}


def test_a_second_checkpoint_that_is_loaded_in_part_ends_the_job(tmp_path: Path) -> None:
    message = failed(tmp_path / "run", over(files(tmp_path), model=Stale))
    assert message.startswith(
        "runtime.self_check: ':output' is not the model's own output at checkpoint step_1: "
    )


def test_what_is_stored_does_not_depend_on_the_check(tmp_path: Path) -> None:
    paths = files(tmp_path)
    kept, left = (executed(tmp_path / str(on), over(paths, self_check=on)) for on in (True, False))
    assert [e.values for e in kept.journal.entries] == [e.values for e in left.journal.entries]
    assert kept.manifest.identity == left.manifest.identity


# ---- where there is nothing to compare


def reason(directory: Path, wanted: Job, listener: Collected | None = None) -> str | None:
    (check,) = executed(directory, wanted, listener).manifest.volatile.self_check
    return check.not_applicable


def test_constants_alone_need_no_samples(tmp_path: Path) -> None:
    weights = job({"kind": "weight"}, model=Off())
    assert reason(tmp_path / "run", weights) == "no extracted tensor depends on the samples"


class Plain(ReferenceModel):
    own_call = None  # type: ignore[assignment]


def test_an_adapter_need_not_have_the_ability(tmp_path: Path) -> None:
    reported = reason(tmp_path / "run", job(HIDDEN, model=Plain()))
    assert reported == "model 'reference' has no call of its own"


class Lost(ReferenceModel):
    """Its file is gone when it is to be loaded again."""

    def own_call(self, checkpoint: int | None = None) -> OwnCall:
        raise ModelError("it is gone")


def test_a_model_that_cannot_be_loaded_a_second_time_ends_the_job(tmp_path: Path) -> None:
    assert failed(tmp_path / "run", job(HIDDEN, model=Lost())) == (
        "runtime.self_check: the model's outputs cannot be compared with its own: it cannot be "
        "loaded a second time: it is gone. Nothing is stored. What loads the model (a factory, a "
        "layer's constructor) must work more than once in a process: let it leave no global state "
        "behind, and its files in place. To extract all the same: runtime.self_check=false"
    )
    run = executed(tmp_path / "unchecked", job(HIDDEN, model=Lost(), self_check=False))
    assert run.status is Status.FINISHED


def short_of_memory() -> Exception:
    """An adapter's error that shortage of memory has caused."""
    error = JobError("it cannot be read")
    error.__cause__ = MemoryError()
    return error


class TooLarge(ReferenceModel):
    """The memory is too small for it twice."""

    error: Exception

    def own_call(self, checkpoint: int | None = None) -> OwnCall:
        raise self.error


@pytest.mark.parametrize("error", [MemoryError(), short_of_memory()])
def test_a_model_that_is_too_large_for_a_second_copy_is_extracted_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(TooLarge, "error", error, raising=False)
    listener = Collected()
    expected = "the memory is too small for the model twice"
    assert reason(tmp_path / "run", job(HIDDEN, model=TooLarge()), listener) == expected
    assert f"the job could not check itself: {expected}" in listener.notes


class Uncallable(ReferenceModel):
    """Its format can be run by extractkit alone."""

    def own_call(self, checkpoint: int | None = None) -> OwnCall:
        raise NoOwnCallError("operations that its library cannot run")


def test_a_format_without_means_to_call_the_model_is_reported(tmp_path: Path) -> None:
    listener = Collected()
    expected = "operations that its library cannot run"
    assert reason(tmp_path / "run", job(HIDDEN, model=Uncallable()), listener) == expected
    assert f"the job could not check itself: {expected}" in listener.notes


class Raising(ReferenceModel):
    """Its own call raises on a batch of several samples, which its programs compute."""

    error: Exception = SampleError("it takes one sample")

    def own_call(self, checkpoint: int | None = None) -> OwnCall:
        def outputs(
            features: Mapping[str, Array], lengths: Mapping[str, Array]
        ) -> dict[str, Array]:
            raise self.error

        return OwnCall("a loader", outputs)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SampleError("it takes one sample"), "it takes one sample"),
        (JobError("the device is lost"), "the device is lost"),
        (KeyError("mask"), "KeyError: 'mask'"),
    ],
)
def test_an_own_call_that_raises_on_what_is_computed_ends_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    monkeypatch.setattr(Raising, "error", error)
    message = failed(tmp_path / "run", job(HIDDEN, model=Raising(), batch_size=4))
    assert message == (
        "runtime.self_check: the model's outputs cannot be compared with its own: its own call (a "
        f"loader) fails on 4 samples that extractkit computes: {said}. Nothing is stored. Either "
        "extractkit computes this model wrongly, which is worth a report, or the model is not the "
        "same each time that it is loaded and called. To extract all the same: "
        "runtime.self_check=false"
    )


def test_an_own_call_that_the_settings_forbid_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Raising, "error", NoOwnCallError("no draws in a deterministic run"))
    assert (
        reason(tmp_path / "run", job(HIDDEN, model=Raising())) == "no draws in a deterministic run"
    )


@pytest.mark.parametrize("error", [MemoryError(), short_of_memory()])
def test_an_own_call_that_needs_more_memory_than_there_is_does_not_end_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(Raising, "error", error)
    listener = Collected()
    expected = "the memory is too small for the model's own call"
    assert reason(tmp_path / "run", job(HIDDEN, model=Raising()), listener) == expected
    assert f"the job could not check itself: {expected}" in listener.notes


class Headless(ReferenceModel):
    """Its output fails on every batch; what is before it does not."""

    def program(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
        if ":output" in {fetch.address for fetch in fetches}:

            def run(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> list[Array]:
                raise SampleError("the head takes other sizes")

            return run
        return super().program(fetches, compilation)


class LargeHead(ReferenceModel):
    """The memory is too small for its output beside what is before it."""

    def program(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
        if ":output" in {fetch.address for fetch in fetches}:

            def run(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> list[Array]:
                raise MemoryError

            return run
        return super().program(fetches, compilation)


def test_outputs_for_which_memory_is_short_do_not_fail_a_job_that_leaves_them_out(
    tmp_path: Path,
) -> None:
    expected = "the outputs cannot be computed: MemoryError"
    assert reason(tmp_path / "run", job(HIDDEN, model=LargeHead())) == expected


@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_outputs_that_fail_do_not_fail_a_job_that_leaves_them_out(
    tmp_path: Path, policy: str
) -> None:
    wanted = job(HIDDEN, model=Headless(), bad_samples=policy)
    expected = "the outputs cannot be computed: the head takes other sizes"
    assert reason(tmp_path / "run", wanted) == expected


class Picky(ReferenceModel):
    """Fails on texts of three characters."""

    def forward(self, tokens: Array) -> dict[str, Array]:
        if len(tokens) == 3:
            raise SampleError("three is too few")
        return super().forward(tokens)


def test_samples_that_fail_are_left_out_of_the_comparison(tmp_path: Path) -> None:
    wanted = job(HIDDEN, model=Picky(), bad_samples="skip", inputs=["abc", "a", "abcd"])
    run = executed(tmp_path / "run", wanted)
    (check,) = run.manifest.volatile.self_check
    assert check.samples == 2
    assert list(run.missing) == [0]


def test_a_sample_that_fails_is_blamed_as_it_is_without_the_check(tmp_path: Path) -> None:
    messages = []
    for on in (True, False):
        with pytest.raises(SampleError) as error:
            executed(tmp_path / str(on), job(HIDDEN, model=Picky(), self_check=on))
        messages.append(str(error.value))
    assert messages[0] == messages[1]


# ---- runs that were interrupted, and parts


class Counting(ReferenceModel):
    """Counts its own calls."""

    own_calls: list[int] = []  # noqa: RUF012 - shared on purpose

    def own_call(self, checkpoint: int | None = None) -> OwnCall:
        self.own_calls.append(1)
        return super().own_call(checkpoint)


class Stopping(Silent):
    """Interrupts a job once a shard is committed."""

    def advanced(self, samples: int, stored: int) -> None:
        if stored:
            raise KeyboardInterrupt


def test_a_run_that_has_checked_itself_does_not_do_so_again(tmp_path: Path) -> None:
    wanted = job(HIDDEN, model=Counting(), shard_size=6)
    Counting.own_calls.clear()
    with pytest.raises(KeyboardInterrupt):
        execute(wanted, tmp_path / "run", hydra_files={}, listener=Stopping())
    before = volatile(tmp_path / "run").self_check
    resume(wanted, tmp_path / "run", listener=Silent())
    assert volatile(tmp_path / "run").self_check == before != ()
    assert len(Counting.own_calls) == 1


def test_a_run_that_failed_its_check_is_checked_again(tmp_path: Path) -> None:
    failed(tmp_path / "run", job(HIDDEN, model=Off()))
    with pytest.raises(JobError, match="is not the model's own output"):
        resume(job(HIDDEN, model=Off()), tmp_path / "run", listener=Silent())
    resume(job(HIDDEN, model=Off(), self_check=False), tmp_path / "run", listener=Silent())
    assert manifest.read(tmp_path / "run").status is Status.FINISHED


def test_shards_that_were_committed_without_a_check_are_named(tmp_path: Path) -> None:
    wanted = job(HIDDEN, model=Off(), shard_size=6, self_check=False)
    with pytest.raises(KeyboardInterrupt):
        execute(wanted, tmp_path / "run", hydra_files={}, listener=Stopping())
    with pytest.raises(JobError) as error:
        resume(job(HIDDEN, model=Off(), shard_size=6), tmp_path / "run", listener=Silent())
    assert "1 shard is committed already and may hold wrong values. Either" in str(error.value)
    assert "Nothing is stored" not in str(error.value)


def test_every_part_checks_itself_and_the_whole_has_the_worst(tmp_path: Path) -> None:
    for part in ("1/2", "2/2"):
        execute(
            job(HIDDEN, shard_size=6, batch_size=4, part=part),
            tmp_path / "run",
            hydra_files={},
            listener=Silent(),
        )
    join(tmp_path / "run")
    (check,) = volatile(tmp_path / "run").self_check
    assert check.outputs == (":output",)


def test_of_parts_the_largest_difference_counts_and_any_comparison_before_none() -> None:
    small, large = (SelfCheck("a", "x", largest_difference=one) for one in (1e-7, 1e-6))
    none = SelfCheck("a", not_applicable="no sample")
    other = SelfCheck("b", not_applicable="no sample")
    assert joined_checks([(small,), (none, other), (large,)]) == (large, other)


# ---- two outputs


def record(dtype: str) -> TensorRecord:
    return TensorRecord(
        ":output",
        Kind.MODEL_OUTPUT,
        TensorSpec.of(dtype, ("sample", None), (None, 2)),
        (),
        name=":output",
    )


@pytest.mark.parametrize(
    ("dtype", "value", "own", "beyond"),
    [
        ("float32", [1.0, 2.0], [1.0, 2.0001], 0),
        ("float32", [1.0, 2.0], [1.0, 2.001], 1),
        ("float64", [1.0, 1e6], [1.0, 1e6 + 50], 0),
        ("float16", [1.0, 2.0], [1.0, 2.01], 0),
        ("float16", [1.0, 2.0], [1.0, 2.1], 1),
        ("complex64", [1.0 + 1.0j, 2.0], [1.0 - 1.0j, 2.0], 1),
        ("int32", [1, 2**30], [1, 2**30 + 1], 1),
        ("bool", [True, False], [True, True], 1),
        ("float32", [np.nan, np.inf], [np.nan, np.inf], 0),
        ("float32", [np.nan, 1.0], [1.0, 1.0], 1),
        ("float32", [np.inf, 1.0], [-np.inf, 1.0], 1),
    ],
)
def test_how_far_outputs_may_be_apart(
    dtype: str, value: list[float], own: list[float], beyond: int
) -> None:
    arrays = (np.array([row], dtype) for row in (value, own))
    apart = outputs_apart(record(dtype), *arrays, Batch({}, {}))
    assert apart.beyond == beyond


@pytest.mark.parametrize(("own", "beyond"), [(b"a\0\0", 0), (b"a\0", 1), (b"b\0\0", 1)])
def test_texts_are_equal_to_the_byte(own: bytes, beyond: int) -> None:
    value, other = (np.array([[text, b"x"]], object) for text in (b"a\0\0", own))
    assert outputs_apart(record("string"), value, other, Batch({}, {})).beyond == beyond


def test_bfloat16_is_compared_by_its_numbers() -> None:
    own = np.array([[1.0, 2.0]], ml_dtypes.bfloat16)
    same = np.array([[1.0, 2.0]], np.float32)
    assert outputs_apart(record("bfloat16"), same, own, Batch({}, {}), coarse=True).beyond == 0
    assert outputs_apart(record("bfloat16"), same * 2, own, Batch({}, {}), coarse=True).beyond


def test_another_shape_is_a_difference() -> None:
    value, own = np.zeros((1, 2), np.float32), np.zeros((1, 3), np.float32)
    assert str(outputs_apart(record("float32"), value, own, Batch({}, {}))) == (
        "shape [1, 2], not [1, 3]"
    )


def test_the_setting_is_true_or_false() -> None:
    with pytest.raises(ConfigError, match=r"runtime.self_check='maybe' is not true or false"):
        Runtime.parse({"self_check": "maybe"})
