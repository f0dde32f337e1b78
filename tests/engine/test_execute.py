"""Whole jobs: what a run holds, and what is left where one cannot be finished."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from extractkit.core.plan import PlannedTensor
from extractkit.core.values import Array
from extractkit.engine import Silent
from extractkit.engine.execute import execute
from extractkit.engine.preview import preview
from extractkit.errors import InputError, JobError, RunDirectoryError, SelectionError, UserError
from extractkit.inputs import Sample
from extractkit.models import Compilation, Encoded, Fetch, Program
from extractkit.runs import LOG
from extractkit.runs.manifest import Status, read
from extractkit.runs.reader import Run, open_run
from extractkit.testing.reference import ReferenceModel
from tests.engine.examples import (
    EVERYTHING,
    MODEL,
    TEXTS,
    Collected,
    executed,
    job,
    shard_files,
    tokens,
)
from tests.engine.test_measure import described

COUNT = "attention:op/Count"
"""What has a value for a batch as a whole."""


def stored(run: Run, key: str) -> list[Array]:
    return list(run[key])


@pytest.mark.parametrize("sink", ["hdf5", "npz"])
def test_a_run_holds_what_the_model_gives_for_each_sample_alone(tmp_path: Path, sink: str) -> None:
    run = executed(tmp_path / "run", job(EVERYTHING, sinks=(sink,), shard_size=8, batch_size=3))
    assert run.status is Status.FINISHED
    expected = [MODEL.forward(tokens(text)) for text in TEXTS]
    assert set(run) == {*expected[0], *MODEL.weights} - {COUNT}
    for key in expected[0].keys() - {COUNT}:
        for value, sample in zip(stored(run, key), expected, strict=True):
            np.testing.assert_array_equal(value, sample[key])
    for key, weight in MODEL.weights.items():
        np.testing.assert_array_equal(run[key], weight)
    assert [row["text"] for row in run.samples] == list(TEXTS)


@pytest.mark.parametrize(
    ("path", "transform"),
    [
        ("embedding:output", {"slice": {"token": 0}}),
        ("embedding:output", {"slice": {"token": -1}, "cast": "float64"}),
        ("embedding:output", {"reduce": {"token": "mean"}}),
        ("attention:op/MatMul", {"reduce": {"token": "max"}, "slice": {2: "::2"}}),
        ("attention:op/Softmax", {"slice": {2: 0}, "reduce": {1: "sum"}}),
        ("attention:op/Softmax", {"slice": {1: ":5"}}),
        ("pool:op/Max", {"reduce": "norm", "cast": "float16"}),
        (":input.tokens", {"reduce": "mean"}),
        ("attention:kernel", {"slice": {0: "1:3"}, "reduce": {1: "min"}}),
    ],
)
def test_transforms_are_those_of_numpy_on_each_sample(
    tmp_path: Path, path: str, transform: Mapping[str, object]
) -> None:
    run = executed(tmp_path / "run", job({"path": path, **transform}, shard_size=8))
    (key,) = run
    tensor = planned_by(tmp_path, {"path": path, **transform})
    assert tensor.bound is not None
    if run[key].constant:
        expected = tensor.bound.in_numpy(MODEL.weights[path])
        np.testing.assert_array_equal(run[key], expected)
        return
    for value, text in zip(stored(run, key), TEXTS, strict=True):
        expected = tensor.bound.in_numpy(MODEL.forward(tokens(text))[path])
        assert value.dtype == run[key].dtype == expected.dtype
        np.testing.assert_array_equal(value, expected)


def planned_by(directory: Path, selector: Mapping[str, object]) -> PlannedTensor:
    return preview(job(selector), directory).tensors[0]


def test_one_tensor_may_be_stored_in_several_ways(tmp_path: Path) -> None:
    run = executed(
        tmp_path / "run", job({"path": "pool:output"}, {"path": "pool:output", "reduce": "sum"})
    )
    assert list(run) == ["pool:output@s0", "pool:output@s1"]
    np.testing.assert_allclose(
        run["pool:output@s1"], np.asarray(run["pool:output@s0"]).sum(axis=1), rtol=1e-5
    )


@pytest.mark.parametrize("sink", ["hdf5", "npz"])
def test_a_run_repeated_has_the_same_bytes(tmp_path: Path, sink: str) -> None:
    for name in "ab":
        executed(tmp_path / name, job(EVERYTHING, sinks=(sink,), shard_size=7))
    assert shard_files(tmp_path / "a") == shard_files(tmp_path / "b")


def test_a_shards_bytes_are_a_matter_of_its_own_samples(tmp_path: Path) -> None:
    wanted = {"not": {"kind": "weight"}}
    executed(tmp_path / "all", job(wanted, shard_size=5))
    executed(tmp_path / "first", job(wanted, shard_size=5, inputs=TEXTS[:10]))
    whole, first = shard_files(tmp_path / "all"), shard_files(tmp_path / "first")
    assert len(whole) == 4
    assert first == {name: whole[name] for name in list(whole)[:2]}


def test_constants_have_a_shard_of_their_own(tmp_path: Path) -> None:
    run = executed(tmp_path / "run", job({"kind": "weight"}, {"path": "pool:output"}))
    assert list(shard_files(run.path)) == ["000000000-000000020.npz", "constants.npz"]


def test_weights_alone_read_no_samples(tmp_path: Path) -> None:
    class Unreadable:
        def bind(self, signature: object) -> object:
            raise AssertionError("nobody needs samples")

    run = executed(tmp_path / "run", job({"kind": "weight"}, inputs=Unreadable()))
    assert list(shard_files(run.path)) == ["constants.npz"]
    assert run.manifest.samples == 0


def test_samples_of_different_lengths_stay_apart_where_the_model_computes_lengths(
    tmp_path: Path,
) -> None:
    batches: list[set[int]] = []

    class Watched(ReferenceModel):
        catalog = described("embedding:output", "sample", "f(token)", None).catalog

        def program(self, fetches: Sequence[Fetch], compilation: Compilation) -> Program:
            plain = super().program(fetches, compilation)

            def run(features: Mapping[str, Array], lengths: Mapping[str, Array]) -> Sequence[Array]:
                batches.append(set(lengths["token"].tolist()))
                return plain(features, lengths)

            return run

    for transform in ({}, {"reduce": {1: "mean"}}):
        selector = {"path": "embedding:output", **transform}
        run = executed(tmp_path / str(len(transform)), job(selector, model=Watched()))
        assert len(run["embedding:output"]) == len(TEXTS)
    assert all(len(lengths) == 1 for lengths in batches)


def test_the_listener_is_reported_of_every_sample_and_byte_once(tmp_path: Path) -> None:
    reported = Collected()
    executed(tmp_path / "run", job(EVERYTHING, shard_size=8), reported)
    stored = sum(map(len, shard_files(tmp_path / "run").values()))
    assert (reported.samples, reported.expected, reported.bytes) == (20, 20, stored)
    (summary,) = reported.summaries
    assert (summary.samples, summary.shards, summary.bytes, summary.tensors) == (20, 4, stored, 10)
    assert (summary.truncated, summary.non_finite) == (0, ())


def test_notes_reach_listener_and_log(tmp_path: Path) -> None:
    reported = Collected()
    run = executed(tmp_path / "run", job(EVERYTHING, inputs=["a" * 65, "b"]), reported)
    assert reported.notes == [
        "1 of 2 samples was cut off to fit the model (marked in samples.jsonl)",
        "1 matched tensor cannot be extracted, first attention:op/Count: "
        "no axis of it follows the samples: its value belongs to a whole batch",
    ]
    log = (tmp_path / "run" / LOG).read_text(encoding="utf-8")
    assert all(note in log for note in reported.notes)
    assert "plan: 10 tensors, 2 samples, 2 shards" in log
    assert "committed 000000000-000000002" in log
    assert run.manifest.inputs is not None
    assert run.manifest.inputs.truncated == reported.summaries[0].truncated == 1


class Infinite(ReferenceModel):
    """Gives NaN for one tensor of texts that begin with "x"."""

    def forward(self, tokens: Array) -> dict[str, Array]:
        values = super().forward(tokens)
        if tokens[0] == ord("x") % 50:
            values["pool:output"] = np.array([np.nan, np.inf, 0, 1], np.float32)
        return values


def test_what_is_not_finite_is_counted(tmp_path: Path) -> None:
    reported = Collected()
    wanted = job({"path": "pool:*"}, model=Infinite(), inputs=["a", "x", "b"], shard_size=1)
    run = executed(tmp_path / "run", wanted, reported)
    assert reported.summaries[0].non_finite == ("pool:output",)
    stats = [entry.stats["pool:output"] for entry in run.journal.by_shard().values()]
    assert [(one.nan, one.inf, one.first) for one in stats] == [
        (0, 0, {}),
        (1, 1, {"1": (1, 1)}),
        (0, 0, {}),
    ]
    assert run.manifest.actual is not None
    whole = run.manifest.actual.values["pool:output"]
    assert (whole.nan, whole.inf, whole.samples, whole.examined) == (1, 1, 1, 3)


class Breaking(ReferenceModel):
    """Raises `error` once it is given a text that begins with "x"."""

    error: BaseException = JobError("the model broke")

    def forward(self, tokens: Array) -> dict[str, Array]:
        if tokens[0] == ord("x") % 50:
            raise self.error
        return super().forward(tokens)


class Interrupted(Breaking):
    """Is interrupted there."""

    error = KeyboardInterrupt()


@pytest.mark.parametrize(
    ("model", "status"),
    [(Breaking(), Status.FAILED), (Interrupted(), Status.INTERRUPTED)],
    ids=["failed", "interrupted"],
)
def test_what_was_committed_before_a_failure_stays_readable(
    tmp_path: Path, model: Breaking, status: Status
) -> None:
    # Beyond the samples that are tried beforehand.
    texts = [*"abc" * 22, "x"]
    wanted = job({"path": "pool:output"}, model=model, inputs=texts, shard_size=22)
    with pytest.raises(type(model.error)):
        execute(wanted, tmp_path / "run", hydra_files={}, listener=Silent())
    run = open_run(tmp_path / "run")
    assert run.status is status
    assert len(run.journal.by_shard()) == 3
    for position, text in enumerate("abc"):
        expected = MODEL.forward(tokens(text))["pool:output"]
        np.testing.assert_array_equal(run["pool:output"].sample(position), expected)
    assert not any(thread.name == "extractkit-ahead" for thread in threading.enumerate())
    log = (tmp_path / "run" / LOG).read_text(encoding="utf-8")
    assert ("the model broke" if status is Status.FAILED else "interrupted") in log
    assert "Traceback" not in log


def test_a_failure_before_the_first_shard_is_reported_by_the_status(tmp_path: Path) -> None:
    wanted = job({"path": "pool:output"}, model=Breaking(), inputs=["x"])
    with pytest.raises(JobError, match="the model broke"):
        execute(wanted, tmp_path / "run", hydra_files={}, listener=Silent())
    assert read(tmp_path / "run").status is Status.FAILED


class Broken(Breaking):
    """Fails in a way that nobody foresaw."""

    error = ZeroDivisionError("one over nothing")


def test_an_unforeseen_error_stands_in_the_log_with_its_traceback(tmp_path: Path) -> None:
    wanted = job({"path": "pool:output"}, model=Broken(), inputs=["a", "x"])
    with pytest.raises(ZeroDivisionError):
        execute(wanted, tmp_path / "run", hydra_files={}, listener=Silent())
    assert read(tmp_path / "run").status is Status.FAILED
    log = (tmp_path / "run" / LOG).read_text(encoding="utf-8")
    assert log.rstrip().endswith("ZeroDivisionError: one over nothing")


class Particular(ReferenceModel):
    """Takes no text with an "x"."""

    def encode(self, samples: Sequence[Sample]) -> list[Encoded]:
        for sample in samples:
            if "x" in str(sample.data):
                raise InputError(f"sample {sample.id!r} holds an x")
        return super().encode(samples)


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        (job({"path": "no:such"}), SelectionError),
        (job({"path": "pool:output", "reduce": {"token": "mean"}}), SelectionError),
        (job({"path": "embedding:output", "slice": {"token": 2}}), SelectionError),
        (
            job({"path": "embedding:output", "slice": {"token": 2}}, inputs=["abc", "a"]),
            SelectionError,
        ),
        (job({"path": "pool:output"}, model=Particular(), inputs=["a"] * 300 + ["x"]), InputError),
        (job(), UserError),
    ],
)  # fmt: skip
def test_a_users_mistake_leaves_nothing_behind(
    tmp_path: Path, wanted: object, error: type[UserError]
) -> None:
    with pytest.raises(error):
        execute(wanted, tmp_path / "a" / "run", hydra_files={"x": ""}, listener=Silent())  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())


def test_a_run_is_never_written_over_another(tmp_path: Path) -> None:
    wanted = job({"path": "pool:output"})
    executed(tmp_path / "run", wanted)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    with pytest.raises(RunDirectoryError, match="holds a finished run"):
        execute(wanted, tmp_path / "run", hydra_files={"x": ""}, listener=Silent())
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_the_manifest_says_what_was_done(tmp_path: Path) -> None:
    manifest = executed(tmp_path / "run", job(EVERYTHING, batch_size=3, seed=5)).manifest
    assert manifest.model["weights"] == MODEL.weights_digest()
    assert manifest.inputs is not None
    assert (manifest.inputs.count, manifest.seeds) == (20, {"runtime": 5})
    assert manifest.settings["batch_size"] == 3
    assert [one.address for one in manifest.unextractable] == ["attention:op/Count"]
    assert {"load", "compile", "survey", "extract"} <= set(manifest.volatile.timings)
    assert manifest.plan is not None
    assert manifest.plan.exact


def test_elements_that_the_second_cast_cuts_off_are_reported(tmp_path: Path) -> None:
    listener = Collected()
    twice = {"path": "embedding:output", "do": [{"cast": "int16"}, {"cast": "uint8"}]}
    run = executed(tmp_path / "run", job(twice), listener)
    beside = ("embedding:output@overflow", "embedding:output@overflow2")
    first, second = (sum(int(np.sum(run[key].sample(n))) for n in range(20)) for key in beside)
    assert (first, second > 0) == (0, True)
    assert listener.summaries[0].overflowing == ("embedding:output",)
    # A counter that is always 0 is not reported.
    assert (listener.summaries[0].constant, listener.summaries[0].unchanging) == ((), ())


def test_elements_that_a_cast_cuts_off_before_statistics_are_reported(tmp_path: Path) -> None:
    listener = Collected()
    counted = {"path": "embedding:output", "cast": "uint8", "statistics": ["moments"]}
    executed(tmp_path / "run", job(counted), listener)
    assert listener.summaries[0].overflowing == ("embedding:output",)


def test_elements_that_a_cast_cuts_off_are_reported(tmp_path: Path) -> None:
    listener = Collected()
    negative, positive = {"path": "embedding:output"}, {"path": "attention:op/Softmax"}
    wanted = job({**negative, "cast": "uint8"}, {**positive, "cast": "uint8"})
    run = executed(tmp_path / "run", wanted, listener)
    assert listener.summaries[0].overflowing == ("embedding:output",)
    assert sum(int(np.sum(one)) for one in map(run["embedding:output@overflow"].sample, range(20)))
    # Weights between 0 and 1 are cut, but not beyond the range.
    assert not any(np.any(run["attention:op/Softmax@overflow"].sample(n)) for n in range(20))
