"""The command that repeats the job of a run."""

import shlex
from pathlib import Path

import pytest

from extractkit.runs.environment import Volatile
from extractkit.runs.manifest import Manifest
from extractkit.runs.same_job import repeated, unused_beside

HYDRA = """
hydra:
  runtime:
    config_sources:
    - {path: hydra.conf, schema: pkg, provider: hydra}
    - {path: /somewhere/conf, schema: file, provider: main}
    - {path: /home/me/my files, schema: file, provider: command-line}
  job: {config_name: NAME}
  overrides:
    hydra: ['hydra.searchpath=[pkg://mine]', hydra.run.dir=a]
    task: []
"""


def recorded(*given: str, started_in: str | None = None) -> Manifest:
    return Manifest(volatile=Volatile("now", working_directory=started_in), job_given=given)


def hydra_file(run: Path, text: str) -> None:
    (run / ".hydra").mkdir(exist_ok=True)
    (run / ".hydra" / "hydra.yaml").write_text(text)


def test_options_that_say_where_configuration_files_are_stay(tmp_path: Path) -> None:
    hydra_file(tmp_path, HYDRA.replace("NAME", "root"))
    made = repeated(tmp_path, recorded("experiment=mine", "a=[x, y]"), tmp_path / "b")
    assert shlex.split(made) == [
        *("extractkit", "--config-dir", "/home/me/my files", "--config-name", "root"),
        *("hydra.searchpath=[pkg://mine]", "experiment=mine", "a=[x, y]"),
        f"run_dir={tmp_path}/b",
    ]
    hydra_file(tmp_path, HYDRA.replace("NAME", "config"))
    assert "--config-name" not in repeated(tmp_path, recorded(), tmp_path / "b")


@pytest.mark.parametrize(
    "text", ["a: [", "a", "hydra: {runtime: 3}", "{}", "hydra: {job: {}}", "[" * 1000]
)
def test_a_damaged_record_of_hydra_gives_no_options(text: str, tmp_path: Path) -> None:
    hydra_file(tmp_path, text)
    made = repeated(tmp_path, recorded("model=mine"), tmp_path / "b")
    assert made == f"extractkit model=mine run_dir={tmp_path}/b"


def test_changed_overrides_replace_those_with_their_keys(tmp_path: Path) -> None:
    given = recorded("model=mine", "+runtime.seed=1", "runtime.part=1/3", started_in="/else where")
    made = repeated(tmp_path, given, tmp_path / "b", ["runtime.seed=2", "--trust", "mine"])
    assert made == (
        f"cd '/else where' && extractkit model=mine runtime.seed=2 --trust mine "
        f"run_dir={tmp_path}/b"
    )


def test_a_new_directory_is_beside_the_run_or_its_sweep(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    assert unused_beside(run) == tmp_path / "run-2"
    (tmp_path / "run-2").mkdir()
    assert unused_beside(run) == tmp_path / "run-3"
    job = tmp_path / "sweep" / "a" / "0"
    job.mkdir(parents=True)
    (tmp_path / "sweep" / "sweep.json").touch()
    assert unused_beside(job) == tmp_path / "sweep-a-0"
    (tmp_path / "sweep-a-0").mkdir()
    assert unused_beside(job) == tmp_path / "sweep-a-0-2"
