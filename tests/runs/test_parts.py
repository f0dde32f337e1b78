"""Parts of a job joined to one run: the same as from one process; and what is refused."""

import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from extractkit.advice import override
from extractkit.config.hydra_internals import parse_override
from extractkit.core.digests import Algorithm, Digest
from extractkit.core.job import Job
from extractkit.core.shards import Part
from extractkit.core.values import Array
from extractkit.engine import Silent
from extractkit.engine.execute import execute, resume
from extractkit.errors import ConfigError, JobError, RunDirectoryError, SampleError
from extractkit.runs import JOURNAL, LOG, MANIFEST, SAMPLES, journal, manifest
from extractkit.runs import parts as joining
from extractkit.runs.checking.verification import verify
from extractkit.runs.directory import locked, owner
from extractkit.runs.journal import Entry
from extractkit.runs.manifest import Status
from extractkit.runs.parts import FinishedPart, finished_parts, join, part_directory
from extractkit.runs.reader import open_run
from extractkit.store.local import remove
from extractkit.testing.reference import ReferenceModel
from tests.engine.examples import EVERYTHING, TEXTS, job, with_sha256
from tests.engine.test_resume import Collected
from tests.faults.runs import content

HYDRA = {"config.yaml": "model: reference\n"}


def wanted(part: str | None = None, **changes: Any) -> Job:
    """Twenty texts in five shards, and constants."""
    given = {"inputs": TEXTS, "sinks": ("hdf5", "npz"), "shard_size": 4, "part": part, **changes}
    whole = job(EVERYTHING, **given)
    overrides = ("model=reference", *([f"runtime.part={part}"] if part else []))
    runtime = {"runtime": {"part": part, "engine": changes.get("engine", "local")}}
    return replace(whole, given=overrides, resolved={**whole.resolved, **runtime})


def make(directory: Path, part: str | None = None, **changes: Any) -> Path:
    return execute(wanted(part, **changes), directory, hydra_files=HYDRA, listener=Silent())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What the run of one process holds."""
    return content(make(tmp_path_factory.mktemp("whole") / "run"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three parts."""
    run = tmp_path_factory.mktemp("made") / "run"
    for number in (3, 1, 2):
        assert make(run, f"{number}/3") == part_directory(run, Part(number, 3))
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """The parts, to be joined or harmed."""
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_parts_become_the_run_of_one_process(
    tmp_path: Path, whole: dict[str, object], count: int
) -> None:
    """Also where there are more parts than shards, so that some have none."""
    for number in range(count, 0, -1):
        make(tmp_path / "run", f"{number}/{count}")
    join(tmp_path / "run")
    assert content(tmp_path / "run") == whole
    found = manifest.read(tmp_path / "run")
    assert found.status is Status.FINISHED
    assert found.volatile.host in found.volatile.workers
    assert not verify(tmp_path / "run").failed
    log = (tmp_path / "run" / LOG).read_text("utf-8")
    assert [line for line in log.splitlines() if line.startswith("part ")] == [
        f"part {number}/{count}" for number in range(1, count + 1)
    ]


def test_parts_made_before_and_after_an_update_are_joined(
    run: Path, whole: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update may bring another algorithm of digests. Each digest names its own."""
    with_sha256(monkeypatch)
    for number in (1, 3):
        shutil.rmtree(part_directory(run, Part(number, 3)))
        make(run, f"{number}/3")
    rows = part_directory(run, Part(2, 3)) / SAMPLES
    intact = rows.read_bytes()
    rows.write_bytes(intact.replace(b"0", b"1", 1))
    with pytest.raises(
        RunDirectoryError, match=r"part 2/3 is damaged: .*samples\.jsonl is damaged"
    ):
        join(run)
    rows.write_bytes(intact)
    join(run)
    entries = journal.read(run / JOURNAL).by_shard()
    assert {one.values.algorithm for one in entries.values()} == {*Algorithm}
    assert not verify(run).failed
    shards = {name: one for name, one in content(run).items() if name.startswith("shards/")}
    assert shards == {name: one for name, one in whole.items() if name.startswith("shards/")}
    assert shards


def test_a_part_is_a_run_of_its_own(made: Path) -> None:
    part = open_run(part_directory(made, Part(2, 3)))
    assert part.manifest.part == "2/3"
    assert [shard.key for shard in part.manifest.shards] == [
        "000000004-000000008",
        "000000008-000000012",
    ]
    assert part[":output"][4:12].shape == (8, 4)
    assert not verify(part.path).failed
    assert not list(part.path.glob("*.h5"))
    with pytest.raises(RunDirectoryError, match="sample 0 is not in "):
        part[":output"][0]


@pytest.mark.usefixtures("quick_workers")
def test_parts_computed_by_workers_are_the_same(tmp_path: Path, whole: dict[str, object]) -> None:
    for number in (1, 2):
        make(tmp_path / "run", f"{number}/2", engine="processes")
    join(tmp_path / "run")
    found = content(tmp_path / "run")
    assert {k: v for k, v in found.items() if k != MANIFEST} == {
        k: v for k, v in whole.items() if k != MANIFEST
    }


def test_a_part_is_resumed_like_a_run(run: Path, whole: dict[str, object]) -> None:
    part = part_directory(run, Part(2, 3))
    next((part / "shards").glob("*.npz")).write_bytes(b"")
    with pytest.raises(RunDirectoryError) as caught:
        join(run)
    assert str(caught.value).startswith(
        f"part 2/3 is damaged: {part}/shards/000000004-000000008.npz"
    )
    assert str(caught.value).endswith(f"Repair it: extractkit resume {part}")
    resume(wanted("2/3"), part, listener=Silent())
    join(run)
    assert content(run) == whole


def test_a_joined_run_is_left_alone(run: Path, whole: dict[str, object]) -> None:
    reported = Collected()
    join(run)
    join(run, note=reported.note)
    assert reported.notes == [f"{run} is finished"]
    assert content(run) == whole


def test_what_is_no_part_stays(run: Path, whole: dict[str, object]) -> None:
    (run / "parts" / "notes.txt").write_text("mine")
    (part_directory(run, Part(1, 3)) / "mine").mkdir()
    reported = Collected()
    join(run, note=reported.note)
    assert reported.notes == [
        f"{run}/parts holds files that are not part of the run: it is left unchanged"
    ]
    assert (part_directory(run, Part(1, 3)) / "mine").is_dir()
    assert not verify(run).failed


def test_a_link_is_not_followed(run: Path, tmp_path: Path) -> None:
    shards = part_directory(run, Part(1, 3)) / "shards"
    shards.rename(tmp_path / "elsewhere")
    shards.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunDirectoryError, match="is a link, or contains one"):
        join(run)
    assert list((tmp_path / "elsewhere").iterdir())


def _without_manifest(run: Path) -> None:
    shutil.rmtree(part_directory(run, Part(2, 3)))
    shutil.rmtree(part_directory(run, Part(3, 3)))


def _unfinished(run: Path) -> None:
    at = part_directory(run, Part(3, 3))
    manifest.write(at, replace(manifest.read(at), status=Status.INTERRUPTED, actual=None))


def _of_four(run: Path) -> None:
    shutil.copytree(part_directory(run, Part(1, 3)), part_directory(run, Part(1, 4)))


def _renamed(run: Path) -> None:
    shutil.rmtree(part_directory(run, Part(1, 3)))
    shutil.copytree(part_directory(run, Part(2, 3)), part_directory(run, Part(1, 3)))


def _journal(run: Path) -> None:
    (part_directory(run, Part(1, 3)) / JOURNAL).write_text("")


def _none(run: Path) -> None:
    shutil.rmtree(run / "parts")


def _sweep(run: Path) -> None:
    shutil.rmtree(run / "parts")
    (run / "sweep.json").touch()


@pytest.mark.parametrize(
    ("harm", "reported"),
    [
        (
            _without_manifest,
            "2 of the 3 parts of {run} are missing or not finished: 2/3 is missing: extractkit "
            "model=reference runtime.part=2/3 run_dir={run}; 3/3 is missing: extractkit "
            "model=reference runtime.part=3/3 run_dir={run}",
        ),
        (
            _unfinished,
            "1 of the 3 parts of {run} are missing or not finished: 3/3 is unfinished "
            "(interrupted): extractkit resume {run}/parts/3-of-3",
        ),
        (
            _of_four,
            "{run}/parts holds parts of 3 and of 4, which cannot be of one job. Remove those you "
            "do not want",
        ),
        (_renamed, "{run}/parts/1-of-3 is recorded as part 2/3, not 1/3"),
        (
            _journal,
            "{run}/parts/1-of-3/journal.jsonl does not list the shards of its part. Store them "
            "again: extractkit resume {run}/parts/1-of-3",
        ),
        (
            _none,
            "{run} holds no parts of a run. Make them, in any order and anywhere: extractkit … "
            "runtime.part=1/4 run_dir={run}, and so on to 4/4",
        ),
        (
            _sweep,
            "{run} is a sweep, not one run. Give one of its runs; those are listed by: extractkit "
            "show {run}",
        ),
    ],
)
def test_what_cannot_be_joined(run: Path, harm: Callable[[Path], None], reported: str) -> None:
    harm(run)
    with pytest.raises(RunDirectoryError) as caught:
        join(run)
    assert str(caught.value) == reported.format(run=run)
    assert not (run / MANIFEST).exists()


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        ({"model": ReferenceModel(seed=1)}, "the model's weights: "),
        ({"model": ReferenceModel(longest=50)}, "what the model computes: "),
        ({"inputs": TEXTS[:-1]}, "the inputs: "),
        ({"shard_size": 5}, "the plan: "),
        ({"sinks": ("npz",)}, "the configuration of sinks: "),
        ({"batch_size": 3}, "the setting 'batch_size': "),
        ({"non_finite": "fail"}, "the identity: "),
    ],
)
def test_parts_of_different_jobs_are_refused(
    run: Path, changes: dict[str, Any], reported: str
) -> None:
    shutil.rmtree(part_directory(run, Part(2, 3)))
    make(run, "2/3", **changes)
    with pytest.raises(RunDirectoryError) as caught:
        join(run)
    message = str(caught.value)
    assert message.startswith(
        "part 2/3 is not of the same job as part 1/3, or was made in another "
    )
    assert reported in message
    assert message.endswith(
        f"Remove {run}/parts/2-of-3 and make it again as part 1/3 was made: extractkit "
        f"model=reference runtime.part=2/3 {override('run_dir', run)}"
    )


def test_the_part_that_is_not_like_the_others_is_the_one_to_go(run: Path) -> None:
    shutil.rmtree(part_directory(run, Part(1, 3)))
    make(run, "1/3", inputs=TEXTS[:-1])
    with pytest.raises(RunDirectoryError) as caught:
        join(run)
    assert str(caught.value).startswith("part 1/3 is not of the same job as part 2/3, or was made ")
    assert f". Remove {run}/parts/1-of-3 and make it again as part 2/3 was " in str(caught.value)
    shutil.rmtree(part_directory(run, Part(1, 3)))
    make(run, "1/3")
    join(run)


def test_commands_can_be_typed_as_they_are_reported(run: Path) -> None:
    run = run.rename(run.with_name("a, (1)=b"))
    (part_directory(run, Part(1, 3)) / MANIFEST).unlink()
    for number in (2, 3):
        at = part_directory(run, Part(number, 3))
        given = ("model.checkpoints=w/*_BA.h5", "selectors=[a,b]", f"runtime.part={number}/3")
        manifest.write(at, replace(manifest.read(at), job_given=given))
    with pytest.raises(RunDirectoryError) as caught:
        join(run)
    _, _, command = str(caught.value).partition("1/3 is missing: extractkit ")
    assert shlex.split(command) == [
        "model.checkpoints=w/*_BA.h5",
        "selectors=[a,b]",
        "runtime.part=1/3",
        f'run_dir="{run}"',
    ]
    assert "'model.checkpoints=w/*_BA.h5'" in command
    parsed = parse_override(shlex.split(command)[-1])
    assert parsed.value() == str(run)


def test_parts_of_unidentifiable_models_are_distinguished_by_their_configuration(
    run: Path,
) -> None:
    for number in (1, 2, 3):
        at = part_directory(run, Part(number, 3))
        found = manifest.read(at)
        configured = {"_target_": "theirs.build", "depth": 3 if number < 3 else 4}
        manifest.write(
            at,
            replace(
                found,
                identity=None,
                model={**found.model, "definition": None},
                job_resolved={**found.job_resolved, "model": configured},
            ),
        )
    with pytest.raises(RunDirectoryError) as caught:
        join(run)
    assert "part 3/3 is not of the same job as part 1/3" in str(caught.value)
    assert "the configuration of model: " in str(caught.value)


def test_parts_from_other_processors_are_refused(run: Path) -> None:
    at = part_directory(run, Part(3, 3))
    found = manifest.read(at)
    host = {**found.volatile.host, "processor": "Z80"}
    manifest.write(at, replace(found, volatile=replace(found.volatile, host=host)))
    with pytest.raises(RunDirectoryError, match=r"the processor: .* was recorded, Z80 is found"):
        join(run)


def test_a_part_at_work_is_waited_for(run: Path) -> None:
    with locked(part_directory(run, Part(1, 3))), pytest.raises(RunDirectoryError) as caught:
        join(run)
    assert "1/3 is being worked on by process " in str(caught.value)


def test_parts_are_locked_from_before_they_are_read_until_they_are_gone(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [part_directory(run, Part(number, 3)) for number in (1, 2, 3)]
    at_work: list[list[bool]] = []

    def watched(path: Path) -> None:
        if path.name == MANIFEST and path.parent in parts:
            at_work.append([owner(part) is not None for part in parts if part.exists()])
        remove(path)

    def read(directory: Path, busy: Mapping[Part, str]) -> list[FinishedPart]:
        at_work.append([owner(part) is not None for part in parts])
        return finished_parts(directory, busy)

    monkeypatch.setattr(joining, "remove", watched)
    monkeypatch.setattr(joining, "finished_parts", read)
    join(run)
    assert at_work == [[True] * 3, [True] * 3, [True] * 2, [True]]
    assert not (run / "parts").exists()


def test_a_part_that_holds_what_the_joined_run_lacks_stays(made: Path, run: Path) -> None:
    join(run)
    other = part_directory(run, Part(2, 3))
    shutil.copytree(part_directory(made, Part(2, 3)), other)
    entries = list(journal.read(other / JOURNAL).entries)
    changed = replace(entries[0], values=Digest("sha256:" + "0" * 64))
    journal.rewrite(other / JOURNAL, [changed, *entries[1:]])
    damaged = part_directory(run, Part(3, 3))
    shutil.copytree(part_directory(made, Part(3, 3)), damaged)
    (damaged / JOURNAL).write_text("{}\n{}\n")
    at_work = Path(
        shutil.copytree(part_directory(made, Part(1, 3)), part_directory(run, Part(1, 3)))
    )
    before = [content(part) for part in (at_work, other)]
    reported = Collected()
    with locked(at_work):
        join(run, note=reported.note)
    assert [content(part) for part in (at_work, other)] == before
    assert (damaged / MANIFEST).exists()
    _, first, second, third, _ = reported.notes
    assert first.startswith(f"{at_work} is being worked on by process ")
    assert first.endswith(": it is left unchanged")
    assert (
        second == f"{other} is left unchanged: the run does not hold its shard {entries[0].shard}"
    )
    assert third.startswith(f"{damaged} is left unchanged: {damaged}/journal.jsonl, line 1 is dam")
    shutil.rmtree(other)
    shutil.rmtree(damaged)
    join(run)  # a part of which all is joined has been left there by one who was killed
    assert (at_work / "shards").exists()
    assert not (at_work / MANIFEST).exists()


def test_a_part_is_no_run_to_be_joined_and_a_run_has_no_parts(run: Path, tmp_path: Path) -> None:
    part = part_directory(run, Part(1, 3))
    with pytest.raises(RunDirectoryError) as caught:
        join(part)
    assert (
        str(caught.value) == f"{part} is part 1/3 of a run. Join all of them: extractkit join {run}"
    )
    with pytest.raises(RunDirectoryError, match=r"nowhere does not exist\. In .*run"):
        join(tmp_path / "nowhere")
    whole = make(tmp_path / "whole")
    at = manifest.read(whole)
    manifest.write(whole, replace(at, status=Status.FAILED, actual=None))
    with pytest.raises(RunDirectoryError, match="is a run that was not made in parts"):
        join(whole)


def test_a_run_and_its_parts_do_not_get_into_each_others_way(run: Path) -> None:
    with pytest.raises(RunDirectoryError) as caught:
        manifest.read(run)
    assert str(caught.value) == (
        f"{run} is not a run yet: it holds parts of one. Join them: extractkit join {run}"
    )
    with pytest.raises(RunDirectoryError, match=r"holds parts of a run\. Join them"):
        make(run)
    with pytest.raises(RunDirectoryError, match=r"runtime.part=1/4: run_dir=.* parts of 3"):
        make(run, "1/4")
    with pytest.raises(RunDirectoryError, match="holds a finished run of"):
        make(run, "1/3")
    join(run)
    with pytest.raises(
        RunDirectoryError, match="already holds a run, so no part of it can be made"
    ):
        make(run, "1/3")


def test_a_part_is_never_reused_in_place_of_the_whole(made: Path, tmp_path: Path) -> None:
    again = make(tmp_path / "whole", reuse_from=str(made))
    assert again == tmp_path / "whole"
    with pytest.raises(ConfigError, match="what is reused is a whole run"):
        wanted("1/3", reuse_from=str(made))


class Picky(ReferenceModel):
    """Fails on the text "xxx"."""

    def forward(self, tokens: Array) -> dict[str, Array]:
        if tokens.tolist() == [ord("x") % 50] * 3:
            raise SampleError("no good")
        return super().forward(tokens)


def test_a_part_may_skip_all_of_its_samples_but_not_all_parts(tmp_path: Path) -> None:
    texts = (*TEXTS[:8], *("xxx",) * 8)
    picky: dict[str, Any] = {"model": Picky(), "inputs": texts, "bad_samples": "skip"}
    for number in (1, 2):
        make(tmp_path / "run", f"{number}/2", **picky)
    join(tmp_path / "run")
    assert len(open_run(tmp_path / "run").missing) == 8
    for number in (1, 2):
        make(tmp_path / "none", f"{number}/2", **picky)
    for part in (tmp_path / "none" / "parts").iterdir():
        path = part / JOURNAL
        entries = [_all_missing(entry) for entry in journal.read(path).entries]
        journal.rewrite(path, entries)
    with pytest.raises(JobError, match="no sample has a value: all 16 are missing"):
        join(tmp_path / "none")
    assert not (tmp_path / "none" / MANIFEST).exists()


def _all_missing(entry: Entry) -> Entry:
    return replace(entry, missing={str(index): "no" for index in range(entry.start, entry.stop)})
