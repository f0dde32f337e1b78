"""Single bits of a run's files changed, one at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from extractkit.runs.checking.verification import verify


@dataclass(frozen=True)
class Flip:
    """One bit of one file of a run: the file's name within it, and the bit's place."""

    name: str
    bit: int

    @classmethod
    def drawn(cls, run: Path, random: Random) -> "Flip":
        """Any bit of any file: small files, such as the journal, come as often as shards."""
        files = [path for path in run.rglob("*") if path.is_file() and path.stat().st_size]
        path = random.choice(sorted(files))
        bit = random.randrange(path.stat().st_size * 8)
        return cls(path.relative_to(run).as_posix(), bit)

    @contextmanager
    def done(self, run: Path) -> Iterator[None]:
        """The run with that bit changed, as long as the context lasts."""
        with (run / self.name).open("r+b") as file:
            file.seek(self.bit // 8)
            (before,) = file.read(1)
            file.seek(self.bit // 8)
            file.write(bytes([before ^ 1 << self.bit % 8]))
            file.flush()
            try:
                yield
            finally:
                file.seek(self.bit // 8)
                file.write(bytes([before]))


def found(run: Path, flip: Flip) -> bool:
    """Whether `verify` finds the flip and names its file."""
    with flip.done(run):
        return flip.name in {finding.file for finding in verify(run).findings}
