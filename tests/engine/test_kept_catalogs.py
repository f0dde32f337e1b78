"""Catalogs on disk, from which the tensors of a file are listed without loading it again."""

import logging
import os
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import pytest

import extractkit
from extractkit.core.catalog import Catalog
from extractkit.engine import catalog_files, loading
from extractkit.errors import UserError
from tests.cli.called import check_not_imported

OTHER_CODE = [["cli.py", 1, 2]]


@pytest.fixture(autouse=True)
def fresh_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, in what looks like a process without Keras."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(catalog_files, "sys", SimpleNamespace(modules={}))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return saved(tmp_path / "net.keras", 3)


def saved(path: Path, units: int) -> Path:
    x = keras.Input((4,), name="x")
    inner = keras.Sequential([keras.layers.Dense(units, name="hidden")], name="inner")
    keras.Model(x, keras.layers.Dense(2, activation="softmax", name="head")(inner(x))).save(path)
    return path


def listed(path: Path, *more: str) -> Catalog:
    return extractkit.catalog(["model=keras", f"model.path={path}", *more])


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "extractkit" / "catalogs").glob("*.json"))


@pytest.fixture
def unloadable(file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that was listed, while nothing can be loaded any more."""
    listed(file)
    monkeypatch.setattr(loading, "model_of", refused)
    return file


class LoadedError(Exception):
    pass


def refused(*_: object) -> None:
    raise LoadedError


def test_the_second_listing_is_the_first_without_loading(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = listed(file)
    fed = listed(file, "+selectors.fed={feeds: {op_type: Softmax}}")
    monkeypatch.setattr(loading, "model_of", refused)
    second = listed(file)
    assert (second.records, second.model) == (first.records, first.model)
    assert second.listing == first.listing
    again = listed(file, "+selectors.fed={feeds: {op_type: Softmax}}")
    assert again.records == fed.records
    assert again.records


def test_the_second_listing_imports_nothing_that_takes_long(file: Path, tmp_path: Path) -> None:
    for _ in range(2):  # loading sets environment variables
        listed(file)
    heavy = "{'tensorflow', 'keras', 'asyncio', 'http.client', 'numpy.random', 'PIL'}"
    check_not_imported(heavy, ["tensors", "model=keras", f"model.path={file}"], tmp_path)


def test_what_changes_the_model_has_it_loaded(
    unloadable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(unloadable)  # the content counts
    assert listed(unloadable)
    monkeypatch.setattr(catalog_files, "own_code", lambda: OTHER_CODE)
    with pytest.raises(LoadedError):
        listed(unloadable)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(catalog_files, "sys", SimpleNamespace(modules={}))
    before = listed(unloadable)
    saved(unloadable, 5)
    after = listed(unloadable)
    assert before["inner/hidden:output"].spec.shape == (None, 3)
    assert after["inner/hidden:output"].spec.shape == (None, 5)
    assert len(kept(tmp_path)) == 2


def test_gradients_are_asked_of_the_model(unloadable: Path) -> None:
    with pytest.raises(LoadedError):
        listed(unloadable, "+selectors.g={path: inner/hidden:output, gradient: {of: ':output'}}")


def test_a_process_with_keras_may_have_registered_classes(
    unloadable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_files, "sys", SimpleNamespace(modules={"keras": keras}))
    with pytest.raises(LoadedError):
        listed(unloadable)


def test_a_damaged_catalog_is_replaced(file: Path, tmp_path: Path) -> None:
    first = listed(file)
    (path,) = kept(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"hidden", b"hiddem"))
    assert listed(file).records == first.records
    assert path.read_bytes() == whole


def test_a_folder_that_others_write_is_not_used(
    unloadable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache" / "extractkit"
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(LoadedError):
        listed(unloadable)
    folder.chmod(0o700)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LoadedError):
        listed(unloadable)


def test_without_a_home_the_model_is_loaded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert listed(file)


def test_python_code_has_none(file: Path, tmp_path: Path) -> None:
    """It may make another model tomorrow."""
    listed(file, "+model.custom_objects.Dense=keras.layers.Dense")
    listed(file, "model.imports=[keras]")
    factory = "{_target_: keras.Sequential, layers: []}"
    with pytest.raises(UserError):
        extractkit.catalog(["model=keras", f"model.factory={factory}"])
    assert kept(tmp_path) == []


def test_a_mistake_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "net.keras").write_bytes(b"PK")
    with pytest.raises(UserError):
        listed(tmp_path / "net.keras")
    assert kept(tmp_path) == []


def test_few_are_kept(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_files, "MOST_CATALOGS", 1)
    listed(file)
    (first,) = kept(tmp_path)
    listed(saved(file, 6))
    (second,) = kept(tmp_path)
    assert second != first


def test_warnings_of_loading_are_repeated(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own = loading.model_of

    def warning(*given: Any) -> Any:
        logging.getLogger("extractkit.models.keras_file").warning("%s is odd", "it")
        warnings.showwarning("old", DeprecationWarning, "net.py", 3)
        return own(*given)

    def said() -> tuple[list[tuple[str, int, str]], list[str]]:
        caplog.clear()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            listed(file)
        return caplog.record_tuples[:], [
            f"{one.filename}:{one.lineno} {one.message}" for one in warned
        ]

    listed(saved(file.parent / "other.keras", 2))  # loading sets environment variables
    monkeypatch.setattr(loading, "model_of", warning)
    first = said()
    monkeypatch.setattr(loading, "model_of", refused)
    assert said() == first
    assert first == (
        [("extractkit.models.keras_file", logging.WARNING, "it is odd")],
        ["net.py:3 old"],
    )
