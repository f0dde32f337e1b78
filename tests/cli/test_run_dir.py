"""`run_dir=DIR` names the directory of a run, and with `-m` that of a sweep."""

from pathlib import Path

import pytest

import extractkit
from extractkit import cli
from extractkit.commands.arguments import is_sweep
from extractkit.config import with_run_dir
from extractkit.errors import ConfigError
from extractkit.testing.reference import ReferenceModel
from tests.cli.called import Program

LAYERS = ("model=reference", "selectors=layers")


@pytest.mark.parametrize("spelling", ["run_dir", "hydra.run.dir"])
def test_a_run(spelling: str, program: Program, place: Path) -> None:
    done = program(*LAYERS, f"{spelling}='a b'")
    assert (done.returncode, done.stdout) == (cli.DONE, f"{place}/a b\n")


@pytest.mark.parametrize("spelling", ["run_dir", "hydra.sweep.dir"])
def test_a_sweep(spelling: str, program: Program, place: Path) -> None:
    done = program(*LAYERS, "-m", f"{spelling}=s", "inputs.limit=1,2")
    assert (done.returncode, done.stdout) == (cli.DONE, f"{place}/s/0\n{place}/s/1\n{place}/s\n")


@pytest.mark.parametrize(
    ("arguments", "swept"),
    [
        (["model=bert", "-m"], True),
        (["--multirun"], True),
        (["--multi"], True),
        (["hydra.mode=MULTIRUN"], True),
        (["hydra.mode=RUN", "--", "a=-m"], False),
        (["--config-dir", "multi"], False),
    ],
)
def test_what_is_a_sweep(arguments: list[str], swept: bool) -> None:
    assert is_sweep(arguments) is swept


@pytest.mark.parametrize(
    "given",
    [
        ["run_dir=a", "hydra.run.dir=b"],
        ["hydra.run.dir=b", "run_dir=a"],
        ["run_dir=a", "hydra.sweep.dir=a"],
        ["run_dir=a", "run_dir=a"],
    ],
)
@pytest.mark.parametrize("verb", [[], ["-m"], ["plan"], ["rerun", "r"]])
def test_a_directory_given_twice(given: list[str], verb: list[str]) -> None:
    job = [] if "rerun" in verb else ["model=bert"]
    with pytest.raises(ConfigError) as caught:
        cli.execute([*verb, *job, *given])
    message = f"the run directory is given twice: {' and '.join(given)}. Give one"
    assert str(caught.value) == message


def test_no_directory() -> None:
    with pytest.raises(ConfigError, match=r"^run_dir is empty\. Give a directory: run_dir="):
        cli.execute(["model=bert", "run_dir="])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("a,b", "run_dir=a,b gives several values. Give one directory: 'run_dir=\"a,b\"'"),
        ("(a", "Quote its value: 'run_dir=\"(a\"'"),
    ],
)
def test_a_directory_that_has_to_be_quoted(given: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cli.execute(["model=bert", f"run_dir={given}"])
    assert message in str(caught.value)
    assert "hydra.run.dir" not in str(caught.value)


@pytest.mark.parametrize("given", [""""a it's b\"""", "'a it\\'s b'"])
def test_rerun_reads_a_directory_as_run_does(given: str, program: Program, place: Path) -> None:
    first = program(*LAYERS, f"run_dir={given}")
    assert (first.returncode, first.stdout) == (cli.DONE, f"{place}/a it's b\n")
    again = given.replace("b", "c")
    done = program("rerun", f"{place}/a it's b", f"run_dir={again}")
    assert (done.returncode, done.stdout) == (cli.DONE, f"{place}/a it's c\n")
    for wrong, message in (
        ("a it's c", "Quote its value: 'run_dir=\"a it'\"'\"'s c\"'"),
        ("a,b", "run_dir=a,b gives several values. Give one directory: 'run_dir=\"a,b\"'"),
    ):
        refused = program("rerun", f"{place}/a it's b", f"run_dir={wrong}")
        assert refused.returncode == cli.MISTAKEN
        assert message in refused.stderr


def test_hydras_own_keys_are_left_to_hydra() -> None:
    given = ["hydra.run.dir=a", "hydra.sweep.dir=b", "model=bert"]
    assert with_run_dir(given, swept=True) == given


def test_in_python(tmp_path: Path) -> None:
    given = ["+selectors.one.path=embedding:output", f"run_dir={tmp_path}/here"]
    made = extractkit.extract(given, model=ReferenceModel(), inputs=["a"])
    assert made.path == tmp_path / "here"
    with pytest.raises(ConfigError, match=r"^the run directory is given twice: "):
        extractkit.extract(given, model=ReferenceModel(), inputs=["a"], run_dir=tmp_path / "there")


def test_a_file_cannot_give_it(program: Program, place: Path) -> None:
    (place / "my" / "experiment").mkdir()
    written = "# @package _global_\nrun_dir: runs/theirs\n"
    (place / "my" / "experiment" / "mine.yaml").write_text(written)
    done = program("model=bert", "experiment=mine")
    assert done.returncode == cli.MISTAKEN
    assert "run_dir does not exist." in done.stderr
