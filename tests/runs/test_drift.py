"""`drift.json` of runs: against a computation by hand from the stacked values."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from extractkit.core.job import Job
from extractkit.errors import RunDirectoryError
from extractkit.models.checkpoint import load
from extractkit.runs import drift as drifting
from extractkit.runs.drift import DRIFT, TensorDrift, drift_of
from extractkit.runs.manifest import read
from extractkit.runs.reader import Run, open_run
from extractkit.runs.trajectory import TrajectoryView
from extractkit.testing.reference import ReferenceModel
from tests.engine.checkpoint_examples import drawn, files, over, written
from tests.engine.examples import EVERYTHING, executed, job
from tests.runs.test_similarity import by_gram
from tests.runs.trajectory_examples import made

MEASURES = ("relative_norm", "cosine", "cka")


def moved(run: Run, key: str) -> TensorDrift:
    assert run.drift is not None
    return run.drift.tensors[key]


def by_hand(reference: np.ndarray, other: np.ndarray, rows: bool = True) -> list[float | None]:
    """Relative norm, cosine and CKA; a tensor's examples are its first axis."""
    x, y = (side.astype(np.float64) for side in (reference, other))
    a, b = np.linalg.norm(x.ravel()), np.linalg.norm(y.ravel())
    return [
        np.linalg.norm((y - x).ravel()) / a,
        np.vdot(x, y) / (a * b),
        by_gram(x, y) if rows else None,
    ]


def assert_moved(found: TensorDrift, values: list[np.ndarray], rows: bool = True) -> None:
    for at, own in enumerate(values):
        for series, reference in (
            (found.from_first, values[0]),
            (found.from_previous, values[max(0, at - 1)]),
        ):
            measured = [getattr(series, name)[at] for name in MEASURES]
            expected = by_hand(reference, own, rows)
            assert measured == [pytest.approx(one, abs=1e-9) for one in expected], at


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Four checkpoints: the kernel moves, then rests; the embeddings are frozen throughout."""
    folder = tmp_path_factory.mktemp("drift")
    seeds = (0, 1, 1, 2)
    paths = [
        written(folder / f"{at}.safetensors", {**drawn(seed), "embeddings": drawn(0)["embeddings"]})
        for at, seed in enumerate(seeds)
    ]
    return executed(folder / "run", over(paths, shard_size=7))


def test_dense_tensors_are_measured_by_samples(run: Run) -> None:
    for key in ("pool:output", ":output", "pool:op/Max"):
        assert_moved(moved(run, key), list(np.asarray(run[key])))


def test_ragged_tensors_are_measured_by_their_tokens(run: Run) -> None:
    view = run["attention:output"]
    assert isinstance(view, TrajectoryView)
    assert_moved(moved(run, "attention:output"), [np.concatenate(list(one)) for one in view.each])


def test_tensors_that_vary_along_several_axes_have_no_cka(run: Run) -> None:
    view = run["attention:op/Softmax"]
    assert isinstance(view, TrajectoryView)
    flat = [np.concatenate([one.ravel() for one in each]) for each in view.each]
    found = moved(run, "attention:op/Softmax")
    assert found.from_first.cka == (None,) * 4
    assert_moved(found, flat, rows=False)


def test_weights_are_measured_by_all_axes_but_the_last(run: Run) -> None:
    assert_moved(moved(run, "attention:kernel"), list(np.asarray(run["attention:kernel"])))


def test_what_is_frozen_does_not_move(run: Run) -> None:
    for key in ("embedding:embeddings", "embedding:output", ":input.tokens"):
        found = moved(run, key)
        for series in (found.from_first, found.from_previous):
            assert series.relative_norm == (0.0,) * 4
            assert series.cosine == pytest.approx((1.0,) * 4)
            assert series.cka == pytest.approx((1.0,) * 4)


def test_what_rests_is_as_far_from_the_first_as_before(run: Run) -> None:
    found = moved(run, "pool:output")
    assert found.from_first.relative_norm[2] == found.from_first.relative_norm[1]
    assert found.from_previous.relative_norm[2] == 0
    assert found.from_previous.relative_norm[3] != 0


def test_what_is_kept_in_memory_does_not_matter(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    views = {key: view for key, view in run.items() if isinstance(view, TrajectoryView)}
    monkeypatch.setattr(drifting, "HELD_BYTES", 0)
    assert drift_of(views, run.manifest.outer_axes[0], ()) == run.drift


def test_shards_do_not_matter(run: Run, tmp_path: Path) -> None:
    paths = [one.path for one in run.manifest.checkpoints]
    other = executed(tmp_path / "run", over(paths, shard_size=20))
    for key in run:
        one, two = moved(run, key), moved(other, key)
        for a, b in ((one.from_first, two.from_first), (one.from_previous, two.from_previous)):
            for name in MEASURES:
                assert getattr(a, name) == pytest.approx(getattr(b, name), abs=1e-12, nan_ok=False)


def test_the_file_is_strict_json_with_an_entry_for_each_checkpoint(run: Run) -> None:
    text = (run.path / DRIFT).read_text("utf-8")
    document = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert document["checkpoints"] == list(run.checkpoints)
    assert set(document["tensors"]) == set(run)
    for one in document["tensors"].values():
        assert set(one) == {"from_first", "from_previous"}
        for series in one.values():
            lengths = {name: len(values) for name, values in series.items()}
            assert lengths == dict.fromkeys(MEASURES, 4)


def test_samples_missing_at_some_checkpoint_are_not_measured_at_any(tmp_path: Path) -> None:
    """For dense and for ragged tensors, at both ends of a shard."""
    paths = files(tmp_path / "w")
    weights = drawn(1)
    weights["embeddings"][ord("z") % 50] = np.nan
    written(Path(paths[1]), weights)
    texts = ("z", "ab", "cde", "zz", "f", "gh")
    of = over(paths, {"path": "*:output"}, inputs=texts, shard_size=4, non_finite="skip")
    run = executed(tmp_path / "run", of)
    assert sorted(run.missing) == [0, 3]
    kept = [1, 2, 4, 5]
    assert_moved(moved(run, "pool:output"), list(np.asarray(run["pool:output"])[:, kept]))
    view = run["attention:output"]
    assert isinstance(view, TrajectoryView)
    rows = [np.concatenate([one.sample(number) for number in kept]) for one in view.each]
    assert_moved(moved(run, "attention:output"), rows)


def test_where_every_sample_is_left_out_nothing_is_reported(tmp_path: Path) -> None:
    paths = files(tmp_path / "w", range(2))
    for at, letter in enumerate("yz"):
        weights = drawn(at)
        weights["embeddings"][ord(letter) % 50] = np.nan
        written(Path(paths[at]), weights)
    of = over(paths, {"path": "*:output"}, inputs=("y", "z"), non_finite="skip")
    run = executed(tmp_path / "run", of)
    for key in ("pool:output", "attention:output"):
        assert moved(run, key).from_first.relative_norm == (None, None)


def test_what_dies_on_the_way_is_like_nothing(tmp_path: Path) -> None:
    """Its examples do not differ any more, so there is nothing to align; it did move."""
    paths = files(tmp_path / "w", range(2))
    weights = drawn(1)
    weights["embeddings"][:] = np.float32(0.1)
    written(Path(paths[1]), weights)
    found = moved(executed(tmp_path / "run", over(paths)), "embedding:output")
    assert found.from_first.cka[1] is None
    assert found.from_first.relative_norm[1] is not None


def test_lengths_that_differ_between_checkpoints_are_unlike(tmp_path: Path) -> None:
    run = made(tmp_path / "run").open()
    found = moved(run, "found:out")
    assert found.from_first.relative_norm == (0.0, None, None)
    assert found.from_previous.cosine[1:] == (None, None)
    assert "word:out" not in (run.drift.tensors if run.drift else {})


def test_integers_booleans_and_single_numbers_are_measured(tmp_path: Path) -> None:
    run = made(tmp_path / "run").open()
    for key, rows in (("count:out", True), ("flag:out", True), ("rate", False)):
        values = list(np.asarray(run[key]))
        if rows:
            values = [one.reshape(len(one), -1) for one in values]
        assert_moved(moved(run, key), values, rows)


# ---- weights alone


def of_arrays(folder: Path, *each: Mapping[str, np.ndarray]) -> Job:
    """A job on the weights in files of these arrays."""
    folder.mkdir()
    paths = []
    for at, arrays in enumerate(each):
        save_file(dict(arrays), folder / f"{at}.safetensors")
        paths.append(str(folder / f"{at}.safetensors"))
    return job(EVERYTHING, model=load(checkpoints=paths), inputs=())


def test_empty_and_rare_arrays_have_a_drift(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)

    def arrays() -> dict[str, np.ndarray]:
        return {
            "empty": np.zeros(0, np.float32),
            "wide": np.zeros((0, 3), np.float32),
            "narrow": np.zeros((3, 0), np.float32),
            "bias": draw.normal(size=4).astype(np.float32),
            "conv": draw.normal(size=(3, 3, 2, 5)).astype(np.float32),
            "step": np.asarray(draw.integers(1, 1000)),
            "counts": draw.integers(1, 9, (6, 2)),
        }

    run = executed(tmp_path / "run", of_arrays(tmp_path / "w", arrays(), arrays()))
    for key in (":empty", ":wide", ":narrow"):
        assert moved(run, key).from_first.relative_norm == (None, None)
        assert run[key].shape[0] == 2
    assert_moved(moved(run, ":conv"), list(np.asarray(run[":conv"]).reshape(2, 18, 5)))
    assert_moved(moved(run, ":counts"), list(np.asarray(run[":counts"])))
    for key in (":bias", ":step"):
        assert_moved(moved(run, key), [one.reshape(1, -1) for one in np.asarray(run[key])], False)


# ---- reading it back


def test_a_run_without_checkpoints_has_none(tmp_path: Path) -> None:
    run = executed(tmp_path / "run", job({"path": "pool:output"}, model=ReferenceModel()))
    assert (run.drift, (run.path / DRIFT).exists()) == (None, False)


@pytest.mark.parametrize("harm", ["flip", "remove"])
def test_a_damaged_file_is_an_error_that_names_it(harm: str, tmp_path: Path) -> None:
    path = made(tmp_path / "run").path / DRIFT
    content = path.read_bytes()
    path.unlink()
    if harm == "flip":
        path.write_bytes(content[:-2] + b"!\n")
    with pytest.raises(RunDirectoryError, match=r"drift\.json is (damaged|missing)"):
        _ = open_run(path.parent).drift
    assert len(open_run(path.parent)["dense:out"]) == 3


def test_it_is_among_the_files_that_the_manifest_records(run: Run) -> None:
    recorded = {file.name: file for file in read(run.path).files}
    assert recorded[DRIFT].size == len((run.path / DRIFT).read_bytes())
