"""What is shipped: wheel, source distribution, editable installation, lock files."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("conf/**/*.yaml"))
LOCKS = sorted(ROOT.glob("requirements/*.txt"))


def run(*arguments: str | Path, cwd: Path, **environment: str) -> str:
    """Run Python with `arguments`; return its standard output, or fail with everything it said."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{arguments} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def build(target: str, source: Path, into: Path) -> Path:
    """Build the distribution `target` ("wheel", "sdist") of `source` with the locked hatchling."""
    run("-m", "hatchling", "build", "--target", target, "--directory", into, cwd=source)
    (built,) = into.iterdir()
    return built


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def unpacked_sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sdist = build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    return unpacked / sdist.name.removesuffix(".tar.gz")


def test_wheel_has_every_config_inside_the_package(wheel: Path) -> None:
    assert CONFIGS
    configs = [*CONFIGS, "conf/config.schema.json"]
    assert {f"extractkit/{config}" for config in configs} <= names(wheel)


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    tops = {PurePosixPath(name).parts[0] for name in names(wheel)}
    assert tops == {"extractkit", "extractkit-0.1.0.dist-info"}
    assert not [name for name in names(wheel) if "tests/" in name or "__pycache__" in name]


def test_wheel_from_the_sdist_is_the_same(
    wheel: Path, unpacked_sdist: Path, tmp_path: Path
) -> None:
    assert names(build("wheel", unpacked_sdist, tmp_path)) == names(wheel)


def test_sdist_can_be_tested_from(unpacked_sdist: Path) -> None:
    for needed in ["LICENSE", "Makefile", "README.md", "tests/conftest.py", "conf/config.yaml"]:
        assert (unpacked_sdist / needed).is_file(), needed
    for lock in LOCKS:
        assert (unpacked_sdist / lock.relative_to(ROOT)).is_file()


def test_editable_installation_copies_no_config(tmp_path: Path) -> None:
    hook = "import sys, hatchling.build as backend; backend.build_editable(sys.argv[1])"
    run("-c", hook, tmp_path, cwd=ROOT)
    (editable,) = tmp_path.iterdir()
    assert not [name for name in names(editable) if name.endswith(".yaml")]


def test_installed_wheel_runs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    quietly = ("--quiet", "--disable-pip-version-check", "--no-index", "--no-deps")
    run("-m", "pip", "install", *quietly, "--target", site, wheel, cwd=elsewhere)

    def outside(*arguments: str) -> str:
        return run(*arguments, cwd=elsewhere, PYTHONPATH=str(site))

    found = outside("-c", "import extractkit; print(extractkit.__file__)")
    assert Path(found.strip()).is_relative_to(site)
    assert "extractkit" in outside("-m", "extractkit", "--help")
    job = outside("-m", "extractkit", "model=bert", "selectors=attention", "--cfg", "job")
    assert "selectors:" in job
    assert not list(elsewhere.iterdir())


def pins(lock: Path) -> set[str]:
    """Every `name==version` of a lock file."""
    return set(re.findall(r"^\S+==\S+", lock.read_text("utf-8"), re.MULTILINE))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_lock_pins_files_by_hash_and_names_no_place(lock: Path) -> None:
    text = lock.read_text("utf-8")
    assert "://" not in text
    assert " @ " not in text
    requirements = text.replace("\\\n", " ").splitlines()
    assert requirements
    for requirement in requirements:
        assert re.match(r"[a-z0-9-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", requirement), requirement


def test_locks_bring_in_no_second_framework() -> None:
    for lock in LOCKS:
        if lock.name == "peers.txt":
            continue  # the frameworks that benchmarks compare with
        pinned = {pin.split("==")[0] for pin in pins(lock)}
        assert not pinned & {"torch", "jax", "sentence-transformers"}
        assert ("transformers" in pinned) == (lock.name == "hugging-face.txt")


@pytest.mark.parametrize("lock", ["lock.txt", "hugging-face.txt"])
def test_build_tools_are_pinned_alike_in_all_locks(lock: str) -> None:
    assert pins(ROOT / "requirements/build.txt") <= pins(ROOT / "requirements" / lock)


def test_every_extra_is_among_all_unless_it_is_large_or_late() -> None:
    """pyproject.toml has the reason for each of the others."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    optional = extras["optional-dependencies"]
    (everything,) = optional["all"]
    listed = set(everything.partition("[")[2].removesuffix("]").split(","))
    assert set(optional) - listed == {
        *("all", "hugging-face", "mlflow", "model-explorer", "umap", "wandb"),
    }


@pytest.mark.parametrize(
    "name",
    ["hydra-core", "omegaconf", "tensorflow", "keras", "tf-keras", "ai-edge-litert", "keras-hub"],
)
def test_libraries_that_are_used_privately_have_a_tested_range(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    every = [Requirement(text) for group in groups for text in group]
    ranges = [one.specifier for one in every if one.name == name]
    assert ranges
    (locked,) = [pin for pin in pins(ROOT / "requirements/lock.txt") if pin.startswith(f"{name}==")]
    version = Version(locked.split("==")[1])
    untested = Version(f"{version.major}.{version.minor + 1}")
    for one in ranges:
        assert version in one
        assert untested not in one
