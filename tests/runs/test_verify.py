"""Whatever is changed in a run is found and named, and everything else is still looked at."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

from extractkit.core.digests import PREFERRED, Digest
from extractkit.core.shards import CONSTANTS_SHARD
from extractkit.errors import ConfigError, RunDirectoryError
from extractkit.runs import JOURNAL, LOCK, LOG, MANIFEST, SAMPLES, journal
from extractkit.runs import manifest as manifests
from extractkit.runs.checking import Check, Outcome, Verification
from extractkit.runs.checking.verification import IntactRun, verify
from extractkit.runs.environment import Volatile, now
from extractkit.runs.files import StoredFile, origin
from extractkit.runs.manifest import Manifest
from extractkit.runs.reader import open_run
from extractkit.runs.schema import canonical
from tests.runs.bit_flips import Flip, found
from tests.runs.examples import POOLED, SHARDS, finished_run, record

FLIPS = 150

CONFIG = ".hydra/config.yaml"


def add_config_and_log(path: Path) -> None:
    """What `begun` and the run's log leave in a real run."""
    (path / ".hydra").mkdir()
    (path / CONFIG).write_text("model: mine\n")
    (path / LOG).write_text("a line\n")
    recorded = manifests.read(path)
    files = (*recorded.files, StoredFile.on_disk(path, CONFIG, by=PREFERRED))
    log = StoredFile.on_disk(path, LOG, by=PREFERRED)
    volatile = replace(recorded.volatile, log=log)
    manifests.write(path, replace(recorded, files=files, volatile=volatile))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with every kind of file."""
    path = finished_run(tmp_path_factory.mktemp("sound") / "run", ("hdf5", "npz")).path
    add_config_and_log(path)
    return path


@pytest.fixture
def run(sound: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(sound, tmp_path / "run"))


def files(path: Path) -> list[str]:
    return sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())


def named(verification: Verification) -> set[str | None]:
    return {finding.file for finding in verification.findings}


def messages(verification: Verification) -> str:
    return "\n".join(finding.message for finding in verification.findings)


def check(verification: Verification, name: str) -> Check:
    (one,) = (check for check in verification.checks if check.name == name)
    return one


def change(path: Path, **fields: object) -> None:
    """Another manifest, with a checksum as usual."""
    manifests.write(path, replace(manifests.read(path), **fields))  # type: ignore[arg-type]


def test_nothing_is_wrong_with_a_run_as_it_was_written(sound: Path) -> None:
    verification = verify(sound)
    assert not verification.failed
    assert {one.name: (one.outcome, one.detail, one.notes) for one in verification.checks} == {
        "manifest": (Outcome.OK, "5 tensors, 8 samples, by hdf5 and npz", ()),
        "files": (Outcome.OK, "4 files", ()),
        "journal": (Outcome.OK, "4 shards", ()),
        "shards": (Outcome.OK, "8 files", ()),
        "samples": (Outcome.OK, "8 rows", ()),
        "values": (Outcome.OK, "26 tensors in 4 shards", ()),
        "other files": (Outcome.OK, "0 found", ()),
        "given files": (Outcome.OK, "0 paths", ()),
    }


def test_verifying_changes_nothing(run: Path) -> None:
    before = {
        name: ((run / name).read_bytes(), (run / name).stat().st_mtime_ns) for name in files(run)
    }
    verify(run)
    assert before == {
        name: ((run / name).read_bytes(), (run / name).stat().st_mtime_ns) for name in files(run)
    }


def test_tensorflow_is_not_needed() -> None:
    code = (
        "import sys, extractkit.runs.checking.verification, extractkit.display.checks; "
        "print([m for m in ('tensorflow', 'keras', 'hydra') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ---- files


def remove(path: Path) -> None:
    path.unlink()


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def link(path: Path) -> None:
    """The same content, but behind a link that leads out of the run."""
    elsewhere = path.parents[2] / "elsewhere"
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("damage", [remove, shorten, lengthen, empty, zero])
def test_every_damaged_file_is_named(run: Path, damage: Callable[[Path], None]) -> None:
    for name in files(run):
        if (damage, name) == (lengthen, LOG):  # a log goes on
            continue
        before = (run / name).read_bytes()
        damage(run / name)
        verification = verify(run)
        assert verification.failed
        assert named(verification) == {name}, name
        assert str(run / name) in messages(verification)
        (run / name).write_bytes(before)
    assert not verify(run).failed


def test_a_shard_behind_a_link_is_not_read(run: Path) -> None:
    name = f"shards/{SHARDS[0].key}.h5"
    link(run / name)
    verification = verify(run)
    assert named(verification) == {name}
    assert "is not a regular file" in messages(verification)
    assert check(verification, "values").detail == "22 tensors in 4 shards"


def test_shards_in_a_linked_directory_are_not_read(run: Path) -> None:
    (run / "shards").rename(run.with_name("elsewhere"))
    (run / "shards").symlink_to(run.with_name("elsewhere"))
    verification = verify(run)
    assert named(verification) == {"shards"}
    assert messages(verification) == (
        f"{run / 'shards'} is not a directory but a link: it may lead out of its run. Put the "
        f"directory itself in its place"
    )
    assert check(verification, "values").detail == "0 tensors in 0 shards"
    with pytest.raises(RunDirectoryError, match="shards is not a directory but a link"):
        np.asarray(open_run(run)[POOLED])


def test_a_journal_with_a_line_longer_than_any_is_a_finding(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extractkit.runs.files.LONGEST_LINE", 1 << 20)
    with (run / JOURNAL).open("r+b") as file:
        file.truncate(50 << 30)
    verification = verify(run)
    assert "its line 5 holds more than 1,048,576 bytes" in messages(verification)
    assert named(verification) == {JOURNAL}


def test_everything_is_named_at_once(run: Path) -> None:
    damaged = [name for name in files(run) if name != MANIFEST]
    for name in damaged:
        if name != JOURNAL:
            shorten(run / name)
    lines = (run / JOURNAL).read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"start":0', b'"start":1')
    lines[3] = lines[3].replace(b"npz", b"npy")
    (run / JOURNAL).write_bytes(b"".join(lines))
    verification = verify(run)
    # What the journal lost can no longer be held against anything.
    lost = {f"shards/{shard.key}{end}" for shard in SHARDS[::2] for end in (".h5", ".npz")}
    assert named(verification) == set(damaged) - lost
    assert f"{run / JOURNAL}, line 2 is damaged" in messages(verification)
    assert f"{run / JOURNAL}, line 4 is damaged" in messages(verification)
    assert {note.partition(":")[0] for note in check(verification, "other files").notes} == lost


def test_shards_are_looked_at_where_the_manifest_is_damaged(run: Path) -> None:
    shorten(run / MANIFEST)
    shorten(run / "shards/constants.npz")
    verification = verify(run)
    assert verification.status is None
    assert named(verification) == {MANIFEST, "shards/constants.npz"}


@pytest.mark.parametrize("seed", range(3))
def test_every_flipped_bit_is_found_and_its_file_named(run: Path, seed: int) -> None:
    random = Random(seed)
    for _ in range(FLIPS // 3):
        flip = Flip.drawn(run, random)
        assert found(run, flip), flip
    assert not verify(run).failed


def test_other_files_are_reported_and_do_no_harm(run: Path) -> None:
    (run / "notes.txt").write_text("mine")
    (run / "manifest.json.tmp").write_text("{")
    (run / LOCK).write_text("")
    (run / "there").symlink_to("/")
    verification = verify(run)
    assert not verification.failed
    assert check(verification, "other files").notes == (
        f"{LOCK}: a process is at work on the run, or was killed",
        "manifest.json.tmp: left by a process that was killed while writing",
        "notes.txt: not of this run",
        "there: not of this run",
    )


def test_a_file_outside_of_the_run_is_not_looked_at(run: Path) -> None:
    (run.parent / "secret").write_text("a")
    change(
        run,
        files=(
            *manifests.read(run).files,
            StoredFile("../secret", Digest("sha256:" + "0" * 64), 1),
        ),
    )
    assert named(verify(run)) == {"../secret"}
    assert "outside its run" in messages(verify(run))


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        RunDirectoryError, match=r"is not a run directory: it holds no manifest\.json"
    ):
        verify(tmp_path)


def test_a_sink_that_nobody_trusts_is_refused(run: Path) -> None:
    change(run, job_resolved={"sinks": {"hdf5": {"_target_": "os.system"}}})
    with pytest.raises(ConfigError, match=r"os\.system"):
        verify(run)


def test_a_manifest_without_sinks_is_a_finding(run: Path) -> None:
    change(run, job_resolved={})
    assert named(verify(run)) == {MANIFEST}


# ---- the journal


def test_a_line_of_the_journal_that_is_gone_is_reported(run: Path) -> None:
    lines = (run / JOURNAL).read_bytes().splitlines(keepends=True)
    (run / JOURNAL).write_bytes(b"".join(lines[:2] + lines[3:]))
    assert messages(verify(run)) == f"{run / JOURNAL} lacks shard {SHARDS[1].key!r}"


def test_a_shard_that_was_not_planned_is_reported(run: Path) -> None:
    plan = manifests.read(run).plan
    assert plan is not None
    change(run, plan=replace(plan, sizes=((2, 4),)))
    assert messages(verify(run)).splitlines() == [
        *(
            f"{run / JOURNAL} lists shard {shard.key!r}, which was not planned"
            for shard in SHARDS[1:]
        ),
        f"{run / JOURNAL} lacks shard '000000004-000000008'",
    ]


def test_a_shard_that_was_stored_twice_counts_once(run: Path) -> None:
    lines = (run / JOURNAL).read_text().splitlines(keepends=True)
    (run / JOURNAL).write_text("".join([lines[2], *lines]))
    assert not verify(run).failed


def test_sums_in_the_manifest_are_held_against_the_journal(run: Path) -> None:
    actual = manifests.read(run).actual
    assert actual is not None
    change(run, actual=replace(actual, bytes=actual.bytes + 1, missing=1))
    assert messages(verify(run)).splitlines() == [
        f"{run / MANIFEST}: actual.bytes is not the sum over the shards",
        f"{run / MANIFEST}: actual.missing is not the sum over the shards",
    ]


# ---- runs that are not finished


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """Two of three shards are committed."""
    recorder, example = record(tmp_path / "unfinished", shards=SHARDS[:2])
    recorder.fail()
    return example.path


def test_of_an_unfinished_run_what_is_committed_is_looked_at(unfinished: Path) -> None:
    verification = verify(unfinished)
    assert not verification.failed
    assert check(verification, "manifest").notes == (
        "the run is not finished (status: failed), of 4 planned shards",
    )
    assert check(verification, "values").detail == "9 tensors in 3 shards"
    shorten(unfinished / f"shards/{SHARDS[1].key}.h5")
    assert named(verify(unfinished)) == {f"shards/{SHARDS[1].key}.h5"}


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_line_that_was_being_written_does_not_count(unfinished: Path, kept: int) -> None:
    *lines, last = (unfinished / JOURNAL).read_bytes().splitlines(keepends=True)
    (unfinished / JOURNAL).write_bytes(b"".join([*lines, last[:kept]]))
    verification = verify(unfinished)
    assert not verification.failed
    (note,) = check(verification, "journal").notes
    assert note == "its last line was being written when its process ended, and does not count"
    assert check(verification, "other files").notes == (
        f"shards/{SHARDS[1].key}.h5: stored, but not committed, because its process ended before",
    )


def test_a_whole_line_of_an_unfinished_run_is_checked(unfinished: Path) -> None:
    data = (unfinished / JOURNAL).read_bytes()
    for damaged in (data[:-1] + b"\x0b", data[:-3] + b"x" + data[-2:]):
        (unfinished / JOURNAL).write_bytes(damaged)
        assert named(verify(unfinished)) == {JOURNAL}


def test_a_missing_journal_is_reported_where_shards_are_there(unfinished: Path) -> None:
    (unfinished / JOURNAL).unlink()
    assert messages(verify(unfinished)).splitlines() == [
        f"{unfinished / JOURNAL} lacks shard {shard.key!r}"
        for shard in (CONSTANTS_SHARD, *SHARDS[:2])
    ]


def test_a_run_that_has_only_begun_can_be_looked_at(tmp_path: Path) -> None:
    started = Manifest(
        Volatile(now()),
        job_resolved={"sinks": {"hdf5": {"_target_": "extractkit.sinks.hdf5.Hdf5Sink"}}},
    )
    manifests.write(tmp_path, started)
    verification = verify(tmp_path)
    assert not verification.failed
    assert check(verification, "manifest").notes == (
        "the run is not finished (status: started), before its plan",
    )
    assert check(verification, "samples").outcome is Outcome.NOT_CHECKED
    assert check(verification, "given files").outcome is Outcome.NOT_CHECKED


# ---- rows


def rewrite_rows(path: Path, change_row: Callable[[int, dict[str, object]], object]) -> None:
    """Other rows, recorded as if they had been written so."""
    rows = [json.loads(line) for line in (path / SAMPLES).read_text().splitlines()]
    changed = [change_row(index, row) for index, row in enumerate(rows)]
    (path / SAMPLES).write_text("".join(f"{canonical(row)}\n" for row in changed if row))
    kept = [file for file in manifests.read(path).files if file.name != SAMPLES]
    change(path, files=(*kept, StoredFile.on_disk(path, SAMPLES, by=PREFERRED)))


@pytest.mark.parametrize(
    ("changed", "reported"),
    [
        (lambda i, row: None if i == 7 else row, "7 rows for 8 samples"),
        (
            lambda i, row: {**row, "index": 7 - i},
            "8 rows do not match their samples, first row 0",
        ),
        (
            lambda i, row: {**row, "truncated": i == 2},
            "1 samples are marked as cut off, 0 were counted",
        ),
        (
            lambda i, row: {**row, "length": None if i == 3 else 1},
            "7 of 8 samples have a length",
        ),
    ],
)  # fmt: skip
def test_rows_that_are_not_the_samples_are_reported(
    run: Path, changed: Callable[[int, dict[str, object]], object], reported: str
) -> None:
    rewrite_rows(run, changed)
    verification = verify(run)
    assert named(verification) == {SAMPLES}
    assert reported in messages(verification)


# ---- what the job was given


def test_given_files_are_held_against_what_they_held(run: Path, tmp_path: Path) -> None:
    given: dict[str, Path] = {"model.path": tmp_path / "model", "inputs.path": tmp_path / "texts"}
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_text("1 2 3")
    (tmp_path / "texts").write_text("a\nb\n")
    change(run, origins=tuple(origin(key, str(path)) for key, path in given.items()))
    assert check(verify(run), "given files").detail == "2 paths"
    assert not verify(run).failed

    (tmp_path / "model/weights").write_text("1 2 4")
    (tmp_path / "texts").unlink()
    verification = verify(run)
    assert named(verification) == {str(tmp_path / "model")}
    assert messages(verification).splitlines() == [
        f"model.path={tmp_path / 'model'} has changed: its SHA-256 is not the recorded one",
    ]
    assert check(verification, "given files").notes == (
        f"inputs.path={tmp_path / 'texts'} is gone, so it was not checked",
    )


def test_something_else_in_the_place_of_a_given_file_is_a_change(run: Path, tmp_path: Path) -> None:
    given = {"model.path": tmp_path / "model", "inputs.path": tmp_path / "texts"}
    for path in given.values():
        path.write_text("a")
    change(run, origins=tuple(origin(key, str(path)) for key, path in given.items()))
    for path in given.values():
        path.unlink()
    (tmp_path / "model").mkdir()
    os.mkfifo(tmp_path / "texts")
    assert messages(verify(run)).splitlines() == [
        f"model.path={tmp_path / 'model'} has changed: it is a directory without files now",
        f"inputs.path={tmp_path / 'texts'} has changed: it is not a file now",
    ]


# ---- computing again


def test_what_is_computed_again_is_given_what_is_whole(run: Path) -> None:
    shorten(run / f"shards/{SHARDS[0].key}.h5")
    given: list[IntactRun] = []

    def recompute(sound: IntactRun) -> list[Check]:
        given.append(sound)
        return [Check.not_made("recomputed", "not today")]

    verification = verify(run, recompute=recompute)
    assert verification.checks[-1].name == "recomputed"
    entries = journal.read(run / JOURNAL).by_shard()
    (sound,) = given
    assert sound.samples
    assert set(sound.entries) == set(entries)
    stored: Mapping[str, StoredFile] = sound.entries[SHARDS[0]].files
    assert set(stored) == {"npz"}
