"""Runs with two outer axes: stored, read, indexed and shown as one file like those with one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import h5py
import numpy as np
import pytest

from extractkit.core.catalog import Kind, TensorRecord
from extractkit.core.digests import PREFERRED
from extractkit.core.shards import CONSTANTS_SHARD, OuterAxis, Shard, over_axes
from extractkit.core.spec import TensorSpec
from extractkit.core.values import Dense, Ragged, Values
from extractkit.errors import RunDirectoryError
from extractkit.runs.drift import drift_of
from extractkit.runs.environment import Volatile
from extractkit.runs.journal import Entry
from extractkit.runs.manifest import Manifest, RunTensor, Status
from extractkit.runs.shards import ShardValues, Storing, check_names
from extractkit.runs.statistics import over_axes as stacked
from extractkit.runs.trajectory import views_of
from extractkit.runs.views import Committed
from extractkit.sinks import StoredShard, StoredTensor
from extractkit.sinks.hdf5 import Hdf5Sink
from tests.runs.test_similarity import by_gram

AXES = (OuterAxis("epoch", ("x", "y", "z"), (1, 2, 3)), OuterAxis("seed", ("a", "b"), (None, None)))
RANGES = (CONSTANTS_SHARD, Shard(0, 2), Shard(2, 3))
DENSE = np.arange(3 * 2 * 3 * 4, dtype=np.float32).reshape(3, 2, 3, 4)
KERNEL = -np.arange(3 * 2 * 5, dtype=np.int64).reshape(3, 2, 5)
LENGTHS = (2, 0, 3)
TENSORS = (
    StoredTensor("d:out", TensorSpec.of("float32", ("sample", None), (None, 4)), False),
    StoredTensor("r:out", TensorSpec.of("float32", ("sample", "token"), (None, None)), False),
    StoredTensor("k:kernel", TensorSpec.of("int64", (None,), (5,)), True),
)


@dataclass(frozen=True)
class TwoAxes(Manifest):
    @property
    def outer_axes(self) -> tuple[OuterAxis, ...]:
        return AXES


def record(tensor: StoredTensor) -> RunTensor:
    kind = Kind.WEIGHT if tensor.constant else Kind.LAYER_OUTPUT
    return RunTensor(tensor, TensorRecord(tensor.key, kind, tensor.spec), ("mine",))


def token(epoch: int, seed: int, sample: int) -> np.ndarray:
    return np.arange(LENGTHS[sample], dtype=np.float32) + 100 * epoch + 10 * seed


def values(shard: Shard) -> Mapping[str, Values]:
    epoch, seed = (one.at for one in shard.outer)
    if shard.constant:
        return {"k:kernel": Dense(KERNEL[epoch, seed])}
    every = range(shard.start, shard.stop)
    offsets = np.cumsum([0, *(LENGTHS[sample] for sample in every)])
    tokens = np.concatenate([token(epoch, seed, sample) for sample in every])
    return {
        "d:out": Dense(DENSE[epoch, seed, shard.start : shard.stop]),
        "r:out": Ragged(tokens, offsets),
    }


@pytest.fixture
def entries(tmp_path: Path) -> dict[Shard, Entry]:
    (tmp_path / "shards").mkdir()
    storing = Storing(tmp_path, {"hdf5": Hdf5Sink()}, PREFERRED)
    return {
        shard: storing.store(ShardValues(shard, values(shard))) for shard in over_axes(RANGES, AXES)
    }


def test_entries_cover_the_shards_that_they_were_stored_from(
    tmp_path: Path, entries: Mapping[Shard, Entry]
) -> None:
    for shard, entry in entries.items():
        assert entry.covers == shard
        check_names(tmp_path, entry, ["hdf5"])


@pytest.mark.parametrize("change", [{"checkpoint": 1}, {"start": 1}, {"shard": "epoch-000001-x"}])
def test_an_entry_that_contradicts_its_key_is_refused(
    tmp_path: Path, entries: Mapping[Shard, Entry], change: Mapping[str, object]
) -> None:
    entry = replace(list(entries.values())[-2], **change)  # type: ignore[arg-type]
    with pytest.raises(RunDirectoryError, match=r"journal\.jsonl, shard"):
        check_names(tmp_path, entry, ["hdf5"])


def test_views_have_both_axes_in_front(tmp_path: Path, entries: Mapping[Shard, Entry]) -> None:
    manifest = TwoAxes(Volatile("now"), tensors=tuple(map(record, TENSORS)))
    committed = Committed(tmp_path, Status.FINISHED, 3, entries, "hdf5", Hdf5Sink())
    views = views_of(manifest, committed)
    assert views["d:out"].dims == ("epoch", "seed", "sample", None)
    np.testing.assert_array_equal(views["d:out"], DENSE)
    np.testing.assert_array_equal(views["d:out"][1, :, 2], DENSE[1, :, 2])
    np.testing.assert_array_equal(views["d:out"][-1, 0, ::2, 1], DENSE[-1, 0, ::2, 1])
    np.testing.assert_array_equal(views["k:kernel"], KERNEL)
    assert views["r:out"].shape == (3, 2, 3, 3)
    for epoch, seed, sample in product(range(3), range(2), range(3)):
        own = np.asarray(views["r:out"])[epoch, seed, sample]
        np.testing.assert_array_equal(own[: LENGTHS[sample]], token(epoch, seed, sample))
        assert np.isnan(own[LENGTHS[sample] :]).all()
    inner = views_of(manifest, committed.at(AXES[0].find("y", "it")))
    np.testing.assert_array_equal(inner["d:out"], DENSE[1])


@pytest.mark.parametrize("number", [0, 1])
def test_drift_is_measured_along_either_axis(
    number: int, tmp_path: Path, entries: Mapping[Shard, Entry]
) -> None:
    manifest = TwoAxes(Volatile("now"), tensors=tuple(map(record, TENSORS)))
    committed = Committed(tmp_path, Status.FINISHED, 3, entries, "hdf5", Hdf5Sink())
    missing = 1  # a sample without tokens, whose values are not examples
    found = drift_of(views_of(manifest, committed), AXES[number], {missing})
    assert found.checkpoints == AXES[number].labels
    tokens = [
        [np.concatenate([token(a, b, sample) for sample in (0, 2)]) for b in range(2)]
        for a in range(3)
    ]
    for key, values in (
        ("d:out", DENSE[:, :, [0, 2]]),
        ("r:out", np.array(tokens)[..., None]),
        ("k:kernel", KERNEL[:, :, None].astype(float)),
    ):
        at = np.moveaxis(values, number, 0).astype(float)
        at = at.reshape(len(at), -1, at.shape[-1])
        for series, reference in (
            (found.tensors[key].from_first, at[[0] * len(at)]),
            (found.tensors[key].from_previous, at[[max(0, n - 1) for n in range(len(at))]]),
        ):
            norms = [
                np.linalg.norm(one - x) / np.linalg.norm(x)
                for one, x in zip(at, reference, strict=True)
            ]
            assert series.relative_norm == pytest.approx(norms)
            if key != "k:kernel":
                cka = [by_gram(one, x) for one, x in zip(at, reference, strict=True)]
                assert series.cka == pytest.approx(cka)


def test_a_lost_shard_is_named_by_its_positions(
    tmp_path: Path, entries: Mapping[Shard, Entry]
) -> None:
    kept = {shard: entry for shard, entry in entries.items() if shard.key != LOST}
    manifest = TwoAxes(Volatile("now"), tensors=tuple(map(record, TENSORS)))
    committed = Committed(tmp_path, Status.FAILED, 3, kept, "hdf5", Hdf5Sink())
    with pytest.raises(RunDirectoryError, match="sample 2 of epoch 2 of seed 1 is not in"):
        np.asarray(views_of(manifest, committed)["d:out"])


LOST = "epoch-000001-seed-000000-000000002-000000003"


def test_one_file_shows_both_axes(tmp_path: Path, entries: Mapping[Shard, Entry]) -> None:
    shards = [
        StoredShard(shard, tmp_path / entry.files["hdf5"].name) for shard, entry in entries.items()
    ]
    for name, content in Hdf5Sink().finish(tmp_path, TENSORS, shards).items():
        (tmp_path / name).write_bytes(content)
    with h5py.File(tmp_path / "tensors.h5") as file:
        np.testing.assert_array_equal(file["d:out"][()], DENSE)
        np.testing.assert_array_equal(file["k:kernel"][()], KERNEL)
        assert list(file["d:out"].attrs["dims"]) == ["epoch", "seed", "sample", ""]
        offsets, tokens = file["r:out/offsets"][()], file["r:out/values"][()]
        assert offsets.shape == (3, 2, 4)
        for epoch, seed, sample in product(range(3), range(2), range(3)):
            first, last = offsets[epoch, seed, sample : sample + 2]
            np.testing.assert_array_equal(tokens[first:last], token(epoch, seed, sample))


def test_results_of_statistics_are_stacked_along_both_axes() -> None:
    each = {
        shard.outer: {("d:out", "moments"): {"mean": DENSE[tuple(p.at for p in shard.outer)]}}
        for shard in over_axes(RANGES[:1], AXES)
    }
    np.testing.assert_array_equal(stacked(each)["d:out", "moments"]["mean"], DENSE)
