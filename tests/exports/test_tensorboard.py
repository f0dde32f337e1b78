"""Export to TensorBoard: read back by TensorBoard itself, and compared with values of the run."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import extractkit
from extractkit.core.values import Array
from extractkit.runs.reader import Run
from extractkit.testing.reference import ReferenceModel
from tests.reports.examples import EVERYTHING, HOSTILE, STATISTICS, hostile_run
from tests.runs.trajectory_examples import Trajectories, made

pytest.importorskip("tensorboard")
NUMERIC = {"dense:out", "count:out", "flag:out", "hidden:out", "map:out", "ids:out", "found:out"}
STEPS = (0, 10, 20)


class Events:
    """What TensorBoard's own reader finds in a directory."""

    def __init__(self, directory: Path) -> None:
        # With TensorFlow, TensorBoard would read by it; it has a reader of its own.
        sys.modules["tensorboard.compat.notf"] = sys
        from tensorboard.backend.event_processing import event_accumulator

        self.read = event_accumulator.EventAccumulator(str(directory), {"tensors": 0})
        self.read.Reload()
        self.tags: set[str] = set(self.read.Tags()["tensors"])

    def plugin(self, tag: str) -> str:
        return str(self.read.SummaryMetadata(tag).plugin_data.plugin_name)

    def values(self, tag: str) -> dict[int, Any]:
        from tensorboard.util.tensor_util import make_ndarray

        return {one.step: make_ndarray(one.tensor_proto) for one in self.read.Tensors(tag)}


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory: pytest.TempPathFactory) -> Trajectories:
    return made(tmp_path_factory.mktemp("runs") / "run", steps=True)


@pytest.fixture(scope="module")
def events(trajectories: Trajectories) -> Events:
    return Events(extractkit.export(trajectories.path, "tensorboard"))


def at(trajectories: Trajectories, key: str, position: int) -> Array:
    """Return all elements of a tensor at one checkpoint, one after the other, as float64."""
    each = trajectories.samples.get(key)
    found = [trajectories.constants[key][position]] if each is None else each[position]
    return np.concatenate([one.astype(np.float64).reshape(-1) for one in found])


def test_histograms_at_each_step_are_those_of_all_elements(
    trajectories: Trajectories, events: Events
) -> None:
    for key in (*NUMERIC, "kernel", "rate"):
        assert events.plugin(key) == "histograms"
        found = events.values(key)
        assert tuple(found) == STEPS
        for position, rows in enumerate(found.values()):
            values = at(trajectories, key, position)
            lower, upper, counts = rows.T
            inside = (values >= lower[:, np.newaxis]) & (values < upper[:, np.newaxis])
            np.testing.assert_array_equal(counts, inside.sum(1))
            assert counts.sum() == values.size
    assert "word:out" not in events.tags


def test_scalars_are_moments_and_drift(trajectories: Trajectories, events: Events) -> None:
    run = trajectories.open()
    for key in (*NUMERIC, "kernel", "rate"):
        values = [at(trajectories, key, position) for position in range(3)]
        for name, of in (
            *(("mean", np.mean), ("standard deviation", np.std)),
            *(("min", np.min), ("max", np.max)),
        ):
            assert events.plugin(f"{key}/{name}") == "scalars"
            found = [*events.values(f"{key}/{name}").values()]
            np.testing.assert_allclose(found, [of(one) for one in values], rtol=1e-6, atol=1e-7)
    assert run.drift is not None
    moved = run.drift.tensors["dense:out"]
    for name, one in (("first", moved.from_first), ("previous", moved.from_previous)):
        for measure in ("relative_norm", "cosine", "cka"):
            found = events.values(f"dense:out/{measure} from {name}")
            wanted = zip(STEPS, getattr(one, measure), strict=True)
            assert found == pytest.approx({n: x for n, x in wanted if x is not None})


def test_the_projector_reads_vectors_and_their_samples(
    trajectories: Trajectories, events: Events
) -> None:
    from google.protobuf import text_format
    from tensorboard.plugins.projector import projector_plugin
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    directory = trajectories.path.with_name("run.tensorboard")
    config = (directory / "projector_config.pbtxt").read_text("utf-8")
    (entry,) = text_format.Parse(config, ProjectorConfig()).embeddings
    assert entry.tensor_name == "dense:out"
    values = projector_plugin._read_tensor_tsv_file(str(directory / entry.tensor_path))
    np.testing.assert_array_equal(values, trajectories.samples["dense:out"][-1])
    metadata = (directory / entry.metadata_path).read_text("utf-8").splitlines()
    assert metadata == ["index\tid", *(f"{n}\ts{n}" for n in range(5))]


def test_attention_is_drawn_head_by_head(tmp_path: Path) -> None:
    run = hostile_run(tmp_path / "run")
    remarks: list[str] = []
    events = Events(
        extractkit.export(run.path, "tensorboard", tmp_path / "logs", note=remarks.append)
    )
    view = run["attention:op/Softmax"]
    assert events.plugin("attention:op/Softmax/map") == "images"
    width, height, *files = events.values("attention:op/Softmax/map")[0]
    present = [index for index in (0, 1, 3, 4) if HOSTILE[index]]
    assert len(files) == len(present)
    for content, index in zip(files, present, strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(content)))
        maps = view.sample(index).astype(np.float64)
        by = len(pixels) // len(maps)
        np.testing.assert_array_equal(pixels[::by, ::by], np.round(maps * 255))
    sizes = [Image.open(io.BytesIO(content)).size for content in files]
    assert (int(width), int(height)) == max(sizes)
    metadata = (tmp_path / "logs" / "projector" / "samples-0.tsv").read_text("utf-8")
    assert [line.split("\t")[4] for line in metadata.splitlines()] == ["text", *HOSTILE]
    (text,) = events.values("run").values()
    assert b"| status | finished |" in text.item()
    assert remarks == []


def test_numbers_that_are_not_finite_are_counted_and_kept_off_the_projector(
    tmp_path: Path,
) -> None:
    class Broken(ReferenceModel):
        @property
        def weights(self) -> dict[str, Array]:  # type: ignore[override]
            found = {name: np.array(one) for name, one in super().weights.items()}
            found["embedding:embeddings"][ord("a") % 50] = np.nan
            return found

    run = extractkit.extract(
        model=Broken(), inputs=["bc", "ab", "cd"], selectors=EVERYTHING, run_dir=tmp_path / "run"
    )
    remarks: list[str] = []
    events = Events(extractkit.export(run.path, "tensorboard", note=remarks.append))
    values = np.asarray(run["pool:output"])
    assert np.isnan(values).all(1).tolist() == [False, True, False]
    assert events.values("pool:output/not finite") == {0: 4}
    assert events.values("pool:output")[0][:, 2].sum() == 8
    assert np.isnan(events.values("pool:output/mean")[0])
    assert (
        "pool:output: the projector does not show 1 sample with NaN or infinite elements" in remarks
    )


def test_statistics_are_shown_as_the_run_has_them(tmp_path: Path) -> None:
    run = extractkit.extract(
        model=ReferenceModel(), inputs=["abc", "de"], selectors=STATISTICS, run_dir=tmp_path / "run"
    )
    events = Events(extractkit.export(run.path, "tensorboard"))
    found = run.statistics["embedding:output"]
    np.testing.assert_array_equal(
        events.values("embedding:output")[0][:, 2], found.histogram.counts
    )
    assert events.values("embedding:output/max")[0] == np.float32(found.moments.max.max())
    values = np.concatenate([*_values(tmp_path, "embedding:output")]).astype(np.float64)
    assert events.values("embedding:output/standard deviation")[0] == pytest.approx(values.std())


def _values(tmp_path: Path, key: str) -> Run | Any:
    return extractkit.extract(
        model=ReferenceModel(), inputs=["abc", "de"], selectors=EVERYTHING, run_dir=tmp_path / "all"
    )[key]


def test_the_same_run_gets_the_same_files(trajectories: Trajectories, events: Events) -> None:
    again = extractkit.export(trajectories.path, "tensorboard", trajectories.path.parent / "again")
    first = trajectories.path.with_name("run.tensorboard")
    files = [path.relative_to(first) for path in first.rglob("*") if path.is_file()]
    assert len(files) == 4
    for file in files:
        assert (again / file).read_bytes() == (first / file).read_bytes()
    assert not extractkit.verify(trajectories.path).failed
