"""What `extractkit verify` shows, and its document."""

import io
import json

from extractkit.display import render
from extractkit.display.checks import verdict, verify_overview
from extractkit.runs.checking import Check, Finding, Verification
from extractkit.runs.manifest import Status
from tests.display.examples import EVIL, SHOWN_EVIL

SOUND = Verification(
    "out/run",
    Status.FINISHED,
    (
        Check.of("manifest", "2 tensors, 48 samples, by hdf5"),
        Check.of("shards", "2 files"),
        Check.of("other files", "1 found", notes=["notes.txt: not of this run"]),
    ),
)
DAMAGED = Verification(
    "out/run",
    Status.FAILED,
    (
        Check.of("manifest", "2 tensors, 48 samples, by hdf5", notes=["the run is not finished"]),
        Check.of(
            "shards",
            "2 files",
            [
                Finding(
                    "shards/constants.h5", "out/run/shards/constants.h5 is missing", "constants"
                ),
                Finding("shards/b.h5", "out/run/shards/b.h5 is damaged", "b"),
            ],
        ),
        Check.not_made("samples", "samples.jsonl is damaged or missing"),
        Check.of("values", "3 tensors", [Finding("a.h5", "out/run/a.h5, 'x': no", "a", "x")]),
    ),
)


def shown(found: Verification) -> list[str]:
    return render(verify_overview(found), io.StringIO()).splitlines()


def test_a_sound_run_is_summed_up_in_a_line() -> None:
    assert shown(SOUND) == [
        "out/run",
        "",
        "check        outcome  of what",
        "manifest     ok       2 tensors, 48 samples, by hdf5",
        "shards       ok       2 files",
        "other files  ok       1 found",
        "",
        "other files: notes.txt: not of this run",
        "",
        "verified: 3 checks, nothing wrong",
    ]


def test_everything_that_is_wrong_is_shown() -> None:
    assert shown(DAMAGED) == [
        "out/run",
        "",
        "check     outcome      of what",
        "manifest  ok           2 tensors, 48 samples, by hdf5",
        "shards    failed       2 files",
        "samples   not checked  samples.jsonl is damaged or missing",
        "values    failed       3 tensors",
        "",
        "out/run/shards/constants.h5 is missing",
        "out/run/shards/b.h5 is damaged",
        "out/run/a.h5, 'x': no",
        "manifest: the run is not finished",
        "",
        "not verified: 3 findings in shards, values; not checked: samples",
    ]


def test_a_line_for_each_kind_of_finding() -> None:
    """Findings that differ by their numbers or tensors alone are of one kind."""
    names = [f"{n:09}-{n + 2:09}" for n in range(0, 8, 2)]
    shards = [Finding(n, f"out/{n}.state.npz is missing from its run", n) for n in names]
    shards += [Finding(n, f"out/{n}.h5: {n[-1]} bytes", n) for n in names]
    values = [Finding("a.h5", f"out/a.h5, {tensor!r}: no", "a", tensor) for tensor in "xyz"]
    checks = (Check.of("shards", "8 files", shards), Check.of("values", "3 tensors", values))
    assert shown(Verification("run", None, checks))[-5:] == [
        "out/000000000-000000002.state.npz is missing from its run (first of 4; --json lists them "
        "all)",
        "out/000000000-000000002.h5: 2 bytes (first of 4; --json lists them all)",
        "out/a.h5, 'x': no (first of 3; --json lists them all)",
        "",
        "not verified: 11 findings in shards, values",
    ]


def test_very_many_kinds_are_counted() -> None:
    findings = [Finding("a", f"file {'a' * n} is missing") for n in range(150)]
    lines = shown(Verification("run", None, (Check.of("shards", "150 files", findings),)))
    assert f"file {'a' * 99} is missing" in lines
    assert f"file {'a' * 100} is missing" not in lines
    assert lines[-3:] == [
        "… and 50 more kinds; --json lists them all",
        "",
        "not verified: 150 findings in shards",
    ]


def test_very_many_notes_are_counted() -> None:
    notes = [f"{n}.txt: not of this run" for n in range(30)]
    lines = shown(Verification("run", None, (Check.of("other files", "30 found", notes=notes),)))
    assert lines[-3] == "other files: … and 10 more; --json lists them all"


def test_names_cannot_control_the_terminal() -> None:
    evil = Check.of(EVIL, EVIL, [Finding(EVIL, EVIL, EVIL, EVIL)], [EVIL])
    found = Verification(EVIL, None, (evil, Check.not_made(EVIL, EVIL)))
    lines = shown(found)
    assert lines.count(SHOWN_EVIL) == 2  # the run and the finding
    assert all(character.isprintable() for line in lines for character in line)
    assert SHOWN_EVIL in str(verdict(found))


def test_the_document_holds_everything() -> None:
    document = json.loads(json.dumps(DAMAGED.to_json()))
    assert {key: document[key] for key in ("schema", "failed", "run", "status")} == {
        "schema": 1,
        "failed": True,
        "run": "out/run",
        "status": "failed",
    }
    assert [check["outcome"] for check in document["checks"]] == [
        "ok",
        "failed",
        "not checked",
        "failed",
    ]
    assert document["checks"][3]["findings"] == [
        {"file": "a.h5", "message": "out/run/a.h5, 'x': no", "shard": "a", "tensor": "x"}
    ]
    assert SOUND.to_json()["failed"] is False


def test_what_was_not_checked_is_not_wrong() -> None:
    assert not Verification("run", None, (Check.not_made("outputs", "no reason"),)).failed
