"""Going on with a run over several checkpoints: bitwise as if nothing had stopped it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from extractkit.core.job import Job
from extractkit.core.values import Array
from extractkit.engine import Silent
from extractkit.engine.execute import execute
from extractkit.errors import RunDirectoryError
from extractkit.runs import manifest as manifests
from extractkit.runs.reader import open_run
from extractkit.testing.reference import ReferenceModel
from tests.engine.checkpoint_examples import drawn, files, of_checkpoint, over, written
from tests.engine.examples import EVERYTHING, job
from tests.engine.test_resume import assert_same, flip, remove, resumed, shorten

TEXTS = ("ab", "c", "", "defg", "hi", "x", "jk")
SECOND = "000000004-000000007"


class Fragile(ReferenceModel):
    """Is interrupted, once, by the text "x" with the weights of one checkpoint."""

    trouble: ClassVar[dict[bytes, BaseException]] = {}

    def forward(self, tokens: Array) -> dict[str, Array]:
        kernel = self.weights["attention:kernel"].tobytes()
        if tokens.tolist() == [ord("x") % 50] and kernel in self.trouble:
            raise self.trouble.pop(kernel)
        return super().forward(tokens)


@pytest.fixture(autouse=True)
def no_trouble() -> Iterator[None]:
    yield
    Fragile.trouble.clear()


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return files(tmp_path_factory.mktemp("weights"))


def wanted(paths: list[str]) -> Job:
    return over(paths, model=Fragile, inputs=TEXTS, sinks=("hdf5", "npz"), shard_size=4)


def run(path: Path, given: Job) -> Path:
    execute(given, path, hydra_files={"config.yaml": "a: 1\n"}, listener=Silent())
    return path


@pytest.fixture(scope="module")
def whole(paths: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing disturbed."""
    return run(tmp_path_factory.mktemp("whole") / "run", wanted(paths))


def interrupt_at(seed: int) -> None:
    Fragile.trouble[drawn(seed)["kernel"].tobytes()] = KeyboardInterrupt()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_run_interrupted_at_any_checkpoint_ends_as_one_that_was_not(
    seed: int, paths: list[str], tmp_path: Path, whole: Path
) -> None:
    interrupt_at(seed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", wanted(paths))
    assert manifests.read(tmp_path / "run").status is manifests.Status.INTERRUPTED
    committed = {entry.checkpoint for entry in open_run(tmp_path / "run").journal.entries}
    assert committed <= set(range(seed + 1))
    assert not (tmp_path / "run" / "drift.json").exists()
    assert open_run(tmp_path / "run").drift is None
    resumed(tmp_path / "run", wanted(paths))
    assert_same(tmp_path / "run", whole)
    assert (tmp_path / "run" / "drift.json").read_bytes() == (whole / "drift.json").read_bytes()


def test_it_may_be_interrupted_again_and_again(
    paths: list[str], tmp_path: Path, whole: Path
) -> None:
    interrupt_at(0)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", wanted(paths))
    for seed in (1, 2):
        interrupt_at(seed)
        with pytest.raises(KeyboardInterrupt):
            resumed(tmp_path / "run", wanted(paths))
    resumed(tmp_path / "run", wanted(paths))
    assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        (f"shards/{of_checkpoint(1, SECOND)}.h5", flip),
        (f"shards/{of_checkpoint(2, SECOND)}.npz", remove),
        (f"shards/{of_checkpoint(1, 'constants')}.h5", shorten),
        ("drift.json", flip),
        ("drift.json", remove),
        ("tensors.h5", shorten),
        ("journal.jsonl", shorten),
    ],
)
def test_damage_is_mended_bit_for_bit(
    name: str, harm: Callable[[Path], None], paths: list[str], tmp_path: Path, whole: Path
) -> None:
    path = run(tmp_path / "run", wanted(paths))
    kept = {file: file.stat().st_mtime_ns for file in (path / "shards").iterdir()}
    harm(path / name)
    resumed(path, wanted(paths))
    assert_same(path, whole)
    written_again = {file.name for file, time in kept.items() if file.stat().st_mtime_ns != time}
    assert written_again <= {Path(name).with_suffix(end).name for end in (".h5", ".npz")} or (
        name == "journal.jsonl" and len({Path(one).stem for one in written_again}) == 1
    )


def refused(path: Path, given: Job) -> str:
    with pytest.raises(RunDirectoryError) as caught:
        resumed(path, given)
    return str(caught.value)


@pytest.fixture
def stopped(paths: list[str], tmp_path: Path) -> Path:
    interrupt_at(1)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", wanted(paths))
    return tmp_path / "run"


def test_another_content_of_one_checkpoint_is_refused_by_its_label(
    stopped: Path, paths: list[str], tmp_path: Path, whole: Path
) -> None:
    moved = files(tmp_path / "moved")
    written(Path(moved[1]), drawn(7))
    text = refused(stopped, wanted(moved))
    assert "checkpoint 'step_1': " in text
    assert "checkpoint 'step_0'" not in text
    written(Path(moved[1]), drawn(1))
    resumed(stopped, wanted(moved))  # the same content in another directory
    recorded = manifests.read(stopped)
    assert [one.path for one in recorded.checkpoints] == paths
    assert_same(stopped, whole)


def test_more_or_fewer_checkpoints_and_another_order_are_refused(
    stopped: Path, paths: list[str]
) -> None:
    assert "checkpoint 'step_2': " in refused(stopped, wanted(paths[:2]))
    assert "the model's weights: " in refused(stopped, wanted(paths[::-1]))
    alone = job(EVERYTHING, model=Fragile(), inputs=TEXTS, sinks=("hdf5", "npz"), shard_size=4)
    assert "checkpoint 'step_0': " in refused(stopped, alone)
