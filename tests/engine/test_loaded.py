"""A model that the next job takes over, and what keeps it from that."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from extractkit.core.component import Component
from extractkit.core.job import Job, Runtime
from extractkit.core.requests import Value
from extractkit.core.values import Array
from extractkit.engine import Silent, model_cache
from extractkit.engine.execute import execute
from extractkit.engine.loading import list_tensors
from extractkit.errors import JobError, SelectionError
from extractkit.models import Compilation, Fetch
from extractkit.testing.reference import ReferenceModel
from tests.engine.examples import job
from tests.sweep_examples import TARGET

MODEL = Component("model", TARGET, {"seed": 1})
RUNTIME = Runtime()


@pytest.fixture(autouse=True)
def keeping() -> Iterator[None]:
    """As within a sweep."""
    model_cache.forget()
    with model_cache.kept():
        yield
    model_cache.forget()


def taken_over(first: Component, second: Component, runtime: Runtime = RUNTIME) -> bool:
    before = model_cache.model_of(first, RUNTIME)
    return model_cache.model_of(second, runtime) is before


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
    assert model_cache.model_of(given, RUNTIME).content == "b"


def test_a_relative_path_means_another_file_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Component("model", f"{__name__}.FromFile", {"path": "weights"}, vouched=True)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(name, encoding="utf-8")
        monkeypatch.chdir(tmp_path / name)
        assert model_cache.model_of(given, RUNTIME).content == name


def test_another_environment_is_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    before = model_cache.model_of(MODEL, RUNTIME)
    monkeypatch.setenv("SOMETHING", "else")
    assert model_cache.model_of(MODEL, RUNTIME) is not before


def test_what_is_in_memory_is_never_taken_over() -> None:
    first = model_cache.model_of(MODEL, RUNTIME)
    model_cache.model_of(Component("model", "extractkit.api.given", {"live": object()}), RUNTIME)
    assert model_cache.model_of(MODEL, RUNTIME) is not first


def test_one_model_is_held() -> None:
    first = model_cache.model_of(MODEL, RUNTIME)
    model_cache.model_of(replace(MODEL, arguments={"seed": 2}), RUNTIME)
    assert model_cache.model_of(MODEL, RUNTIME) is not first


def test_a_forgotten_model_is_loaded_anew() -> None:
    first = model_cache.model_of(MODEL, RUNTIME)
    model_cache.forget()
    assert model_cache.model_of(MODEL, RUNTIME) is not first


def test_a_model_that_cannot_be_loaded_leaves_none_behind() -> None:
    first = model_cache.model_of(MODEL, RUNTIME)
    with pytest.raises(FileNotFoundError):
        model_cache.model_of(Component("model", f"{__name__}.FromFile", {"path": "nope"}), RUNTIME)
    assert model_cache.model_of(MODEL, RUNTIME) is not first


def test_programs_of_the_same_fetches_are_taken_over() -> None:
    model = model_cache.model_of(MODEL, RUNTIME)
    fetches = [Fetch(Value(":output"))]
    program = model_cache.program_of(model, fetches, Compilation())
    assert model_cache.program_of(model, list(fetches), Compilation()) is program
    assert (
        model_cache.program_of(model, [Fetch(Value("pool:output"))], Compilation()) is not program
    )
    assert model_cache.program_of(model, fetches, Compilation("xla")) is not program


def test_a_model_that_is_not_held_has_no_program_to_take_over() -> None:
    model = model_cache.model_of(MODEL, RUNTIME)
    model_cache.forget()
    fetches = [Fetch(Value(":output"))]
    program = model_cache.program_of(model, fetches, Compilation())
    assert model_cache.program_of(model, fetches, Compilation()) is not program


class Opaque(ReferenceModel):
    """Nobody can tell what it computes."""

    def definition_digest(self) -> None:  # type: ignore[override]
        return None


class Swapped(ReferenceModel):
    """Its weights change in place."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "checkpoints", Swap())


class Swap:
    def choose(self, policy: str) -> None:
        """There is one set of weights."""


BUILT: list[str] = []


def build(kind: str) -> ReferenceModel:
    """Build a model of one of the classes here, and note that it was built."""
    BUILT.append(kind)
    model: ReferenceModel = globals()[kind]()
    return model


def built(kind: str) -> Component:
    return Component("model", f"{__name__}.build", {"kind": kind})


def is_held(done: Job) -> bool:
    """Return whether a job with the same model would take it over."""
    before = len(BUILT)
    model_cache.model_of(done.model, done.runtime)
    return len(BUILT) == before


def test_a_finished_job_leaves_its_model_for_the_next(tmp_path: Path) -> None:
    for kind, kept in (("ReferenceModel", True), ("Opaque", False)):
        done = replace(job({"path": ":output"}), model=built(kind))
        execute(done, tmp_path / kind, hydra_files={}, listener=Silent())
        assert is_held(done) is kept


class Failing(ReferenceModel):
    """It loads, and computes nothing."""

    def forward(self, tokens: Array) -> dict[str, Array]:
        raise JobError("out of memory")


def test_a_job_that_fails_while_it_computes_leaves_none(tmp_path: Path) -> None:
    failing = replace(job({"path": ":output"}), model=built("Failing"))
    with pytest.raises(JobError, match=r"^out of memory$"):
        execute(failing, tmp_path / "r", hydra_files={}, listener=Silent())
    assert not is_held(failing)


def test_a_mistake_in_a_selector_keeps_the_model(tmp_path: Path) -> None:
    mistaken = replace(job({"path": "nope"}), model=built("ReferenceModel"))
    with pytest.raises(SelectionError):
        execute(mistaken, tmp_path / "r", hydra_files={}, listener=Silent())
    assert is_held(mistaken)


def test_weights_that_change_in_place_are_nobody_elses() -> None:
    listed = replace(job({"path": ":output"}), model=built("Swapped"))
    list_tensors(listed)
    assert not is_held(listed)
