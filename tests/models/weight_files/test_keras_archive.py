"""Weights inside `.keras` archives: what is refused before it fills memory or disk."""

import re
import resource
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from extractkit.core.component import Component
from extractkit.errors import ModelError
from extractkit.models import checkpoint, keras_file
from tests.models.weight_files.examples import trained_model

LOADERS = {
    "model.path": lambda path: checkpoint.load(path),
    "model.checkpoint": lambda path: keras_file.load(
        factory=Component("model.factory", "tests.models.keras_factories.one_layer"),
        checkpoint=path,
    ),
    "model.path of keras": lambda path: keras_file.load(path),
}

Load = Callable[[str], object]


@pytest.fixture(params=LOADERS)
def load(request: pytest.FixtureRequest) -> tuple[str, Load]:
    """Every way to such a file: the key that names it, and what loads it."""
    return request.param.partition(" ")[0], LOADERS[request.param]


def test_weights_that_would_fill_the_disk_are_refused(
    load: tuple[str, Load], tmp_path: Path
) -> None:
    file = tmp_path / "m.keras"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", bytes(64 << 20))
    key, opened = load
    with pytest.raises(ModelError) as caught:
        opened(str(file))
    assert re.fullmatch(
        rf"{re.escape(key)}='.*' is refused: 'model\.weights\.h5' in it grows from \d+ to "
        r"67108864 bytes",
        str(caught.value),
    )


def test_no_room_for_the_weights_is_reported(
    load: tuple[str, Load], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of files stands in for a full disk."""
    file = tmp_path / "m.keras"
    trained_model().save(file)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    key, opened = load
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(ModelError) as caught:
            opened(str(file))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(caught.value) == (
        f"{key}={str(file)!r} cannot be unpacked to a temporary file: File too large. Name a "
        f"directory with room: TMPDIR=DIRECTORY python -m extractkit …"
    )
    assert not [*scratch.iterdir()]


def test_no_directory_for_temporary_files_is_reported(
    load: tuple[str, Load], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "m.keras"
    trained_model().save(file)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match="cannot be unpacked to a temporary file: No such file"):
        load[1](str(file))
