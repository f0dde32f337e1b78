"""What is recorded of the surroundings."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from extractkit.runs.environment import (
    PACKAGES,
    VALUE_PACKAGES,
    GitState,
    git_state,
    host,
    package_versions,
)


def git(directory: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    return subprocess.run(
        ["git", *identity, *arguments], cwd=directory, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_versions_of_installed_packages_alone_are_given() -> None:
    versions = package_versions(["numpy", "no-such-package"])
    assert set(versions) == {"python", "numpy"}
    assert versions["numpy"] == metadata.version("numpy")


def test_git_tells_the_revision_and_whether_files_differ(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("1")
    assert git_state(tmp_path) is None
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-q", "-m", "one")
    revision = git(tmp_path, "rev-parse", "HEAD")
    assert git_state(tmp_path) == GitState(revision, dirty=False)
    (tmp_path / "b").write_text("2")
    assert git_state(tmp_path) == GitState(revision, dirty=True)


def test_without_a_checkout_or_without_git_there_is_no_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) is None


def test_the_host_has_processors_and_memory() -> None:
    found = host()
    assert isinstance(found["processors"], int)
    assert found["processors"] >= 1
    assert isinstance(found["memory"], int)
    assert found["memory"] > 1e8
    assert {"name", "system", "machine", "processor"} < set(found)


def test_the_processor_is_the_kernels_name_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "processor\t: 0\nmodel name\t: Maker: Chip 9\n\nprocessor\t: 1\nmodel name\t: Other\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    assert host()["processor"] == "Maker: Chip 9"

    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert host()["processor"] == "arm"


def test_packages_that_decide_values_are_recorded() -> None:
    assert set(VALUE_PACKAGES) < set(PACKAGES)
    assert set(package_versions()) <= {"python", *PACKAGES}
    assert package_versions()["extractkit"] == metadata.version("extractkit")
