"""Runs of earlier schemas that this code is asked to resume, or to repeat."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import extractkit
from extractkit import cli
from extractkit.config import plain_data
from extractkit.core.digests import Algorithm
from extractkit.engine import execute, identity
from extractkit.errors import RunDirectoryError
from extractkit.runs import manifest as manifests
from extractkit.runs import same_job
from extractkit.runs.environment import VALUE_PACKAGES, VALUES_VERSION, package_versions
from extractkit.runs.journal import read as read_journal
from extractkit.runs.manifest import SCHEMA, Status
from extractkit.runs.statistics import RESULTS
from tests.golden.make_runs import HOST
from tests.golden.test_runs import FOLDERS, RUNS, bias, check, kernel, runs

TRUST = ["linear"]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files that the runs' jobs name."""
    weights = {"kernel": np.float32(kernel(0)), "bias": np.float32(bias(0))}
    named = {f"sequential/hidden/{name}": value for name, value in weights.items()}
    save_file(named, tmp_path / "step_0.safetensors")
    monkeypatch.chdir(tmp_path)
    # Its paths count from the directory where it was made, which may exist on this machine.
    monkeypatch.setattr(plain_data, "relocated", lambda entries, directory: entries)
    monkeypatch.syspath_prepend(str(RUNS.parent))
    return tmp_path


def contents(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def other_packages(run: Path) -> list[str]:
    """What the message says of libraries that are not those of the run."""
    before, now = manifests.read(run).versions, package_versions()
    return [
        f"the version of {name}: {before.get(name)} was recorded, {now.get(name)} is found"
        for name in VALUE_PACKAGES
        if before.get(name) != now.get(name)
    ]


OF_OTHER_VALUES = [
    folder
    for folder in FOLDERS
    if manifests.read(RUNS / folder / "interrupted").values_version != VALUES_VERSION
]


@pytest.mark.parametrize("folder", OF_OTHER_VALUES)
def test_a_run_of_another_values_version_is_refused_and_left_as_it_is(
    folder: str, tmp_path: Path
) -> None:
    run = RUNS / folder / "interrupted"
    recorded = manifests.read(run).values_version
    run = Path(shutil.copytree(run, tmp_path / "run"))
    before = contents(run)
    differ = f"extractkit's values version: {recorded} was recorded, {VALUES_VERSION} is found"
    with pytest.raises(RunDirectoryError) as error:
        extractkit.resume(run)
    assert str(error.value) == (
        f"{run} cannot be resumed: its values would not be those of one job. "
        f"{'; '.join([differ, *other_packages(run)])}. Install the recorded versions, or compute "
        f"every sample anew: extractkit rerun {run}. What is committed stays readable: "
        f"extractkit show {run}"
    )
    assert contents(run) == before


@pytest.mark.parametrize("folder", ["schema-2", "schema-5"])
def test_another_library_is_named(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(RUNS / folder / "interrupted", tmp_path / "run"))
    before = contents(run)
    for module in (identity, same_job):
        monkeypatch.setattr(module, "VALUES_VERSION", 0)
    now = {**manifests.read(run).versions, "numpy": "1.0", "extractkit": "9.0", "protobuf": "1.0"}
    for module in (identity, same_job):
        monkeypatch.setattr(module, "package_versions", lambda *names: now)
    with pytest.raises(RunDirectoryError) as error:
        extractkit.resume(run)
    found = "the version of numpy: 2.4.6 was recorded, 1.0 is found. Install"
    assert f"would not be those of one job. {found}" in str(error.value)
    assert contents(run) == before


@runs("finished", "joined", "missing", "trajectory")
def test_a_finished_run_is_left_alone_whatever_the_versions(run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run, tmp_path / "run"))
    before = contents(run)
    assert extractkit.resume(run).status is Status.FINISHED
    assert contents(run) == before


def test_a_finished_run_of_an_older_schema_that_is_damaged_is_not_mended(tmp_path: Path) -> None:
    run = Path(shutil.copytree(RUNS / "schema-3" / "finished", tmp_path / "run"))
    (run / "shards" / "constants.npz").unlink()
    before = contents(run)
    with pytest.raises(RunDirectoryError, match="extractkit's values version: 0 was recorded"):
        extractkit.resume(run)
    assert contents(run) == before


@pytest.mark.parametrize(
    ("folder", "rows"),
    [
        ("schema-6", 1),
        ("schema-7", 2),
        ("schema-8", 2),
        ("schema-9", 2),
        ("schema-10", 2),
        ("schema-11", 2),
        ("schema-12", 2),
        ("schema-13", 2),
    ],
)
def test_an_interrupted_run_of_these_schemas_is_resumed(
    folder: str, rows: int, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the values version is the same: here, as if it had never been raised."""
    run = Path(shutil.copytree(RUNS / folder / "interrupted", job / "run"))
    if differ := other_packages(run):
        pytest.skip(f"only the libraries of that time may resume it: {'; '.join(differ)}")
    for module in (identity, same_job):
        monkeypatch.setattr(module, "VALUES_VERSION", manifests.read(run).values_version)
    resumed = extractkit.resume(run, trust=TRUST)
    check(resumed)
    assert resumed.status is Status.FINISHED
    assert manifests.read(run) == resumed.manifest
    assert f'"schema": {SCHEMA}' in (run / "manifest.json").read_text("utf-8")
    assert resumed.manifest.samples_schema == rows
    whole = read_journal(RUNS / folder / "finished" / "journal.jsonl")
    assert resumed.journal.digests() == whole.digests()
    assert resumed.manifest.digests is Algorithm.SHA256
    files = [*resumed.manifest.files, *(one for e in resumed.journal.entries for one in e.stored)]
    assert {one.digest.algorithm for one in files} == {Algorithm.SHA256}
    assert extractkit.verify(run).failed is False


@pytest.mark.parametrize(
    ("folder", "name", "results"),
    [
        ("schema-9", "statistics", [RESULTS]),
        ("schema-10", "statistics", [RESULTS]),
        ("schema-11", "statistics", [RESULTS]),
        ("schema-11", "gradients", []),
        ("schema-12", "statistics", [RESULTS]),
        ("schema-12", "gradients", []),
        ("schema-13", "statistics", [RESULTS]),
        ("schema-13", "gradients", []),
    ],
)
def test_an_interrupted_run_of_other_requests_is_resumed(
    folder: str, name: str, results: list[str], job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statistics have files of their own beside the shards."""
    stored = RUNS / folder
    run = Path(shutil.copytree(stored / f"{name}_interrupted", job / "run"))
    if differ := other_packages(run):
        pytest.skip(f"only the libraries of that time may resume it: {'; '.join(differ)}")
    for module in (identity, same_job):
        monkeypatch.setattr(module, "VALUES_VERSION", manifests.read(run).values_version)
    monkeypatch.setattr(execute, "host", lambda: dict(HOST))
    resumed = extractkit.resume(run, trust=TRUST)
    whole = manifests.read(stored / name)
    assert resumed.manifest.identity == whole.identity
    assert resumed.journal.digests() == read_journal(stored / name / "journal.jsonl").digests()
    for file in results:
        assert (run / file).read_bytes() == (stored / name / file).read_bytes()
    assert extractkit.verify(run).failed is False


@pytest.mark.parametrize("folder", ["schema-1", "schema-3"])
def test_the_advice_of_that_message_works(folder: str, job: Path) -> None:
    run = Path(shutil.copytree(RUNS / folder / "interrupted", job / "run"))
    assert cli.execute(["show", str(run)]) == 0
    again = extractkit.rerun(run, run_dir=job / "again", trust=TRUST)
    check(again)
