"""Single bits changed, and files taken away, in a finished run: `verify` has to find and name each,
and the reader must not return another value than was stored."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import extractkit
from extractkit.errors import RunDirectoryError
from extractkit.runs import LOG
from extractkit.runs.checking.verification import verify
from tests.faults.figures import Figures
from tests.faults.runs import begin


def flipped(scratch: Path, count: int | None, seed: int) -> Figures:
    """Bits flipped one at a time in all files of a run but its log; then each file is taken away.

    Every file is hit as often as any other, whatever its size: damage to a large one is mostly
    damage to values.

    Args:
        count: of bits; None: 1,000.
    """
    figures = Figures()
    directory = scratch / "run"
    begin(directory)
    stored = dict(_read(directory))
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != LOG)
    draw = random.Random(seed)
    for number in range(count or 1000):
        file = files[number % len(files)]
        content = file.read_bytes()
        place, bit = draw.randrange(len(content)), draw.randrange(8)
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        what = f"{file.relative_to(directory)}, byte {place}, bit {bit}"
        figures.counts["bits flipped"] += 1
        with _replaced(file, bytes(changed)):
            _judge(directory, file, what, stored, figures)
    for file in files:
        figures.counts["files taken away"] += 1
        with _replaced(file, None):
            _judge(directory, file, f"without {file.name}", stored, figures)
    if verify(directory).failed:
        figures.faults.append("put back as it was, the run is not sound")
    return figures


def _judge(
    directory: Path, file: Path, what: str, stored: dict[str, bytes], figures: Figures
) -> None:
    try:
        found = [finding.message for finding in verify(directory).findings]
    except RunDirectoryError as error:
        found = [str(error)]
    if any(str(file) in message for message in found):
        figures.counts["found and named by verify"] += 1
    else:
        figures.faults.append(f"{what}: verify says {found}")
    refused = False
    try:
        for name, content in _read(directory):
            if stored.get(name) != content:
                figures.faults.append(f"{what}: {name} reads as another")
    except RunDirectoryError:
        refused = True
    figures.counts["refused by the reader"] += refused
    figures.counts["of no matter to the reader, which read everything right"] += not refused


def _read(directory: Path) -> Iterator[tuple[str, bytes]]:
    """Everything that a run holds, as bytes by name."""
    run = extractkit.open(directory)
    for key, view in run.items():
        if view.constant:
            yield key, np.asarray(view).tobytes()
            continue
        for index, value in enumerate(view):
            yield f"{key} of sample {index}", value.tobytes() + repr(value.shape).encode()
    for key, statistics in run.statistics.items():
        for name, results in statistics.items():
            for result, array in results.items():
                yield f"{name}.{result} of {key}", array.tobytes()
    for index, row in enumerate(run.samples):
        yield f"row of sample {index}", repr(row).encode()


@contextmanager
def _replaced(file: Path, content: bytes | None) -> Iterator[None]:
    """Have a file hold something else, or be gone, for a moment."""
    before = file.read_bytes()
    file.unlink()
    try:
        if content is not None:
            file.write_bytes(content)
        yield
    finally:
        file.write_bytes(before)
