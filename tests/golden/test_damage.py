"""Stored runs of each schema that are damaged, edited or newer: one clear message for each."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from extractkit import cli
from extractkit.errors import RunDirectoryError
from extractkit.runs import journal, sweeps
from extractkit.runs import manifest as manifests
from extractkit.runs.reader import open_run
from extractkit.runs.sweeps.reader import open_sweep
from tests.golden.test_runs import FOLDERS, RUNS, check

SEALED = [name for name in FOLDERS if name != "schema-1"]
"""Manifests of schema 1 have no checksum."""


@pytest.fixture
def copied(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the finished run of one schema."""
    return Path(shutil.copytree(RUNS / request.param / "finished", tmp_path / "run"))


def every(folders: list[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("copied", folders, indirect=True)


def run_command(*arguments: str) -> tuple[int, str]:
    """The exit code of a command, and the message where it was refused."""
    try:
        return cli.execute(arguments), ""
    except RunDirectoryError as error:
        return cli.report(error), str(error)


def flip(path: Path, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(bytes(content))


def canonical(data: object) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def edited(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Change a manifest or an index, and correct its checksum."""
    data = json.loads(path.read_text("utf-8"))
    has_checksum = data.pop("checksum", None) is not None
    change(data)
    if has_checksum:
        data["checksum"] = hashlib.sha256(canonical(data).encode()).hexdigest()
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8")


# ---- one bit


@every(SEALED)
def test_every_flipped_bit_of_a_manifest_is_noticed(copied: Path) -> None:
    path = copied / "manifest.json"
    whole = path.read_bytes()
    draw = random.Random(0)
    version = whole.index(b'"schema": ') + len(b'"schema": ')
    for place in [version, *(draw.randrange(len(whole)) for _ in range(40))]:
        flip(path, place, draw.randrange(8))
        with pytest.raises(RunDirectoryError):
            manifests.read(copied)
        path.write_bytes(whole)


@every(FOLDERS)
def test_every_flipped_bit_of_a_journal_is_noticed(copied: Path) -> None:
    path = copied / "journal.jsonl"
    whole = path.read_bytes()
    draw = random.Random(0)
    for _ in range(40):
        flip(path, draw.randrange(len(whole)), draw.randrange(8))
        with pytest.raises(RunDirectoryError):
            open_run(copied)
        path.write_bytes(whole)


@pytest.mark.parametrize("folder", [name for name in FOLDERS if (RUNS / name / "sweep").exists()])
@pytest.mark.parametrize("name", ["sweep.json", "jobs/0.json"])
def test_every_flipped_bit_of_a_sweep_is_noticed(folder: str, name: str, tmp_path: Path) -> None:
    sweep = Path(shutil.copytree(RUNS / folder / "sweep", tmp_path / "sweep"))
    # Until a sweep is finished its jobs' own records are read.
    edited(sweep / "sweep.json", lambda fields: fields.update(status="started"))
    path = sweep / name
    whole = path.read_bytes()
    draw = random.Random(0)
    for _ in range(40):
        flip(path, draw.randrange(len(whole)), draw.randrange(8))
        with pytest.raises(RunDirectoryError):
            open_sweep(sweep)
        path.write_bytes(whole)


@every(FOLDERS)
def test_commands_name_the_file_with_a_flipped_bit(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = {
        "manifest.json": (b'"schema": ', "manifest.json"),
        "journal.jsonl": (b'"values":"', "journal.jsonl, line 1 is damaged"),
        "shards/000000002-000000004.h5": (b"HDF", "000000002-000000004.h5 is damaged"),
    }
    for name, (before, named) in where.items():
        path = copied / name
        whole = path.read_bytes()
        flip(path, whole.index(before) + len(before), 6)
        code, refused = run_command("verify", str(copied))
        reported = f"{refused}{capsys.readouterr().out}".replace("\n", "")
        assert code == 1, reported
        assert named in reported.replace("  ", "")
        path.write_bytes(whole)
    assert run_command("verify", str(copied))[0] == 0


@every(FOLDERS)
def test_a_command_that_needs_what_is_damaged_is_a_mistake(copied: Path) -> None:
    path = copied / "manifest.json"
    path.write_bytes(path.read_bytes()[:-200])
    for verb in ("show", "resume"):
        code, message = run_command(verb, str(copied))
        assert code == 2
        assert message.startswith(f"{path} is damaged: ")
        assert message.endswith("Restore it, or run the job again")


# ---- edited by hand


@every(SEALED)
def test_an_edited_manifest_has_another_checksum(copied: Path) -> None:
    path = copied / "manifest.json"
    path.write_text(path.read_text("utf-8").replace('"keras"', '"torch"', 1), "utf-8")
    assert run_command("show", str(copied)) == (
        2,
        f"{path} is damaged: its checksum does not match. Restore it, or run the job again",
    )


def unknown(fields: dict[str, object]) -> None:
    fields["colour"] = "red"


def text(fields: dict[str, object]) -> None:
    fields["status"] = 3


def not_a_list(fields: dict[str, object]) -> None:
    fields["tensors"] = "none"


def nothing(fields: dict[str, object]) -> None:
    del fields["plan"]


@every(FOLDERS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unknown, "holds 'colour', which does not exist"),
        (text, ".status is 3"),
        (not_a_list, ".tensors is 'none', which is not a list"),
        (nothing, " lacks 'plan'"),
    ],
)
def test_edited_fields_are_named(
    copied: Path, change: Callable[[dict[str, object]], object], message: str
) -> None:
    edited(copied / "manifest.json", change)
    code, refused = run_command("show", str(copied))
    assert code == 2
    assert message in refused


@every(["schema-1"])
def test_a_manifest_without_a_checksum_is_what_was_written_to_the_byte(copied: Path) -> None:
    path = copied / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text())))
    with pytest.raises(RunDirectoryError, match="is damaged: it is not as it was written"):
        manifests.read(copied)


@every(["schema-1"])
@pytest.mark.parametrize("field", ["actual", "inputs", "model", "volatile", "job_given", "tensors"])
@pytest.mark.parametrize(
    "value",
    [None, 3, [3], {"truncated": "x"}, [{"record": {"scopes": [3]}}], [{"record": {"scopes": 3}}]],
    ids=repr,
)
def test_an_upgrade_expects_nothing_of_a_manifest_without_a_checksum(
    copied: Path, field: str, value: object
) -> None:
    edited(copied / "manifest.json", lambda fields: fields.update({field: value}))
    code, message = run_command("show", str(copied))
    # A model describes itself as it likes, and a run that has not ended has no sums.
    valid = (field, value) in [("model", {"truncated": "x"}), ("actual", None)]
    assert code == (0 if valid else 2)
    assert valid or message.startswith(str(copied / "manifest.json"))


@every(["schema-1"])
def test_the_first_manifests_had_layers_without_names(copied: Path) -> None:
    def nameless(fields: dict[str, object]) -> None:
        for tensor in fields["tensors"]:  # type: ignore[attr-defined]
            for scope in tensor["record"]["scopes"]:
                del scope["name"]

    edited(copied / "manifest.json", nameless)
    run = open_run(copied)
    check(run)
    assert {scope.name for scope in run["hidden:output"].record.scopes} == {""}


@every(["schema-5"])
def test_a_field_of_a_newer_schema_is_refused_in_an_older_one(copied: Path) -> None:
    edited(copied / "manifest.json", lambda fields: fields.update(values_version=1))
    with pytest.raises(
        RunDirectoryError, match="it holds 'values_version', which schema version 5 does not have"
    ):
        manifests.read(copied)


# ---- newer


NEWER = (
    "{at} was written by a newer extractkit: its schema of the {noun} has version {version}, and "
    "this extractkit reads {known}. Update it: pip install -U extractkit"
)


@every(["schema-5"])
def test_a_manifest_of_a_newer_extractkit_is_refused(copied: Path) -> None:
    path = copied / "manifest.json"
    newer = manifests.SCHEMA + 1
    edited(path, lambda fields: fields.update(schema=newer, colour="red"))
    known = f"versions 1 to {manifests.SCHEMA}"
    message = NEWER.format(at=path, noun="manifest", version=newer, known=known)
    for verb in ("show", "resume"):
        assert run_command(verb, str(copied)) == (2, message)


@every(["schema-5"])
def test_a_line_of_a_newer_extractkit_is_refused(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied / "journal.jsonl"
    newer = journal.SCHEMA + 1
    lines = path.read_text("utf-8").splitlines()
    record = {**json.loads(lines[1]), "schema": newer, "colour": "red"}
    del record["checksum"]
    record["checksum"] = hashlib.sha256(canonical(record).encode()).hexdigest()[:16]
    lines[1] = canonical(record)
    path.write_text("\n".join(lines) + "\n", "utf-8")
    known = f"versions 1 to {journal.SCHEMA}"
    message = NEWER.format(at=f"{path}, line 2", noun="journal", version=newer, known=known)
    for read in (
        journal.read,
        lambda at: journal.read(at, salvage=True),
        lambda _: open_run(copied),
    ):
        with pytest.raises(RunDirectoryError) as error:
            read(path)
        assert str(error.value) == message
    assert run_command("verify", str(copied))[0] == 1
    reported = capsys.readouterr().out.replace("\n", "").replace("  ", "")
    assert "was written by a newer extractkit" in reported
    assert "does not hold" not in reported


@pytest.mark.parametrize("version", ["1", True, 0, 4, None])
def test_a_version_that_lines_never_had_is_refused(version: object, tmp_path: Path) -> None:
    record = json.loads((RUNS / "schema-5/finished/journal.jsonl").read_text().splitlines()[0])
    record |= {"schema": version, "state": None}
    del record["checksum"]
    record["checksum"] = hashlib.sha256(canonical(record).encode()).hexdigest()[:16]
    (tmp_path / "journal.jsonl").write_text(f"{canonical(record)}\n")
    with pytest.raises(RunDirectoryError, match=r"line 1 has schema .*, which lines .* never had"):
        journal.read(tmp_path / "journal.jsonl")


@pytest.mark.parametrize(
    ("name", "noun"), [("sweep.json", "sweep index"), ("jobs/1.json", "job record")]
)
def test_a_sweep_of_a_newer_extractkit_is_refused(name: str, noun: str, tmp_path: Path) -> None:
    sweep = Path(shutil.copytree(RUNS / "schema-5" / "sweep", tmp_path / "sweep"))
    # Until a sweep is finished its jobs' own records are read.
    edited(sweep / "sweep.json", lambda fields: fields.update(status="started"))
    newer = sweeps.SCHEMA + 1
    edited(sweep / name, lambda fields: fields.update(schema=newer, colour="red"))
    known = f"versions 1 to {sweeps.SCHEMA}"
    message = NEWER.format(at=sweep / name, noun=noun, version=newer, known=known)
    assert run_command("show", str(sweep)) == (2, message)
    with pytest.raises(RunDirectoryError, match="was written by a newer extractkit"):
        open_sweep(sweep)
