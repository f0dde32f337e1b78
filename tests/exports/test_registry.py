"""The verb `export`: what it refuses, and that nothing is left half-written."""

from dataclasses import replace
from pathlib import Path

import pytest

import extractkit
from extractkit import cli
from extractkit.errors import ConfigError, JobError, MissingExtraError, RunDirectoryError
from extractkit.exports import registry
from extractkit.exports.registry import EXPORTERS
from extractkit.runs import manifest
from extractkit.runs.manifest import Status
from extractkit.runs.reader import Run
from tests.runs.trajectory_examples import made


class Files:
    """A format of one file."""

    name = "files"
    summary = "for tests"
    compares = False
    fails = False

    def check(self, run: Run) -> None:
        """Take any run."""

    def write(self, run: Run, directory: Path, note: object, comparison: object) -> None:
        (directory / "file").write_text("text", "utf-8")
        if self.fails:
            raise JobError("the disk is full")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(registry, "EXPORTERS", {**EXPORTERS, "files": Files()})
    return made(tmp_path / "run").path


def test_a_directory_appears_when_it_is_whole(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Files, "fails", True)
    with pytest.raises(JobError, match="the disk is full"):
        extractkit.export(run, "files")
    assert [path.name for path in run.parent.iterdir()] == ["run"]
    monkeypatch.setattr(Files, "fails", False)
    assert extractkit.export(run, "files") == run.with_name("run.files")
    assert [path.name for path in run.with_name("run.files").iterdir()] == ["file"]


def test_places_that_are_taken_or_inside_the_run_are_refused(run: Path) -> None:
    taken = run.with_name("taken")
    taken.mkdir()
    with pytest.raises(ConfigError, match=r"^output='.*taken' exists\. Choose another name, or"):
        extractkit.export(run, "files", taken)
    with pytest.raises(ConfigError, match=r"^output='.*' is inside the run, whose files do not"):
        extractkit.export(run, "files", run / "inside")
    with pytest.raises(ConfigError, match=r"is not a directory\. Make it first$"):
        extractkit.export(run, "files", run.parent / "no" / "where")


def test_an_unknown_format_is_refused_with_those_that_exist(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"^to='tensorbord' is not a format of export\. Avail"):
        extractkit.export(run, "tensorbord")


def test_an_unfinished_run_is_refused_with_the_command_that_finishes_it(run: Path) -> None:
    manifest.write(run, replace(manifest.read(run), status=Status.INTERRUPTED))
    with pytest.raises(RunDirectoryError, match=r"Finish it: extractkit resume .*run$"):
        extractkit.export(run, "files")
    assert not run.with_name("run.files").exists()


def test_a_missing_package_is_named_with_its_command(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"^export --to tensorboard needs tensorboard, "):
        extractkit.export(run, "tensorboard")


def test_the_command_prints_the_directory(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(["export", str(run), "--to", "files"]) == cli.DONE
    assert capsys.readouterr().out == f"{run}.files\n"
    with pytest.raises(ConfigError, match=r"^export: --to is missing\. Available: "):
        cli.execute(["export", str(run)])
