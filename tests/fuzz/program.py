"""The program called in a forked child, which notes whatever it does to files outside its place."""

import gc
import importlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extractkit.__main__ import main
from tests.fuzz.outcomes import Outcome, outcome

_SECONDS = 60.0
_MESSAGE = re.compile(r"^extractkit: ", re.MULTILINE)
_CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = (
    *("os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink", "os.truncate"),
    *("os.chmod", "os.chown", "shutil.rmtree", "shutil.move", "shutil.copyfile"),
)
_PROGRAMS = ("git", "uname")  # for the manifest: the code's revision, the machine
_ESCAPES = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect")
_CACHE = "cache"
"""Where catalogs are kept, which any command may write."""

Case = Callable[[int], tuple[str, str | None]]
"""A case by its number: how it ended, and what was wrong with that (None: nothing)."""

_Files = dict[str, tuple[int, int, int]]


@dataclass(frozen=True)
class Ended:
    """How a call of the program ended.

    Attributes:
        code: its exit code; -1 where it has none.
        printed: all that it printed.
        wrong: everything that must not be.
    """

    code: int
    printed: str
    wrong: tuple[str, ...]

    def fault(self, called: Sequence[str]) -> str | None:
        """What was wrong with the call, for a person; None: nothing."""
        if not self.wrong:
            return None
        return f"{' '.join(called)!r}: {'; '.join(self.wrong)}: {self.printed[-400:]}"


def call(arguments: Sequence[str], place: Path, allowed: Sequence[Path]) -> Ended:
    """Call the program with `place` as its working directory, home and place of temporary files.

    Args:
        allowed: paths at and below which it may leave something.
    """
    printed = place.with_name(f"{place.name}.printed")
    before = _files(place)
    how, words = outcome(lambda: _called(arguments, place, printed), _SECONDS)
    reported = printed.read_text("utf-8", errors="replace")
    if how is not Outcome.ANSWERED:
        return Ended(-1, reported, (f"{how}: {words}",))
    code, wrong = json.loads(words)
    if "Traceback (most recent" in reported:
        wrong.append("a traceback")
    if code not in (0, 1, 2):
        wrong.append(f"exit code {code}")
    if code == 2 and len(_MESSAGE.findall(reported)) != 1:
        wrong.append("not one message")
    changed = {path for path, _ in _files(place).items() ^ before.items()}
    wrong += [
        f"left {path} changed"
        for path in sorted(changed)
        if not any(Path(path).is_relative_to(root) for root in [*allowed, place / _CACHE])
    ]
    return Ended(code, reported, tuple(wrong))


def import_early(arguments: Sequence[str], place: Path) -> None:
    """Import whatever a call of the program imports, once, instead of in the child of every case.

    Raises:
        RuntimeError: the call failed.
    """
    names = place.with_name(f"{place.name}.modules")

    def imported() -> str:
        said = _called(arguments, place, place.with_name(f"{place.name}.printed"))
        names.write_text("\n".join(sys.modules), "utf-8")
        return said

    how, words = outcome(imported, _SECONDS)
    if how is not Outcome.ANSWERED or json.loads(words)[0] != 0:
        raise RuntimeError(f"undamaged, {' '.join(arguments)!r} {how}: {words}")
    for name in names.read_text("utf-8").splitlines():
        with suppress(ImportError):  # some are entered there by other modules, and have no file
            importlib.import_module(name)
    gc.freeze()  # a collection in a child would copy every page that it looks at


def _called(arguments: Sequence[str], place: Path, printed: Path) -> str:
    """In the child: exit code, and what was done outside of `place`, as JSON."""
    descriptor = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.chdir(place)
    sys.dont_write_bytecode = True
    os.environ |= {"HOME": str(place), "TMPDIR": str(place / "tmp")}
    os.environ["XDG_CACHE_HOME"] = str(place / _CACHE)
    tempfile.tempdir = None
    outside = _noted_outside(place)
    sys.argv = ["extractkit", *arguments]
    code: object = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    sys.stdout.flush()
    return json.dumps([code, outside[:5]])


def _noted_outside(place: Path) -> list[str]:
    """From now on, every change outside of `place`, every program started and connection made."""
    noted: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _ESCAPES:
            if str(arguments[0]) not in _PROGRAMS:
                noted.append(f"{event} {arguments!r:.200}")
        elif event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _CHANGING:
                _note(event, path)
        elif event in _CHANGES:
            _note(event, arguments[0])

    def _note(event: str, path: object) -> None:
        if not isinstance(path, str | bytes | os.PathLike) or os.fspath(path) == os.devnull:
            return
        whole = os.path.realpath(os.fsdecode(path))
        if not Path(whole).is_relative_to(place) and "/" in os.fsdecode(path):
            noted.append(f"{event} {whole}")

    sys.addaudithook(hook)
    return noted


def _files(place: Path) -> _Files:
    """Everything below a directory: mode, and of files size and time of change."""
    found = {}
    for path in place.rglob("*"):
        status = path.lstat()
        file = path.is_file()
        size, time = (status.st_size, status.st_mtime_ns) if file else (0, 0)
        found[str(path)] = (status.st_mode, size, time)
    return found
