"""The parts of a job: each is a run of its own, in a folder of the run that they will be."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from extractkit.advice import command, override
from extractkit.errors import RunDirectoryError
from extractkit.plan import Part, Shard
from extractkit.runs import journal
from extractkit.runs import manifest as manifests
from extractkit.runs.agreement import part_differences
from extractkit.runs.directory import JOURNAL, RUN_KEY, elsewhere
from extractkit.runs.journal import Entry
from extractkit.runs.manifest import MANIFEST, PARTS, SWEEP, Manifest, Status

_NAME = re.compile(r"([0-9]+)-of-([0-9]+)")


@dataclass(frozen=True, eq=False)
class Piece:
    """A finished part: which, where, what it says of itself, and its shards."""

    part: Part
    directory: Path
    manifest: Manifest
    entries: Mapping[Shard, Entry]


def place(directory: Path, part: Part | None) -> Path:
    """Where a part of the run `directory` stands; the run itself, where it is not made in parts."""
    if part is None:
        return directory
    return directory / PARTS / f"{part.number}-of-{part.count}"


def check_place(directory: Path, part: Part) -> None:
    """Make sure that a part may be made for a run.

    Raises:
        RunDirectoryError: the run is there already, or parts of another number.
    """
    if (directory / MANIFEST).exists():
        raise RunDirectoryError(
            f"{RUN_KEY}={directory} holds a run already, of which no part can be made. Look at "
            f"it: {command('show', directory)}. {elsewhere(RUN_KEY)}"
        )
    others = sorted({found.count for found in found_parts(directory)} - {part.count})
    if others:
        raise RunDirectoryError(
            f"runtime.shards={part}: {RUN_KEY}={directory} holds parts of {others[0]}. "
            f"{elsewhere(RUN_KEY)}"
        )


def found_parts(directory: Path) -> list[Part]:
    """The parts for which there is a folder, in order."""
    parts = directory / PARTS
    names = [path.name for path in parts.iterdir()] if parts.is_dir() else []
    found = (Part.parse("/".join(name.groups())) for name in map(_NAME.fullmatch, names) if name)
    return sorted((part for part in found if part), key=lambda one: (one.count, one.number))


def finished_parts(directory: Path, busy: Mapping[Part, str]) -> list[Piece]:
    """All parts of a run, in order, each finished, and of one job.

    Args:
        busy: the parts that somebody works on, and who does; the others are locked by the caller.

    Raises:
        RunDirectoryError: there are none, some are missing or not finished (all of them are named,
            with what makes them), or two of them are not of the same job.
    """
    found = found_parts(directory)
    if not found:
        if (directory / SWEEP).exists():
            manifests.read(directory)  # which tells what it is
        raise RunDirectoryError(
            f"{directory} holds no parts of a run. Make them, in any order and anywhere: "
            f"extractkit … runtime.shards=1/4 {override(RUN_KEY, directory)}, and so on to 4/4"
        )
    counts = sorted({part.count for part in found})
    if len(counts) > 1:
        raise RunDirectoryError(
            f"{directory / PARTS} holds parts of {' and of '.join(map(str, counts))}, which cannot "
            f"be of one job. Remove those that are not wanted"
        )
    pieces: list[Piece] = []
    lacking: list[tuple[Part, str | None]] = []
    for part in found[0].siblings:
        at = place(directory, part)
        if part in busy:
            lacking.append((part, f"is being worked on by {busy[part]}"))
            continue
        if not (at / MANIFEST).exists():
            lacking.append((part, None))
            continue
        manifest = manifests.read(at)
        if manifest.part != str(part):
            raise RunDirectoryError(f"{at} says that it is part {manifest.part}, not {part}")
        if manifest.status is not Status.FINISHED:
            lacking.append((part, f"is unfinished ({manifest.status}): {command('resume', at)}"))
        else:
            pieces.append(Piece(part, at, manifest, _entries(at, manifest)))
    if lacking:
        given = pieces[0].manifest.job_given if pieces else ()
        told = [f"{part} {why or _missing(directory, part, given)}" for part, why in lacking]
        raise RunDirectoryError(
            f"{len(lacking)} of the {found[0].count} parts of {directory} are missing or not "
            f"finished: {'; '.join(told)}"
        )
    _check_agreement(directory, pieces)
    return pieces


def without_part(overrides: tuple[str, ...]) -> tuple[str, ...]:
    """The overrides of a part as those of the whole job."""
    return tuple(one for one in overrides if one.lstrip("+").partition("=")[0] != "runtime.shards")


def _missing(directory: Path, part: Part, given: tuple[str, ...]) -> str:
    return f"is missing: {_command(directory, part, given)}"


def _command(directory: Path, part: Part, given: tuple[str, ...]) -> str:
    """The line that makes a part, as a shell takes it."""
    words = shlex.join(without_part(given)) or "…"
    return f"extractkit {words} runtime.shards={part} {override(RUN_KEY, directory)}"


def _entries(directory: Path, manifest: Manifest) -> dict[Shard, Entry]:
    entries = journal.read(directory / JOURNAL).by_shard()
    if entries.keys() != set(manifest.shards):
        raise RunDirectoryError(
            f"{directory / JOURNAL} does not list the shards of its part. Have them stored again: "
            f"{command('resume', directory)}"
        )
    return entries


def _check_agreement(directory: Path, pieces: list[Piece]) -> None:
    """Refuse parts of which one is not like the most, or like the first where those are half."""
    first = pieces[0]
    other = [one for one in pieces if part_differences(first.manifest, one.manifest)]
    if not other:
        return
    alike = len(pieces) - len(other)
    reference, odd = (other[0], first) if len(other) > alike else (first, other[0])
    remedies = [(odd, reference)] if len(other) != alike else [(odd, reference), (reference, odd)]
    advice = " Or: ".join(
        f"remove {one.directory} and make it again as part {like.part} was made: "
        f"{_command(directory, one.part, like.manifest.job_given)}."
        for one, like in remedies
    )
    found = part_differences(reference.manifest, odd.manifest)
    raise RunDirectoryError(
        f"part {odd.part} is not of the same job as part {reference.part}, or was made under other "
        f"circumstances. What the one recorded, and the other found: {'; '.join(found)}. "
        f"{advice[0].upper()}{advice[1:].rstrip('.')}"
    )
