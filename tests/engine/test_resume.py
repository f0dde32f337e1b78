"""Going on with a run: what it ends as, what it keeps, and what it refuses."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from extractkit.core.component import Component
from extractkit.core.job import Job
from extractkit.core.values import Array
from extractkit.engine import Silent
from extractkit.engine.execute import execute, resume
from extractkit.errors import InputError, JobError, RunDirectoryError
from extractkit.inputs import Sample
from extractkit.models import Encoded
from extractkit.runs import JOURNAL, LOCK, LOG, MANIFEST, journal
from extractkit.runs import manifest as manifests
from extractkit.runs.checking.files import damage
from extractkit.runs.directory import locked
from extractkit.runs.environment import Volatile
from extractkit.runs.manifest import Manifest, Status
from extractkit.testing.reference import ReferenceModel
from tests.engine.examples import EVERYTHING, Collected, job

TEXTS = ("ab", "c", "", "defg", "hi", "xyz", "jk", "l", "mno")
THIRD = "shards/000000004-000000006"


class Fragile(ReferenceModel):
    """Has trouble, once, with the text "xyz": as it is encoded, or as it is computed.

    No measurement before the plan computes it.
    """

    encoding: ClassVar[list[BaseException]] = []
    computing: ClassVar[list[BaseException]] = []

    def encode(self, samples: Sequence[Sample]) -> list[Encoded]:
        if self.encoding and any(sample.data == "xyz" for sample in samples):
            raise self.encoding.pop()
        return super().encode(samples)

    def forward(self, tokens: Array) -> dict[str, Array]:
        if self.computing and len(tokens) == 3 and tokens[0] == ord("x") % 50:
            raise self.computing.pop()
        return super().forward(tokens)


def wanted(model: ReferenceModel | None = None, **changes: object) -> Job:
    given = {"inputs": TEXTS, "sinks": ("hdf5", "npz"), "shard_size": 2, **changes}
    return job(EVERYTHING, model=model or Fragile(), **given)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_trouble() -> Iterator[None]:
    """Trouble that a test did not meet is none for the next one."""
    yield
    Fragile.encoding.clear()
    Fragile.computing.clear()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing disturbed."""
    return run(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A finished run to be harmed."""
    return run(tmp_path / "run")


def run(path: Path, given: Job | None = None) -> Path:
    execute(given or wanted(), path, hydra_files={"config.yaml": "a: 1\n"}, listener=Silent())
    return path


def stopped(path: Path, **trouble: BaseException) -> Path:
    """A run that stopped at the sample "xyz"."""
    for stage, error in trouble.items():
        getattr(Fragile, stage).append(error)
        with pytest.raises(type(error)):
            run(path)
    return path


def files(path: Path) -> dict[str, bytes]:
    """Everything that is the same in every run of a job, by name."""
    varying = (MANIFEST, JOURNAL, LOG)
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name not in varying
    }


def constant(path: Path) -> Manifest:
    """The manifest without what is volatile."""
    return replace(manifests.read(path), volatile=Volatile(""))


def entries(path: Path) -> dict[str, journal.Entry]:
    found = journal.read(path / JOURNAL).by_shard().values()
    return {entry.shard: replace(entry, timings={}) for entry in found}


def assert_same(path: Path, whole: Path) -> None:
    """Bitwise, times of day and seconds apart."""
    assert files(path) == files(whole)
    assert entries(path) == entries(whole)
    assert constant(path) == constant(whole)
    assert damage(path, manifests.read(path)) == []


def resumed(path: Path, given: Job | None = None) -> Collected:
    reported = Collected()
    resume(given or wanted(), path, listener=reported)
    return reported


def test_two_runs_of_a_job_differ_in_what_is_volatile_alone(path: Path, whole: Path) -> None:
    assert_same(path, whole)
    one, other = (manifests.read(run).volatile for run in (path, whole))
    assert set(one.timings) == set(other.timings)
    assert one.host == other.host


@pytest.mark.parametrize("error", [KeyboardInterrupt(), JobError("broke")])
@pytest.mark.parametrize("stage", ["encoding", "computing"])
def test_a_run_that_stopped_ends_as_one_that_did_not(
    stage: str, error: BaseException, tmp_path: Path, whole: Path
) -> None:
    path = stopped(tmp_path / "run", **{stage: error})
    before = manifests.read(path)
    assert before.status is (
        Status.INTERRUPTED if isinstance(error, KeyboardInterrupt) else Status.FAILED
    )
    assert (before.plan is None) == (stage == "encoding")
    resumed(path)
    assert_same(path, whole)
    (again,) = manifests.read(path).volatile.resumed
    assert again.host == before.volatile.host
    assert manifests.read(path).volatile.started == before.volatile.started


def test_a_run_may_stop_more_than_once(tmp_path: Path, whole: Path) -> None:
    path = stopped(tmp_path / "run", encoding=KeyboardInterrupt())
    Fragile.computing.append(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        resumed(path)
    assert manifests.read(path).status is Status.INTERRUPTED
    reported = resumed(path)
    assert_same(path, whole)
    assert len(manifests.read(path).volatile.resumed) == 2
    assert any(note.endswith("shards are committed already") for note in reported.notes)


def test_a_run_whose_process_was_killed_before_its_plan_goes_on(
    tmp_path: Path, whole: Path
) -> None:
    path = stopped(tmp_path / "run", encoding=KeyboardInterrupt())
    # As a killed process leaves it: rows half written, or published without a plan.
    (path / "samples.jsonl.tmp").write_text('{"index"')
    (path / "samples.jsonl").write_text("{}\n")
    resumed(path)
    assert_same(path, whole)


def test_what_is_committed_is_not_written_again(tmp_path: Path) -> None:
    path = stopped(tmp_path / "run", computing=KeyboardInterrupt())
    before = {file: file.stat().st_mtime_ns for file in (path / "shards").iterdir()}
    assert before
    resumed(path)
    assert before.items() <= {f: f.stat().st_mtime_ns for f in (path / "shards").iterdir()}.items()


def remove(path: Path) -> None:
    path.unlink()


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("harm", [remove, shorten, flip])
@pytest.mark.parametrize("name", [f"{THIRD}.h5", f"{THIRD}.npz", "shards/constants.h5"])
def test_a_damaged_shard_is_stored_again_as_it_was(
    name: str, harm: Callable[[Path], None], path: Path, whole: Path
) -> None:
    harm(path / name)
    resumed(path)
    assert_same(path, whole)


@pytest.mark.parametrize("harm", [remove, shorten, flip])
def test_a_damaged_index_over_all_shards_is_made_again(
    harm: Callable[[Path], None], path: Path, whole: Path
) -> None:
    harm(path / "tensors.h5")
    resumed(path)
    assert_same(path, whole)


def test_a_shard_whose_line_is_torn_is_stored_again(path: Path, whole: Path) -> None:
    shorten(path / JOURNAL)
    resumed(path)
    assert_same(path, whole)


def test_a_finished_run_that_is_whole_loads_nothing_and_stays_as_it_is(path: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    nothing = Component("model", "no.such_model", {})
    reported = resumed(path, replace(wanted(), model=nothing))
    assert reported.notes == [f"{path} is finished, and nothing of it is damaged"]
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before


def test_a_backup_by_hard_links_keeps_what_it_holds(tmp_path: Path, whole: Path) -> None:
    path = stopped(tmp_path / "run", computing=KeyboardInterrupt())
    (path / LOCK).write_text("mine")
    backup = tmp_path / "backup"
    shutil.copytree(path, backup, copy_function=os.link)
    before = {file: file.read_bytes() for file in backup.rglob("*") if file.is_file()}
    resumed(path)
    assert {file: file.read_bytes() for file in backup.rglob("*") if file.is_file()} == before
    assert_same(path, whole)


@pytest.mark.parametrize("name", [".hydra/config.yaml", "extractkit.log"])
def test_what_cannot_be_made_again_is_reported_every_time(name: str, path: Path) -> None:
    flip(path / name)
    for _ in range(2):
        with pytest.raises(JobError, match=rf"are whole and .*{name} is damaged: its digest"):
            resumed(path)
    assert manifests.read(path).status is Status.FINISHED


def test_a_run_on_which_a_process_works_is_left_to_it(path: Path) -> None:
    (path / f"{THIRD}.h5").unlink()
    with locked(path), pytest.raises(RunDirectoryError) as caught:
        resumed(path)
    assert str(caught.value).startswith(f"{path} is being worked on by process {os.getpid()}")


def refused(path: Path, given: Job | None = None) -> str:
    """The one message with which a resume is refused; the run stays as it was."""
    before = files(path), (path / MANIFEST).read_bytes(), (path / JOURNAL).read_bytes()
    with pytest.raises(RunDirectoryError) as caught:
        resumed(path, given)
    assert (files(path), (path / MANIFEST).read_bytes(), (path / JOURNAL).read_bytes()) == before
    return str(caught.value)


@pytest.fixture(params=["interrupted", "damaged"])
def unfinished(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A run with a shard to be stored: one that was interrupted, one that was finished."""
    if request.param == "interrupted":
        return stopped(tmp_path / "run", computing=KeyboardInterrupt())
    path = run(tmp_path / "run")
    (path / f"{THIRD}.h5").unlink()
    return path


def message(path: Path, differences: str) -> str:
    return (
        f"{path} cannot be resumed: its values would not be those of one job. {differences}. "
        f"Put back what was there, or run the job anew"
    )


def test_other_weights_are_refused(unfinished: Path) -> None:
    other = Fragile(seed=1)
    before, after = (model.weights_digest()[:57] for model in (Fragile(), other))
    assert refused(unfinished, wanted(other)) == message(
        unfinished, f"the model's weights: {before}… was recorded, {after}… is found"
    )


def test_other_inputs_are_refused(unfinished: Path) -> None:
    given = wanted(inputs=(*TEXTS[:-1], "other"))
    text = refused(unfinished, given)
    start = f"{unfinished} cannot be resumed: its values would not be those of one job. "
    assert text.startswith(f"{start}the inputs: 9 samples ")
    assert text.count("was recorded") == 1


def test_another_seed_is_refused(unfinished: Path) -> None:
    recorded = replace(manifests.read(unfinished), seeds={"runtime": 5})
    manifests.write(unfinished, recorded)
    assert refused(unfinished) == message(
        unfinished, "the seed: {'runtime': 5} was recorded, {'runtime': 0} is found"
    )


def test_another_model_is_refused(unfinished: Path) -> None:
    assert "what the model computes: " in refused(unfinished, wanted(Fragile(longest=60)))


def test_other_versions_are_refused(unfinished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = manifests.read(unfinished).versions
    found = {**recorded, "numpy": "0.1", "hydra-core": "0.1"}
    monkeypatch.setattr("extractkit.engine.identity.package_versions", lambda names: found)
    assert refused(unfinished) == message(
        unfinished, f"the version of numpy: {recorded['numpy']} was recorded, 0.1 is found"
    )


def test_other_flags_are_refused(unfinished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--fast")
    assert refused(unfinished) == message(
        unfinished, "the variable XLA_FLAGS: None was recorded, --fast is found"
    )


def test_everything_that_differs_is_named_in_one_message(
    unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--fast")
    text = refused(unfinished, wanted(Fragile(seed=1), batch_size=7))
    assert text.count("was recorded") == 3
    assert "the setting 'batch_size': 32 was recorded, 7 is found" in text


def test_damaged_rows_of_samples_are_written_again(unfinished: Path) -> None:
    before = (unfinished / "samples.jsonl").read_bytes()
    flip(unfinished / "samples.jsonl")
    (note,) = [note for note in resumed(unfinished).notes if "samples.jsonl" in note]
    assert note.endswith("its digest is not the recorded one; it is written again")
    assert (unfinished / "samples.jsonl").read_bytes() == before


def test_other_versions_are_recorded_where_nothing_was_computed_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stopped(tmp_path / "run", encoding=KeyboardInterrupt())
    found = {**manifests.read(path).versions, "numpy": "0.1"}
    monkeypatch.setattr("extractkit.engine.identity.package_versions", lambda names: found)
    resumed(path)
    assert manifests.read(path).versions["numpy"] == "0.1"


def test_a_sample_refused_before_the_plan_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    many = wanted(inputs=(*("a" for _ in range(300)), "xyz"))  # rows are recorded before the last
    Fragile.encoding.append(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", many)
    path = tmp_path / "run"
    before = (path / MANIFEST).read_bytes()
    names = {file.name for file in path.iterdir()}
    Fragile.encoding.append(InputError("no"))
    with pytest.raises(InputError):
        resumed(path, many)
    assert (path / MANIFEST).read_bytes() == before
    assert {file.name for file in path.iterdir()} == names


def test_a_run_interrupted_before_its_plan_goes_on_whatever_was_finished_meanwhile(
    tmp_path: Path, whole: Path
) -> None:
    path = stopped(tmp_path / "run", encoding=KeyboardInterrupt())
    run(tmp_path / "other")
    resumed(path, wanted(reuse_from=str(tmp_path)))
    assert files(path) == files(whole)
