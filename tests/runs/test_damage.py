"""What of a run's files is not as recorded."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from extractkit.runs import manifest as manifests
from extractkit.runs.checking.files import damage
from extractkit.runs.manifest import RunPlan, Status
from tests.runs.examples import SHARDS, finished_run, manifest, record

SHARD = f"shards/{SHARDS[1].key}.h5"


def found(path: Path) -> list[str]:
    return damage(path, manifests.read(path))


def test_nothing_is_found_in_a_whole_run(run_path: Path) -> None:
    finished_run(run_path, sinks=("hdf5", "npz"))
    assert found(run_path) == []


@pytest.mark.parametrize("name", ["samples.jsonl", "tensors.h5", SHARD, "shards/constants.h5"])
@pytest.mark.parametrize("harm", ["missing", "shorter", "changed"])
def test_a_file_that_is_not_as_recorded_is_named_alone(
    name: str, harm: str, run_path: Path
) -> None:
    finished_run(run_path)
    path = run_path / name
    content = path.read_bytes()
    if harm == "missing":
        path.unlink()
    else:
        changed = content[:-1] + (b"" if harm == "shorter" else bytes([content[-1] ^ 1]))
        path.write_bytes(changed)
    (message,) = found(run_path)
    assert str(path) in message
    assert ("is missing" if harm == "missing" else "is damaged") in message


def test_every_damaged_file_is_named(run_path: Path) -> None:
    finished_run(run_path)
    for name in ("samples.jsonl", SHARD, "tensors.h5"):
        (run_path / name).unlink()
    messages = found(run_path)
    assert len(messages) == 3
    assert [
        name in message
        for name, message in zip(("samples.jsonl", "tensors.h5", SHARD), messages, strict=True)
    ] == [True] * 3


def without_line(lines: list[bytes]) -> list[bytes]:
    return lines[:2] + lines[3:]


def torn(lines: list[bytes]) -> list[bytes]:
    return [*lines[:-1], lines[-1][:-3]]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (without_line, [f"lacks shard {SHARDS[1].key!r}"]),
        (torn, ["its last line, number 4, is incomplete", f"lacks shard {SHARDS[2].key!r}"]),
        (lambda lines: [], ["lacks shard 'constants'", *(f"{s.key!r}" for s in SHARDS)]),
        (
            lambda lines: [lines[0][:-3] + b"\n", *lines[1:]],
            ["line 1 is damaged", "lacks shard 'constants'"],
        ),
    ],
)
def test_a_journal_that_does_not_list_what_was_planned_is_reported(
    change: Callable[[list[bytes]], list[bytes]], expected: list[str], run_path: Path
) -> None:
    finished_run(run_path)
    path = run_path / "journal.jsonl"
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    messages = found(run_path)
    assert len(messages) == len(expected)
    for message, part in zip(messages, expected, strict=True):
        assert part in message


def test_of_an_unfinished_run_what_is_committed_is_looked_at(run_path: Path) -> None:
    recorder, _ = record(run_path, shards=SHARDS[:2])
    recorder.fail(Status.INTERRUPTED)
    assert found(run_path) == []
    (run_path / SHARD).write_bytes(b"")
    (message,) = found(run_path)
    assert SHARD in message


def test_a_shard_that_was_not_planned_is_reported(run_path: Path) -> None:
    finished_run(run_path)
    read = manifests.read(run_path)
    smaller = replace(read, plan=RunPlan.of(1, True, ((0, 4), (4, 5))))
    assert damage(run_path, smaller) == [
        f"{run_path / 'journal.jsonl'} lists shard '000000005-000000008', which was not planned"
    ]


def test_a_run_that_names_no_sink_is_reported_and_raises_nothing(run_path: Path) -> None:
    finished_run(run_path)
    messages = damage(run_path, replace(manifests.read(run_path), job_resolved={}))
    assert len(messages) == 1 + len(SHARDS)
    assert all("names no sink" in message for message in messages)


def test_other_files_of_a_shard_than_its_own_are_not_read(run_path: Path) -> None:
    finished_run(run_path)
    with_npz = manifest(sinks=("hdf5", "npz"))
    messages = damage(
        run_path, replace(manifests.read(run_path), job_resolved=with_npz.job_resolved)
    )
    assert len(messages) == 4
    assert "files of hdf5 for samples 0 … 4, but hdf5, npz wrote the run" in messages[1]


def test_a_fifo_in_the_place_of_a_file_is_not_waited_for(run_path: Path) -> None:
    finished_run(run_path)
    (run_path / SHARD).unlink()
    os.mkfifo(run_path / SHARD)
    (message,) = found(run_path)
    assert "is not a regular file" in message
