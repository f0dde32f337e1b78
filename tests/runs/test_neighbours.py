"""What there is near a path at which no run is found."""

from pathlib import Path

import pytest

from extractkit import cli
from extractkit.errors import RunDirectoryError

LONG = "x" * 300


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with runs, a sweep, and directories that hold neither."""
    monkeypatch.chdir(tmp_path)
    for name in ("runs/first", "runs/second", "runs/kept/third", "day/time", "empty", ".hidden"):
        Path(name).mkdir(parents=True)
    for name in ("runs/first", "runs/second", "runs/kept/third", "day/time"):
        Path(name, "manifest.json").touch()
    Path("runs/sweep").mkdir()
    Path("runs/sweep/sweep.json").touch()
    Path("runs/notes.txt").touch()
    return tmp_path


@pytest.mark.parametrize("verb", ["show", "verify"])
@pytest.mark.parametrize(
    ("given", "reported"),
    [
        ("runs/frist", "runs/frist does not exist. In runs: Available: 'runs/first', "
         "'runs/second', 'runs/sweep'."),
        ("rums", "rums does not exist. In the working directory: Available: 'day', 'empty', "
         "'runs'."),
        ("rums/first/deep", "rums/first/deep does not exist. In the working directory: "
         "Available: 'day', 'empty', 'runs'."),
        ("empty/run", "empty/run does not exist. In empty: There is none."),
        (f"{LONG}/run", f"{LONG}/run does not exist. In the working directory: Available: 'day', "
         "'empty', 'runs'."),
        (LONG, f"{LONG} does not exist. In the working directory: Available: 'day', 'empty', "
         "'runs'."),
        ("runs", "runs is not a run directory: it holds no manifest.json. In it: Available: "
         "'runs/first', 'runs/kept/third', 'runs/second', 'runs/sweep'."),
        ("day", "day is not a run directory: it holds no manifest.json. In it: Available: "
         "'day/time'."),
        ("empty", "empty is not a run directory: it holds no manifest.json"),
        ("runs/first/manifest.json", "runs/first/manifest.json is a file, and a run is a "
         "directory. Give its directory: runs/first"),
        ("runs/notes.txt", "runs/notes.txt is a file, and a run is a directory"),
        ("runs/notes.txt/x", "runs/notes.txt/x does not exist. In runs: Available: 'runs/first', "
         "'runs/second', 'runs/sweep'."),
    ],
)  # fmt: skip
def test_the_nearest_directories_are_named(verb: str, given: str, reported: str) -> None:
    with pytest.raises(RunDirectoryError) as refused:
        cli.execute([verb, given])
    assert str(refused.value) == reported


def test_absolute_paths_stay_absolute(place: Path) -> None:
    with pytest.raises(RunDirectoryError) as refused:
        cli.execute(["show", str(place / "day" / "tome")])
    assert str(refused.value) == (
        f"{place}/day/tome does not exist. In {place}/day: Available: '{place}/day/time'."
    )
