"""Old names of keys are answered with the new name and the whole corrected command."""

from pathlib import Path

import pytest

import extractkit
from extractkit import cli
from extractkit.errors import ConfigError


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


@pytest.mark.parametrize("mark", ["", "+", "++"])
def test_in_python(mark: str) -> None:
    with pytest.raises(ConfigError) as caught:
        extractkit.extract(["model=bert", f"{mark}runtime.shards=1/2"])
    assert str(caught.value) == "runtime.shards is now runtime.part. Write: runtime.part=1/2"


def test_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "experiment").mkdir()
    written = "# @package _global_\nruntime:\n  shards: 1/2\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(written)
    given = ["model=bert", "experiment=mine", "--config-dir", str(tmp_path)]
    assert cli.execute(given) == cli.MISTAKEN
    message = "runtime.shards is now runtime.part. Write: runtime.part=1/2"
    assert capsys.readouterr().err == f"extractkit: {message}\n"
