"""Transforms of installed packages: their versions decide values, so a run records them."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extractkit.core.transforms import registry
from extractkit.engine import Silent
from extractkit.engine.execute import execute, resume
from extractkit.engine.identity import described
from extractkit.engine.prepare import prepare
from extractkit.errors import RunDirectoryError
from extractkit.runs import manifest as manifests
from extractkit.runs.checking.verification import verify
from extractkit.runs.environment import Volatile
from extractkit.runs.manifest import Manifest
from extractkit.runs.reader import open_run
from extractkit.runs.same_job import check_versions
from tests.engine.examples import MODEL, job, tokens

CODE = """
from extractkit.core.transforms.elementwise import Abs

class Twice(Abs):
    name = "twice"

    def in_numpy(self, operand, value):
        return [2 * value]
"""
TWICE = {"path": ":output", "do": ["abs", "twice"]}


def installed(directory: Path, version: str) -> None:
    """A distribution that registers the transform `twice`."""
    info = directory / f"twice_transform-{version}.dist-info"
    info.mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: twice-transform\nVersion: {version}\n"
    (info / "METADATA").write_text(text)
    registered = "twice = twice_transform:Twice\nunused = twice_transform:Twice\n"
    (info / "entry_points.txt").write_text(f"[{registry.PLUGINS.group}]\n{registered}")
    (directory / "twice_transform.py").write_text(CODE)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Where version 1.0 of the distribution is installed."""
    installed(tmp_path / "1", "1.0")
    with monkeypatch.context() as context:
        context.syspath_prepend(str(tmp_path / "1"))
        registry.PLUGINS.clear()
        yield context
    registry.PLUGINS.clear()


def run(path: Path, of: str = ":output") -> None:
    execute(job({**TWICE, "path": of}), path, hydra_files={}, listener=Silent())


def known(do: list[object]) -> Manifest:
    return described(Manifest(Volatile("")), prepare(job({**TWICE, "do": do})))


def test_a_run_records_the_distributions_of_its_transforms(
    site: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    run(path)
    found = open_run(path)
    assert found.manifest.plugins == ("twice-transform",)
    assert found.manifest.versions["twice-transform"] == "1.0"
    (tensor,) = found.manifest.tensors
    assert tensor.transforms == ("abs", "twice")
    expected = 2 * np.abs(MODEL.forward(tokens("a"))[":output"])
    np.testing.assert_array_equal(found[":output"].sample(0), expected)


def test_a_run_without_their_transforms_records_none(site: pytest.MonkeyPatch) -> None:
    found = known(["abs"])
    assert found.plugins == ()
    assert "twice-transform" not in found.versions


@pytest.mark.parametrize("later", ["2.0", None])
def test_another_version_of_a_plugin_cannot_resume(
    later: str | None, site: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    run(path)
    before = known(["abs", "twice"])
    recorded = manifests.read(path)
    check_versions(path, recorded)
    next((path / "shards").iterdir()).unlink()
    check_versions(path, recorded)
    if later is not None:
        installed(tmp_path / later, later)
        site.syspath_prepend(str(tmp_path / later))
    site.setattr(sys, "path", [entry for entry in sys.path if entry != str(tmp_path / "1")])
    registry.PLUGINS.clear()
    with pytest.raises(RunDirectoryError) as error:
        check_versions(path, recorded)
    assert str(error.value).startswith(
        f"{path} cannot be resumed: its values would not be those of one job. the version of "
        f"twice-transform: 1.0 was recorded, {later} is found. Install the recorded versions"
    )
    if later is None:
        return
    with pytest.raises(RunDirectoryError, match=r"twice-transform: 1.0 was recorded, 2.0 is found"):
        resume(job(TWICE), path, listener=Silent())
    after = known(["abs", "twice"])
    assert after.identity != before.identity
    unversioned = {**after.versions, "twice-transform": "1.0"}
    assert replace(after, versions=unversioned, identity=before.identity) == before


def test_a_run_is_verified_without_its_plugins(site: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "run"
    run(path, of="embedding:output")
    site.undo()
    registry.PLUGINS.clear()
    assert "twice" not in registry.names()
    assert verify(path).findings == ()
