"""What is recorded of a sweep and its jobs, and what of it is believed."""

from dataclasses import replace
from pathlib import Path

import pytest

from extractkit.errors import JobError, RunDirectoryError
from extractkit.runs import manifest as manifests
from extractkit.runs import sweeps
from extractkit.runs.directory import locked
from extractkit.runs.manifest import Status
from extractkit.runs.sweeps import JobFile, JobStatus, SweepJob, SweepRecord, writing
from tests.runs.examples import manifest

JOB = SweepJob(
    number=0,
    overrides=("model=mine",),
    values={"model": "mine"},
    run="0",
    attempt=1,
    status=JobStatus.FINISHED,
    started="2026-11-22T15:04:05+00:00",
    samples=3,
    timings={"load": 0.5},
)
SWEEP = SweepRecord(
    started="2026-11-22T15:04:05+00:00",
    overrides=("model=mine,yours",),
    status=Status.FINISHED,
    jobs=(JOB, replace(JOB, number=1, values={"model": "yours"}, run="b/1")),
)


def written(directory: Path, sweep: SweepRecord = SWEEP) -> Path:
    (directory / "jobs").mkdir(parents=True, exist_ok=True)
    sweeps.SWEEP_FILE.write(directory / "sweep.json", sweep)
    for job in sweep.jobs:
        sweeps.JOB_FILE.write(directory / "jobs" / f"{job.number}.json", JobFile(job))
    return directory


def test_a_sweep_comes_back_as_it_was(tmp_path: Path) -> None:
    assert sweeps.read(written(tmp_path)) == SWEEP


def test_the_jobs_of_an_unfinished_sweep_are_what_they_say_themselves(tmp_path: Path) -> None:
    written(tmp_path)
    sweeps.SWEEP_FILE.write(tmp_path / "sweep.json", replace(SWEEP, status=Status.STARTED, jobs=()))
    assert sweeps.read(tmp_path).jobs == SWEEP.jobs


@pytest.mark.parametrize("run", ["../0", "/tmp/0", "a/../../b", ".", ""])
def test_a_run_outside_of_the_sweep_is_refused(run: str, tmp_path: Path) -> None:
    written(tmp_path, replace(SWEEP, jobs=(replace(JOB, run=run),)))
    with pytest.raises(RunDirectoryError, match=r"records the run '.*', outside the sweep$"):
        sweeps.read(tmp_path)
    with pytest.raises(RunDirectoryError, match=r"jobs records the run '.*', outside the sweep"):
        sweeps.jobs(tmp_path)


@pytest.mark.parametrize("numbers", [(0, 0), (-1,)])
def test_numbers_that_are_none_are_refused(numbers: tuple[int, ...], tmp_path: Path) -> None:
    twice = replace(SWEEP, jobs=tuple(replace(JOB, number=number) for number in numbers))
    (tmp_path / "jobs").mkdir()
    sweeps.SWEEP_FILE.write(tmp_path / "sweep.json", twice)
    with pytest.raises(RunDirectoryError, match=rf"records job {numbers[0]} twice, or a job below"):
        sweeps.read(tmp_path)


def test_a_record_under_another_name_is_refused(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "jobs" / "0.json").rename(tmp_path / "jobs" / "7.json")
    with pytest.raises(RunDirectoryError, match=r"7\.json is the record of job 0\. Put it back"):
        sweeps.jobs(tmp_path)


@pytest.mark.parametrize("name", ["sweep.json", "jobs/1.json"])
def test_any_byte_changed_is_damage(name: str, tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / name
    whole = path.read_bytes()
    for position in range(0, len(whole), 37):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(RunDirectoryError, match=name.replace(".", r"\.")):
            _ = sweeps.read(tmp_path), sweeps.jobs(tmp_path)


def test_damage_tells_what_is_left_to_do(tmp_path: Path) -> None:
    written(tmp_path)
    elsewhere = "run the sweep again elsewhere: run_dir=…"
    for name, again in (("jobs/1.json", "delete it, and resume the sweep"),
                        ("sweep.json", elsewhere)):  # fmt: skip
        (tmp_path / name).write_text("{", encoding="utf-8")
        with pytest.raises(RunDirectoryError, match=rf"is damaged: .*\. Restore it, or {again}$"):
            _ = sweeps.jobs(tmp_path), sweeps.read(tmp_path)
        written(tmp_path)


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    newer = sweeps.SCHEMA + 1
    written(tmp_path, replace(SWEEP, schema=newer))
    said = rf"newer extractkit: .* sweep index has version {newer}"
    with pytest.raises(RunDirectoryError, match=said):
        sweeps.read(tmp_path)


@pytest.mark.parametrize(
    ("status", "found"),
    [
        (Status.FINISHED, JobStatus.FINISHED),
        (Status.FAILED, JobStatus.FAILED),
        (Status.STARTED, JobStatus.STARTED),
    ],
)
def test_a_job_that_was_killed_is_what_its_run_says(
    status: Status, found: JobStatus, tmp_path: Path
) -> None:
    (tmp_path / "0").mkdir()
    manifests.write(tmp_path / "0", manifest(status=status))
    started = replace(JOB, status=JobStatus.STARTED, samples=None)
    now = sweeps.refreshed(tmp_path, started)
    assert now.status is found
    assert now.samples == (8 if found is JobStatus.FINISHED else None)


def test_a_run_of_another_job_is_not_taken_for_its_own(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    manifests.write(tmp_path / "0", manifest(status=Status.FINISHED, job_given=("model=other",)))
    failed = replace(JOB, status=JobStatus.FAILED)
    assert sweeps.refreshed(tmp_path, failed) == failed


def test_the_swept_keys_are_those_of_several_values() -> None:
    jobs = (
        replace(JOB, values={"model": "a", "n": 1, "x": [1]}),
        replace(JOB, number=1, values={"model": "a", "n": True, "x": [1]}),
        replace(JOB, number=2, values={"model": "a", "n": 1, "x": [1], "only.here": 2}),
    )
    assert replace(SWEEP, jobs=jobs).keys == ("n", "only.here")


# ------------------------------------------------------------------------- beginning and ending


def test_a_sweep_of_which_nothing_stays_is_taken_back(tmp_path: Path) -> None:
    with writing.new_sweep(tmp_path / "a" / "s", SWEEP) as place:
        place.write(JOB)
        assert (tmp_path / "a" / "s" / "jobs" / "0.json").exists()
    assert not list(tmp_path.iterdir())


def test_a_sweep_with_a_run_stays(tmp_path: Path) -> None:
    with writing.new_sweep(tmp_path / "s", replace(SWEEP, status=Status.STARTED, jobs=())) as place:
        place.write(JOB)
        (place.directory / "0").mkdir()
        ended = writing.end(place.directory, interrupted=False, all_ended=True)
    assert ended.status is Status.FINISHED
    assert sweeps.read(tmp_path / "s") == ended
    assert {path.name for path in (tmp_path / "s").iterdir()} == {"0", "jobs", "sweep.json"}


@pytest.mark.parametrize(
    ("holds", "message"),
    [
        ("sweep.json", "holds a sweep. Resume it: extractkit resume {}. "),
        ("manifest.json", "holds a run. "),
        ("jobs", "holds jobs/, but no sweep.json. "),
    ],
)
def test_a_directory_that_is_taken(holds: str, message: str, tmp_path: Path) -> None:
    (tmp_path / holds).write_text("", encoding="utf-8")
    with pytest.raises(RunDirectoryError) as caught, writing.new_sweep(tmp_path, SWEEP):
        pass
    assert str(caught.value) == (
        f"run_dir={tmp_path} {message.format(tmp_path)}Choose another directory: run_dir=…"
    )
    assert {path.name for path in tmp_path.iterdir()} == {holds}


def test_a_file_is_no_directory_for_a_sweep(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("", encoding="utf-8")
    for path, reported in ((tmp_path / "s", "is a file"), (tmp_path / "s" / "t", "cannot be made")):
        with pytest.raises(RunDirectoryError, match=reported), writing.new_sweep(path, SWEEP):
            pass


def test_one_process_at_a_time_works_on_a_sweep(tmp_path: Path) -> None:
    written(tmp_path)
    at_work = r"is being worked on by process \d+ on "
    with locked(tmp_path):
        with pytest.raises(RunDirectoryError, match=at_work), writing.new_sweep(tmp_path, SWEEP):
            pass
        with pytest.raises(RunDirectoryError, match=at_work), writing.resumed_sweep(tmp_path):
            pass


def test_a_job_that_died_has_failed_once_all_have_ended(tmp_path: Path) -> None:
    started = replace(JOB, status=JobStatus.STARTED)
    written(tmp_path, replace(SWEEP, jobs=(started,)))
    assert writing.end(tmp_path, interrupted=True, all_ended=False).jobs == (started,)
    ended = writing.end(tmp_path, interrupted=False, all_ended=True)
    assert (ended.status, ended.jobs[0].status) == (Status.FAILED, JobStatus.FAILED)
    assert ended.jobs[0].error == "its process ended without a message: killed, or out of memory"


def test_a_sweep_without_jobs_has_failed(tmp_path: Path) -> None:
    written(tmp_path, replace(SWEEP, jobs=()))
    assert writing.end(tmp_path, interrupted=False, all_ended=True).status is Status.FAILED


def test_what_a_launcher_would_read_is_set_aside(tmp_path: Path) -> None:
    """Pickles of somebody else's, and links through which Hydra would write."""
    written(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine", encoding="utf-8")
    (tmp_path / "multirun.yaml").symlink_to(elsewhere)
    (tmp_path / ".submitit").mkdir()
    with writing.resumed_sweep(tmp_path) as place:
        assert (place.attempt, place.resumes) == (2, True)
        assert not (tmp_path / "multirun.yaml").is_symlink()
        assert not (tmp_path / ".submitit").exists()
        assert (tmp_path / ".submitit.1").is_dir()
    assert elsewhere.read_text(encoding="utf-8") == "mine"


def test_a_link_in_place_of_the_jobs_is_not_followed(tmp_path: Path) -> None:
    sweep, elsewhere = tmp_path / "s", tmp_path / "elsewhere"
    written(sweep, replace(SWEEP, jobs=()))
    elsewhere.mkdir()
    (sweep / "jobs").rmdir()
    (sweep / "jobs").symlink_to(elsewhere)
    with pytest.raises(JobError, match="jobs could not be written"), writing.resumed_sweep(sweep):
        pass
    assert not list(elsewhere.iterdir())
