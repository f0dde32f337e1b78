"""Old names of keys and verbs are answered with the new name and the whole corrected command."""

from pathlib import Path

import pytest

import extractkit
from extractkit import cli
from extractkit.errors import ConfigError, RunDirectoryError
from tests.cli.called import Program


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            ["model=keras", "model.path=a b.keras", "runtime.shards=1/2", "--trust", "mine"],
            "runtime.shards is now runtime.part. Write: extractkit model=keras "
            "'model.path=a b.keras' runtime.part=1/2 --trust mine",
        ),
        (
            ["plan", "model=bert", "+runtime.shards=1/2"],
            "runtime.shards is now runtime.part. Write: extractkit plan model=bert "
            "+runtime.part=1/2",
        ),
        (
            ["-m", "model=bert", "runtime.shards=1/2,2/2"],
            "runtime.shards is now runtime.part. Write: extractkit -m model=bert "
            "runtime.part=1/2,2/2",
        ),
    ],
)
def test_on_the_command_line(typed: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cli.execute(typed)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["finalize", "runs/a b"], "extractkit join 'runs/a b'"),
        (["--trust", "mine", "finalize", "r"], "extractkit --trust mine join r"),
        (["finalize", "--help"], "extractkit join --help"),
        (["finalize"], "extractkit join"),
    ],
)
def test_a_verb(typed: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cli.execute(typed)
    assert str(caught.value) == f"finalize is now join. Write: {message}"


def test_what_has_the_old_name_of_a_verb_can_be_named(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="/finalize does not exist"):
        cli.execute(["show", str(tmp_path / "finalize")])
    with pytest.raises(RunDirectoryError, match="/nowhere does not exist"):
        cli.execute(["--trust", "finalize", "join", str(tmp_path / "nowhere")])


def test_a_function() -> None:
    message = r"^extractkit\.finalize is now extractkit\.join\. Write: extractkit\.join\(…\)$"
    with pytest.raises(AttributeError, match=message):
        extractkit.finalize  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("mark", ["", "+", "++"])
def test_in_python(mark: str) -> None:
    with pytest.raises(ConfigError) as caught:
        extractkit.extract(["model=bert", f"{mark}runtime.shards=1/2"])
    assert str(caught.value) == "runtime.shards is now runtime.part. Write: runtime.part=1/2"


def test_in_a_file(program: Program, place: Path) -> None:
    (place / "my" / "experiment").mkdir()
    written = "# @package _global_\nruntime:\n  shards: 1/2\n"
    (place / "my" / "experiment" / "mine.yaml").write_text(written)
    done = program("model=bert", "experiment=mine")
    message = "runtime.shards is now runtime.part. Write: runtime.part=1/2"
    assert (done.returncode, done.stderr) == (cli.MISTAKEN, f"extractkit: {message}\n")
