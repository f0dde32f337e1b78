"""Runs made to hold their reader up, or to lead it to files outside: pipes, links, other names."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

import numpy as np
import pytest

import extractkit
from extractkit.core.job import Job
from extractkit.engine import execute
from extractkit.errors import ConfigError, ExtractkitError, JobError
from extractkit.runs import manifest
from extractkit.testing.reference import ReferenceModel

LIVE = {"model": ReferenceModel(), "inputs": ["abc", "z", "de", "fgh", "ij"]}
SELECTED = ["selectors=[layers,weights]", "runtime.shard_size=2"]
NAMES = (
    *("manifest.json", "journal.jsonl", "samples.jsonl", "tensors.h5", "extractkit.log", ".lock"),
    *(".hydra/config.yaml", "shards/constants.h5", "shards/000000002-000000004.h5"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, of which one shard has to be stored again."""
    path = tmp_path_factory.mktemp("made") / "run"
    extractkit.extract(SELECTED, run_dir=path, **LIVE)  # type: ignore[arg-type]
    (path / "shards" / "000000000-000000002.h5").unlink()
    return path


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(made, tmp_path / "run")


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """Whatever waits for a pipe fails."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def findings(path: Path) -> list[str]:
    found = extractkit.verify(path, recompute=9, **LIVE)  # type: ignore[arg-type]
    return [finding.message for finding in found.findings]


def everything(path: Path, into: Path) -> list[str]:
    """What comes of all that can be done with a run: a result, or one message."""
    uses: list[Callable[[], object]] = [
        lambda: findings(path),
        lambda: [np.asarray(view) for view in extractkit.open(path).values()],
        lambda: list(extractkit.open(path).samples),
        lambda: extractkit.diff(path, path).beyond,
        lambda: extractkit.rerun(path, into, **LIVE).status,  # type: ignore[arg-type]
        lambda: extractkit.resume(path, **LIVE).status,  # type: ignore[arg-type]
    ]
    found = []
    for use in uses:
        try:
            found.append(str(use()))
        except ExtractkitError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_pipe_in_the_place_of_any_file_holds_nobody_up(name: str, run: Path) -> None:
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    found = everything(run, run.with_name("again"))
    assert any(f"{run / name} is not a regular file" in one for one in found), found


@pytest.mark.parametrize("name", NAMES)
def test_no_link_in_the_place_of_a_file_is_followed(name: str, run: Path) -> None:
    outside = run.with_name("outside")
    outside.write_bytes((run / name).read_bytes() if name != ".lock" else b"mine")
    before = outside.read_bytes()
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(outside)
    everything(run, run.with_name("again"))
    assert outside.read_bytes() == before


@pytest.mark.parametrize(
    "damage", [b"", b'{"torn', b"damaged\n{}\n"], ids=["none", "torn", "lines"]
)
def test_other_names_of_its_files_keep_what_they_hold(damage: bytes, run: Path) -> None:
    (run / ".lock").write_text("mine")
    (run / "journal.jsonl").write_bytes((run / "journal.jsonl").read_bytes() + damage)
    outside = run.with_name("outside")
    outside.mkdir()
    kept = {}
    for number, file in enumerate(path for path in run.rglob("*") if path.is_file()):
        (outside / str(number)).hardlink_to(file)
        kept[outside / str(number)] = file.read_bytes()
    assert extractkit.resume(run, **LIVE).status == "finished"  # type: ignore[arg-type]
    assert {path: path.read_bytes() for path in kept} == kept


@pytest.mark.parametrize("name", ["shards", ".hydra"])
def test_a_folder_that_is_a_link_is_named_and_nothing_in_it_changes(name: str, run: Path) -> None:
    outside = run.with_name("outside")
    (run / name).rename(outside)
    (run / name).symlink_to(outside)
    before = {path: path.read_bytes() for path in outside.iterdir()}
    verified, *_, resumed = everything(run, run.with_name("again"))
    for said in (verified, resumed):
        assert f"{run / name} is not a directory but a link" in said
    assert {path: path.read_bytes() for path in outside.iterdir()} == before


def test_a_run_sends_nobody_to_a_ray_cluster(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = manifest.read(run)
    runtime = {**as_mapping(found.job_resolved["runtime"]), "engine": "ray", "ray_address": "h:1"}
    resolved = {**found.job_resolved, "runtime": runtime}
    manifest.write(run, replace(found, job_resolved=resolved))
    again = run.with_name("again")
    uses: list[Callable[..., object]] = [
        lambda **given: extractkit.resume(run, **LIVE, **given),
        lambda **given: extractkit.rerun(run, again, **LIVE, **given),
    ]
    reached: list[str | None] = []

    def hired(job: Job, note: object) -> NoReturn:
        reached.append(job.runtime.ray_address)
        raise JobError("reached")

    monkeypatch.setattr(execute, "hired", hired)
    for use in uses:
        with pytest.raises(ConfigError) as caught:
            use()
        assert str(caught.value).startswith("runtime.ray_address='h:1' is refused: a file ")
        with pytest.raises(JobError, match="reached"):
            use(trust=["runtime.ray_address"])
    assert reached == ["h:1", "h:1"]
    assert any("is missing" in message for message in findings(run))  # computed in this process


def as_mapping(value: object) -> Mapping[str, object]:
    assert isinstance(value, Mapping)
    return value
