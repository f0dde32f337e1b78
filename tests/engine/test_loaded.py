"""A model that the next job takes over, and what keeps it from that."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from extractkit.component import Component
from extractkit.engine import loaded
from extractkit.job import Runtime
from extractkit.models.protocol import Compilation, Fetch
from tests.sweep_examples import TARGET

MODEL = Component("model", TARGET, {"seed": 1})
RUNTIME = Runtime()


@pytest.fixture(autouse=True)
def keeping() -> Iterator[None]:
    """As within a sweep."""
    loaded.forget()
    with loaded.kept():
        yield
    loaded.forget()


def taken_over(first: Component, second: Component, runtime: Runtime = RUNTIME) -> bool:
    before = loaded.model_of(first, RUNTIME)
    return loaded.model_of(second, runtime) is before


def test_the_same_model_is_taken_over() -> None:
    assert taken_over(MODEL, replace(MODEL, arguments={"seed": 1}))


def test_other_arguments_are_another_model() -> None:
    assert not taken_over(MODEL, replace(MODEL, arguments={"seed": 2}))
    assert not taken_over(MODEL, replace(MODEL, arguments={"seed": 1, "longest": 64}))


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"deterministic": False}, {"device": "/CPU:0"}], ids=str
)
def test_so_is_one_under_other_settings_of_the_process(changes: dict[str, object]) -> None:
    assert not taken_over(MODEL, MODEL, replace(RUNTIME, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"batch_size": 3}, {"compile": "xla"}], ids=str)
def test_how_it_is_run_is_the_programs_matter(changes: dict[str, object]) -> None:
    assert taken_over(MODEL, MODEL, replace(RUNTIME, **changes))  # type: ignore[arg-type]


class FromFile:
    """Something that is built from a file."""

    def __init__(self, path: str = "", other: str = "") -> None:
        self.content = Path(path or other).read_text(encoding="utf-8")


@pytest.mark.parametrize("key", ["path", "other"])
def test_a_file_that_has_changed_is_read_again(key: str, tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_text("a", encoding="utf-8")
    target = f"{__name__}.FromFile"
    given = Component("model", target, {key: str(file)}, vouched=True)
    assert taken_over(given, given)
    file.write_text("b", encoding="utf-8")
    os.utime(file, (1, 1))
    assert loaded.model_of(given, RUNTIME).content == "b"


def test_a_relative_path_means_another_file_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Component("model", f"{__name__}.FromFile", {"path": "weights"}, vouched=True)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(name, encoding="utf-8")
        monkeypatch.chdir(tmp_path / name)
        assert loaded.model_of(given, RUNTIME).content == name


def test_another_environment_is_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    before = loaded.model_of(MODEL, RUNTIME)
    monkeypatch.setenv("SOMETHING", "else")
    assert loaded.model_of(MODEL, RUNTIME) is not before


def test_what_is_in_memory_is_never_taken_over() -> None:
    live = Component("model", "extractkit.api.given", {"live": object()})
    loaded.model_of(live, RUNTIME)
    assert loaded._PROCESS.last is None


def test_one_model_is_held() -> None:
    first = loaded.model_of(MODEL, RUNTIME)
    loaded.model_of(replace(MODEL, arguments={"seed": 2}), RUNTIME)
    assert loaded.model_of(MODEL, RUNTIME) is not first


def test_a_forgotten_model_is_loaded_anew() -> None:
    first = loaded.model_of(MODEL, RUNTIME)
    loaded.forget()
    assert loaded.model_of(MODEL, RUNTIME) is not first


def test_a_model_that_cannot_be_loaded_leaves_none_behind() -> None:
    loaded.model_of(MODEL, RUNTIME)
    with pytest.raises(FileNotFoundError):
        loaded.model_of(Component("model", f"{__name__}.FromFile", {"path": "nope"}), RUNTIME)
    assert loaded._PROCESS.last is None


def test_programs_of_the_same_fetches_are_taken_over() -> None:
    model = loaded.model_of(MODEL, RUNTIME)
    fetches = [Fetch(":output")]
    program = loaded.program_of(model, fetches, Compilation())
    assert loaded.program_of(model, list(fetches), Compilation()) is program
    assert loaded.program_of(model, [Fetch("pool:output")], Compilation()) is not program
    assert loaded.program_of(model, fetches, Compilation("xla")) is not program


def test_a_model_that_is_not_held_has_no_program_to_take_over() -> None:
    model = loaded.model_of(MODEL, RUNTIME)
    loaded.forget()
    fetches = [Fetch(":output")]
    program = loaded.program_of(model, fetches, Compilation())
    assert loaded.program_of(model, fetches, Compilation()) is not program
