"""A disk that refuses: injected at every system call, by a limit on file sizes, and really full."""

import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from extractkit.engine import Silent
from extractkit.errors import RunDirectoryError
from extractkit.runs import JOURNAL, journal
from extractkit.runs.shards import check_entry
from tests.faults.calls import Around, Call, failing, full
from tests.faults.children import watched
from tests.faults.figures import Figures, every_nth
from tests.faults.runs import SINKS, Undisturbed, begin, resume_run
from tests.fuzz.outcomes import Outcome, outcome

_ENOUGH = 200
"""More pages of room than a run needs."""

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def filling_up(scratch: Path, count: int | None, seed: int) -> Figures:
    """The disk is full from some call of a run on, until somebody makes room and goes on.

    Args:
        count: of the calls that take room, evenly spaced; None: all.
    """
    trial = _Trial(scratch)
    takers = [call for call in trial.undisturbed.calls if call.takes_room]
    return trial.of([(call, errno.ENOSPC) for call in takers], full, count, seed)


def refusing(scratch: Path, count: int | None, seed: int) -> Figures:
    """One call of a run fails, with each of several errors.

    Args:
        count: of failures, evenly spaced; None: each call with each error.
    """
    trial = _Trial(scratch)
    # A lock that cannot be removed stays behind: nobody holds it.
    calls = [c for c in trial.undisturbed.calls if (c.name, c.path) != ("unlink", "run/.lock")]
    failures = [(call, error) for call in calls for error in ERRORS]
    return trial.of(failures, failing, count, seed)


def limited(scratch: Path, count: int | None, seed: int) -> Figures:
    """Files may not become larger than so many bytes, from 0 to beyond the largest file.

    Args:
        count: of limits, evenly spaced; None: forty and the largest.
    """
    trial = _Trial(scratch)
    sizes = [path.stat().st_size for path in trial.undisturbed.directory.rglob("*")]
    for size in every_nth(range(0, max(sizes) + 1, max(sizes) // 40), count, seed):
        trial.place.mkdir()
        ended = outcome(lambda size=size: _begin_limited(trial.place / "run", size))
        trial.judge(f"no file larger than {size} bytes", *ended)
        shutil.rmtree(trial.place)
    return trial.figures


def really_full(scratch: Path, count: int | None, seed: int) -> Figures:
    """A file system in memory that somebody else fills while the run is on it.

    Where this process may not mount one, nothing is counted.

    Args:
        count: of amounts of room that are left, from none to enough, evenly spaced; None: page by
            page.
    """
    trial = _Trial(scratch)
    trial.place.mkdir()
    mount = shutil.which("mount", path="/usr/bin:/bin:/usr/sbin:/sbin") or "mount"
    try:
        command = [mount, "-t", "tmpfs", "-o", "size=4m", "extractkit", str(trial.place)]
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return trial.figures
    try:
        for pages in every_nth(range(_ENOUGH), count, seed):
            ended = outcome(
                lambda pages=pages: begin(trial.place / "run", _Filler(trial.place, pages))
            )
            (trial.place / _Filler.NAME).unlink(missing_ok=True)
            trial.judge(f"{pages} pages left", *ended)
            shutil.rmtree(trial.place / "run")
    finally:
        umount = shutil.which("umount", path="/usr/bin:/bin:/usr/sbin:/sbin") or "umount"
        subprocess.run([umount, str(trial.place)], check=True)
    return trial.figures


class _Filler(Silent):
    """Fills the disk, but for some pages, when the plan is made."""

    NAME = "somebody-else's"

    def __init__(self, place: Path, pages: int) -> None:
        self._place = place
        self._pages = pages

    def planned(self, *planned: object) -> None:
        room = os.statvfs(self._place)
        size = max(0, room.f_bavail - self._pages) * room.f_frsize
        with (self._place / self.NAME).open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)


class _Trial:
    """Failed runs in `place`, judged one after another."""

    def __init__(self, scratch: Path) -> None:
        self.figures = Figures()
        self.place = scratch / "place"
        self.undisturbed = Undisturbed(scratch)

    def of(
        self,
        failures: list[tuple[Call, int]],
        around: Callable[[int, int], Around],
        count: int | None,
        seed: int,
    ) -> Figures:
        """Have each of these calls, or so many of them, fail with its error."""
        for call, error in every_nth(failures, count, seed):
            self.place.mkdir()
            ended = watched(begin, self.place / "run", around(call.number, error))
            self.judge(f"{errno.errorcode[error]} at {call}", *ended)
            shutil.rmtree(self.place)
        return self.figures

    def judge(self, what: str, how: Outcome, words: str) -> None:
        """Look at what a failure said and left; resume the run and compare it."""
        directory = self.place / "run"
        wrong = []
        self.figures.counts["failures injected"] += 1
        if how is Outcome.REFUSED:
            self.figures.counts["of them reported in one line that names the file"] += 1
            if "\n" in words or str(directory) not in words or "Errno" in words:
                wrong.append("unclear")
        elif how is Outcome.ANSWERED:
            self.figures.counts["of them of no consequence"] += 1
            wrong += self.undisturbed.wrong_with(directory)
        else:
            wrong.append("a traceback")
        wrong += _broken(directory)
        again, why = outcome(lambda: resume_run(directory))
        if again is not Outcome.ANSWERED:
            wrong.append(f"going on: {again}: {why}")
        elif different := self.undisturbed.wrong_with(directory):
            wrong += different
        else:
            self.figures.counts["runs finished bitwise equal"] += 1
        if wrong:
            self.figures.faults.append(f"{what}: {how}: {words}: {wrong}")


def _broken(directory: Path) -> list[str]:
    """The shards that the journal lists and that are not whole."""
    found = []
    for entry in journal.read(directory / JOURNAL).entries:
        try:
            check_entry(directory, entry, SINKS)
        except RunDirectoryError as error:
            found.append(str(error))
    return found


def _begin_limited(directory: Path, size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    begin(directory)
