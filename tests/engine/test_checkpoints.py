"""Jobs over several checkpoints: a shard holds what its weights alone make of its samples."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from extractkit.core.checkpoints import AXIS
from extractkit.core.shards import Position, Shard
from extractkit.core.values import Array
from extractkit.engine import prepare as preparing
from extractkit.engine.batches import ReadAlready
from extractkit.engine.execute import execute
from extractkit.engine.preview import preview
from extractkit.errors import JobError, ModelError, SampleError
from extractkit.inputs import Sample
from extractkit.models import Encoded
from extractkit.runs.manifest import Status
from extractkit.runs.reader import Run, open_run
from extractkit.testing.reference import ReferenceModel
from tests.engine.checkpoint_examples import (
    digests,
    drawn,
    files,
    holding,
    of_checkpoint,
    over,
    written,
)
from tests.engine.examples import EVERYTHING, TEXTS, Collected, executed, job, shard_files, tokens

SEEDS = (0, 1, 2)


class Counting(ReferenceModel):
    """Counts how often each text is encoded, and each set of weights loaded."""

    encoded: ClassVar[Counter[str]] = Counter()
    loaded: ClassVar[list[str]] = []

    def encode(self, samples: Sequence[Sample]) -> list[Encoded]:
        self.encoded.update(str(sample.data) for sample in samples)
        return super().encode(samples)

    def become(self, file: object) -> None:
        self.loaded.append(Path(file.path).stem)  # type: ignore[attr-defined]
        super().become(file)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def uncounted() -> None:
    Counting.encoded.clear()
    Counting.loaded.clear()


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return files(tmp_path_factory.mktemp("weights"), SEEDS)


@pytest.fixture(scope="module")
def run(paths: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Twenty texts in three shards, with three checkpoints, through both sinks."""
    sinks = ("hdf5", "npz")
    return executed(tmp_path_factory.mktemp("axis") / "run", over(paths, shard_size=8, sinks=sinks))


def test_every_value_is_that_of_forward_with_the_checkpoints_own_weights(run: Run) -> None:
    assert run.checkpoints == ("step_0", "step_1", "step_2")
    for place, seed in enumerate(SEEDS):
        weights = drawn(seed)
        model = holding(weights)
        for number, text in enumerate(TEXTS):
            for key, expected in model.forward(tokens(text)).items():
                if key in ("attention:op/MatMul", "attention:op/Count"):
                    continue  # samples and tokens share its first axis; no sample has a value
                found = run[key].each[place].sample(number)
                np.testing.assert_array_equal(found, expected, err_msg=f"{seed} {number} {key}")
        np.testing.assert_array_equal(run["attention:kernel"][place], weights["kernel"])
        np.testing.assert_array_equal(run["embedding:embeddings"][place], weights["embeddings"])


def test_every_shard_is_bit_for_bit_that_of_a_run_with_those_weights_alone(
    run: Run, tmp_path: Path
) -> None:
    together = digests(run)
    expected = {}
    for place, seed in enumerate(SEEDS):
        alone = executed(
            tmp_path / str(seed),
            job(EVERYTHING, model=holding(drawn(seed)), sinks=("hdf5", "npz"), shard_size=8),
        )
        expected |= {of_checkpoint(place, shard): value for shard, value in digests(alone).items()}
        for name, content in shard_files(alone.path).items():
            assert (run.path / "shards" / of_checkpoint(place, name)).read_bytes() == content
    assert together == expected
    assert len(together) == 12


def test_it_is_reported_what_is_done(paths: list[str], tmp_path: Path) -> None:
    reported = Collected()
    run = executed(tmp_path / "run", over(paths, shard_size=8), reported)
    assert reported.expected == reported.samples == 60
    (summary,) = reported.summaries
    assert (summary.checkpoints, summary.samples, summary.computed) == (3, 20, 60)
    assert run.manifest.actual is not None
    assert (run.manifest.actual.samples, run.manifest.actual.shards) == (60, 12)
    assert run.manifest.plan is not None
    assert run.manifest.plan.bytes == preview(over(paths), tmp_path / "p", exact=True).bytes


def test_samples_are_read_and_encoded_as_often_as_for_one_checkpoint(
    paths: list[str], tmp_path: Path
) -> None:
    texts = [f"text {number}" for number in range(9)]
    pooled = {"path": "pool:output"}
    # The check reads the first batch once more for each of the weights that it looks at.
    settings = {"model": Counting, "inputs": texts, "shard_size": 2, "self_check": False}
    executed(tmp_path / "one", over(paths[:1], pooled, **settings))  # type: ignore[arg-type]
    with_one = dict(Counting.encoded)
    Counting.encoded.clear()
    executed(tmp_path / "three", over(paths, pooled, **settings))  # type: ignore[arg-type]
    assert dict(Counting.encoded) == with_one
    # Once to see who may share a batch, once to know their lengths, once to be computed; measuring
    # and the trial take the first.
    assert {count for text, count in with_one.items() if text != texts[0]} == {3}


def test_weights_are_loaded_once_each_where_memory_allows(paths: list[str], tmp_path: Path) -> None:
    executed(tmp_path / "run", over(paths, model=Counting, shard_size=2, self_check=False))
    # The first also tells whether all fit: they are built alike. With the last it is measured who
    # may share a batch.
    assert Counting.loaded == ["step_0", "step_2", "step_0", "step_1", "step_2"]


@pytest.mark.parametrize(("memory", "loads"), [(0, 11), (2000, 11), (3400, 8)])
def test_with_little_memory_blocks_give_the_same_bytes(
    memory: int,
    loads: int,
    run: Run,
    paths: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = preparing.in_blocks
    monkeypatch.setattr(
        preparing, "in_blocks", lambda shards, size: whole(shards, size, memory=memory)
    )
    stream = preparing.Stream
    monkeypatch.setattr(
        preparing, "Stream", lambda *a, **k: stream(*a, **k, _read_already=ReadAlready(memory))
    )
    wanted = over(paths, model=Counting, shard_size=8, sinks=("hdf5", "npz"), self_check=False)
    small = executed(tmp_path / "run", wanted)
    assert shard_files(small.path) == shard_files(run.path)
    for name in ("tensors.h5", "drift.json"):
        assert (small.path / name).read_bytes() == (run.path / name).read_bytes()
    # Ranges of 8, 8 and 4 samples take 1664, 1664 and 832 bytes.
    assert len(Counting.loaded) == loads


def test_weights_alone_open_no_inputs(paths: list[str], tmp_path: Path) -> None:
    class Closed:
        def bind(self, signature: object) -> None:
            raise AssertionError("inputs were opened")

    run = executed(tmp_path / "run", over(paths, {"kind": "weight"}, inputs=Closed()))
    assert run.manifest.inputs is None
    assert sorted(digests(run)) == [of_checkpoint(place, "constants") for place in range(3)]
    for key, name in (("embedding:embeddings", "embeddings"), ("attention:kernel", "kernel")):
        expected = np.stack([drawn(seed)[name] for seed in SEEDS])
        np.testing.assert_array_equal(np.asarray(run[key]), expected, strict=True)
    assert run.drift is not None


def test_one_checkpoint_is_an_axis_of_one(paths: list[str], tmp_path: Path) -> None:
    run = executed(tmp_path / "run", over(paths[:1], {"path": "pool:output"}))
    assert run["pool:output"].shape == (1, 20, 4)
    assert [shard.key for shard in run.manifest.shards] == [Shard(0, 20, (Position(AXIS, 0),)).key]


# ---- samples that are of no use


class Fussy(ReferenceModel):
    """Fails on the text "x" where the first number of its kernel is negative."""

    def forward(self, tokens: Array) -> dict[str, Array]:
        negative = self.weights["attention:kernel"][0, 0] < 0
        if negative and tokens.tolist() == [ord("x") % 50]:
            raise SampleError("too much")
        return super().forward(tokens)


def signed(folder: Path, *signs: int) -> list[str]:
    """A file for each sign of the kernel's first number."""
    found = []
    for at, sign in enumerate(signs):
        weights = drawn(at)
        weights["kernel"][0, 0] = sign * abs(weights["kernel"][0, 0])
        found.append(written(folder / f"s{at}.safetensors", weights))
    return found


WITH_X = ("ab", "x", "cde", "f")


def test_a_sample_that_fails_with_some_weights_is_skipped_with_those_alone(tmp_path: Path) -> None:
    paths = signed(tmp_path / "w", 1, -1, 1)
    run = executed(
        tmp_path / "run",
        over(paths, {"path": "pool:output"}, model=Fussy, inputs=WITH_X, bad_samples="skip"),
    )
    assert [run.at(label).missing for label in run.checkpoints] == [{}, {1: "too much"}, {}]
    assert run.missing == {1: "too much"}
    values = np.asarray(run["pool:output"])
    assert np.argwhere(np.isnan(values).any(axis=2)).tolist() == [[1, 1]]
    assert run.manifest.actual is not None
    assert run.manifest.actual.missing == 1
    # Left out of all, so that every checkpoint is measured by the same samples.
    assert run.drift is not None
    kept = np.delete(values, 1, axis=1).astype(np.float64)
    expected = [np.linalg.norm(one - kept[0]) / np.linalg.norm(kept[0]) for one in kept]
    found = run.drift.tensors["pool:output"].from_first.relative_norm
    np.testing.assert_allclose(np.array(found, float), expected, rtol=1e-12)


def test_where_it_fails_with_some_weights_the_job_fails_and_names_it(tmp_path: Path) -> None:
    given = over(signed(tmp_path / "w", 1, -1), model=Fussy, inputs=WITH_X, bad_samples="fail")
    with pytest.raises(
        JobError, match=r"^sample .* \(number 1\): too much\. To leave such samples"
    ):
        executed(tmp_path / "run", given)
    assert open_run(tmp_path / "run").status is Status.FAILED


@pytest.mark.parametrize("few", [("x", "ab"), ("x", "ab", "cd", "x")])
def test_a_run_is_finished_where_some_samples_are_left(few: Sequence[str], tmp_path: Path) -> None:
    """Counted over the checkpoints, as many are skipped as there are samples."""
    paths = signed(tmp_path / "w", -1, -1)
    run = executed(
        tmp_path / "run",
        over(paths, {"path": "pool:output"}, model=Fussy, inputs=few, bad_samples="skip"),
    )
    assert run.status is Status.FINISHED


def test_a_run_of_which_nothing_is_left_fails(tmp_path: Path) -> None:
    class Poor(ReferenceModel):
        def forward(self, tokens: Array) -> dict[str, Array]:
            computed = super().forward(tokens)
            return {key: value * np.float32(np.nan) for key, value in computed.items()}

    only = {"path": "pool:output"}
    given = over(files(tmp_path / "f"), only, model=Poor, inputs=WITH_X, non_finite="skip")
    with pytest.raises(JobError, match=r"^no sample has a value: all 12 are missing"):
        executed(tmp_path / "run", given)


def infinite(folder: Path) -> list[str]:
    """Three checkpoints, of which the second makes NaN of the letter "z"."""
    found = []
    for seed in SEEDS:
        weights = drawn(seed)
        if seed == 1:
            weights["embeddings"][ord("z") % 50] = np.nan
        found.append(written(folder / f"n{seed}.safetensors", weights))
    return found


WITH_Z = ("ab", "z", "cde", "zz")


def test_what_is_not_finite_is_skipped_at_its_own_checkpoint(tmp_path: Path) -> None:
    run = executed(
        tmp_path / "run",
        over(
            infinite(tmp_path / "w"), {"path": "embedding:output"}, inputs=WITH_Z, non_finite="skip"
        ),
    )
    assert [sorted(run.at(place).missing) for place in run.checkpoints] == [[], [1, 3], []]
    lengths = run["embedding:output"].lengths[:, :, 0]
    assert lengths.tolist() == [[2, 1, 3, 2], [2, 0, 3, 0], [2, 1, 3, 2]]
    drift = run.drift
    assert drift is not None
    assert None not in drift.tensors["embedding:output"].from_first.relative_norm


def test_what_is_not_finite_is_reported_and_has_no_drift(tmp_path: Path) -> None:
    run = executed(
        tmp_path / "run",
        over(infinite(tmp_path / "w"), {"path": "embedding:output"}, inputs=WITH_Z),
    )
    assert run.manifest.actual is not None
    assert run.manifest.actual.values["embedding:output"].nan == 12
    assert run.drift is not None
    moved = run.drift.tensors["embedding:output"]
    for series in (moved.from_first.relative_norm, moved.from_first.cosine, moved.from_first.cka):
        assert [one is None for one in series] == [False, True, False]
    assert [one is None for one in moved.from_previous.cosine] == [False, True, True]


def test_where_it_must_be_finite_the_job_fails(tmp_path: Path) -> None:
    only = {"path": "embedding:output"}
    given = over(infinite(tmp_path / "w"), only, inputs=WITH_Z, non_finite="fail")
    with pytest.raises(JobError, match=r"\(number 1\)"):
        executed(tmp_path / "run", given)
    assert {entry.checkpoint for entry in open_run(tmp_path / "run").journal.entries} == {0}


# ---- files


def broken(path: str) -> None:
    Path(path).write_bytes(Path(path).read_bytes()[:600])


def other(path: str) -> None:
    written(Path(path), {**drawn(9), "kernel": np.zeros((5, 4), np.float32)})


@pytest.mark.parametrize("harm", [broken, other, lambda path: Path(path).unlink()])
def test_a_checkpoint_that_cannot_be_used_ends_the_job_or_is_left_out(
    harm: Callable[[str], None], tmp_path: Path
) -> None:
    paths = files(tmp_path / "w")
    harm(paths[1])
    with pytest.raises(ModelError) as caught:
        execute(over(paths), tmp_path / "run", hydra_files={"a": ""}, listener=Collected())
    assert str(caught.value).startswith(
        "model.checkpoints: 1 of 3 checkpoints cannot be used, first 'step_1': model.checkpoints="
    )
    assert str(caught.value).endswith(
        " Correct them, or start a new run without them: runtime.bad_checkpoints=skip"
    )
    assert not (tmp_path / "run").exists()
    reported = Collected()
    run = executed(tmp_path / "run", over(paths, bad_checkpoints="skip"), reported)
    assert run.checkpoints == ("step_0", "step_2")
    (left_out,) = run.manifest.excluded
    assert (left_out.label, left_out.path) == ("step_1", paths[1])
    assert f"checkpoint 'step_1' is excluded: {left_out.reason}" in reported.notes
    np.testing.assert_array_equal(run["attention:kernel"].at("step_2"), drawn(2)["kernel"])


@pytest.mark.parametrize("how", ["gone", "other", "torn"])
def test_a_file_that_changes_after_the_start_is_named(how: str, tmp_path: Path) -> None:
    paths = files(tmp_path / "w")

    class Careless(ReferenceModel):
        """Harms the last checkpoint as the sample is tried."""

        harmed: ClassVar[list[str]] = []

        def forward(self, tokens: Array) -> dict[str, Array]:
            if not self.harmed:
                self.harmed.append(how)
                harm = {"gone": lambda p: Path(p).unlink(), "other": other, "torn": broken}
                harm[how](paths[2])
            return super().forward(tokens)

    # The check would find it at once, before the first two are stored.
    pooled = {"path": "pool:output"}
    careless = over(paths, pooled, model=Careless, inputs=["a"], self_check=False)
    with pytest.raises(JobError) as caught:
        executed(tmp_path / "run", careless)
    assert paths[2] in str(caught.value)
    assert "Restore it and resume the run" in str(caught.value)
    left = open_run(tmp_path / "run")
    assert left.status is Status.FAILED
    assert {entry.checkpoint for entry in left.journal.entries} == {0, 1}
