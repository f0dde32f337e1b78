"""Parts of a job: each is a run of its own, and joining makes one run of them.

Files are moved, not copied, and the run has no manifest until everything is in its place: whenever
the process is killed, each file stands either in its part or in the run, and joining goes on from
there. Only then the parts are removed. From their being read until then all of them are locked.
"""

import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from extractkit.advice import command, override
from extractkit.core.plan import Part, Shard
from extractkit.errors import RunDirectoryError
from extractkit.runs import journal
from extractkit.runs import manifest as manifests
from extractkit.runs.agreement import part_differences
from extractkit.runs.files import StoredFile, reading
from extractkit.runs.intact import check_names, check_some_left
from extractkit.runs.journal import Entry
from extractkit.runs.layout import (
    HYDRA,
    JOURNAL,
    LOCK,
    LOG,
    RUN_KEY,
    SAMPLES,
    SHARDS,
    elsewhere,
    locked,
    owner,
)
from extractkit.runs.manifest import MANIFEST, PARTS, SWEEP, Manifest, Status, Volatile, joined
from extractkit.runs.neighbours import no_run
from extractkit.runs.reader import sink_of
from extractkit.runs.recorder import Recorder
from extractkit.sinks.protocol import Sink
from extractkit.store.local import make_directory, make_durable, move, remove, write_durably

_NAME = re.compile(r"([0-9]+)-of-([0-9]+)")


@dataclass(frozen=True, eq=False)
class FinishedPart:
    """A finished part of a job, with its directory, its manifest and the entries of its journal."""

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
            f"runtime.part={part}: {RUN_KEY}={directory} holds parts of {others[0]}. "
            f"{elsewhere(RUN_KEY)}"
        )


def found_parts(directory: Path) -> list[Part]:
    """The parts for which there is a folder, in order."""
    parts = directory / PARTS
    names = [path.name for path in parts.iterdir()] if parts.is_dir() else []
    found = (Part.parse("/".join(name.groups())) for name in map(_NAME.fullmatch, names) if name)
    return sorted((part for part in found if part), key=lambda one: (one.count, one.number))


def finished_parts(directory: Path, busy: Mapping[Part, str]) -> list[FinishedPart]:
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
            f"extractkit … runtime.part=1/4 {override(RUN_KEY, directory)}, and so on to 4/4"
        )
    counts = sorted({part.count for part in found})
    if len(counts) > 1:
        raise RunDirectoryError(
            f"{directory / PARTS} holds parts of {' and of '.join(map(str, counts))}, which cannot "
            f"be of one job. Remove those that are not wanted"
        )
    finished: list[FinishedPart] = []
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
            finished.append(FinishedPart(part, at, manifest, _entries(at, manifest)))
    if lacking:
        given = finished[0].manifest.job_given if finished else ()
        told = [f"{part} {why or _missing(directory, part, given)}" for part, why in lacking]
        raise RunDirectoryError(
            f"{len(lacking)} of the {found[0].count} parts of {directory} are missing or not "
            f"finished: {'; '.join(told)}"
        )
    _check_agreement(directory, finished)
    return finished


def without_part(overrides: tuple[str, ...]) -> tuple[str, ...]:
    """The overrides of a part as those of the whole job."""
    return tuple(one for one in overrides if one.lstrip("+").partition("=")[0] != "runtime.part")


def _missing(directory: Path, part: Part, given: tuple[str, ...]) -> str:
    return f"is missing: {_command(directory, part, given)}"


def _command(directory: Path, part: Part, given: tuple[str, ...]) -> str:
    """The line that makes a part, as a shell takes it."""
    words = shlex.join(without_part(given)) or "…"
    return f"extractkit {words} runtime.part={part} {override(RUN_KEY, directory)}"


def _entries(directory: Path, manifest: Manifest) -> dict[Shard, Entry]:
    entries = journal.read(directory / JOURNAL).by_shard()
    if entries.keys() != set(manifest.shards):
        raise RunDirectoryError(
            f"{directory / JOURNAL} does not list the shards of its part. Have them stored again: "
            f"{command('resume', directory)}"
        )
    return entries


def _check_agreement(directory: Path, finished: list[FinishedPart]) -> None:
    """Refuse parts of which one is not like the most, or like the first where those are half."""
    first = finished[0]
    other = [one for one in finished if part_differences(first.manifest, one.manifest)]
    if not other:
        return
    alike = len(finished) - len(other)
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


def finalize(
    directory: Path,
    *,
    reader: Callable[[Manifest, str], Sink] = sink_of,
    note: Callable[[str], None] = lambda message: None,
) -> None:
    """Make one run of the parts in a directory, bitwise that which a single process would make.

    Where it was killed or failed before, it goes on. A run that has been joined is left alone.

    Args:
        directory: of the run, in which the parts stand.
        reader: makes a sink from a manifest and the sink's name.
        note: told what the user should know.

    Raises:
        RunDirectoryError: parts are missing or unfinished, are not of one job, or are damaged;
            another process is at work; or there is nothing to join.
        ConfigError: the parts name a sink that is not trusted, or is none.
        JobError: the disk refuses, or nothing is left of the samples.
    """
    if not directory.is_dir():
        raise RunDirectoryError(no_run(directory, (PARTS, MANIFEST)))
    with locked(directory), ExitStack() as locks:
        busy = _locked_parts(directory, locks)
        if (directory / MANIFEST).exists():
            _check_joined(directory)
            note(f"{directory} is finished")
        else:
            _join(directory, reader, busy)
        _remove_parts(directory, note, busy)


def _locked_parts(directory: Path, locks: ExitStack) -> dict[Part, str]:
    """Lock the parts; those that somebody works on, and who does, are returned."""
    busy = {}
    for part in found_parts(directory):
        at = place(directory, part)
        if _leads_elsewhere(at) or not at.is_dir():
            continue
        if (at_work := owner(at)) is not None:
            busy[part] = at_work
        else:
            locks.enter_context(locked(at))
    return busy


def _check_joined(directory: Path) -> None:
    recorded = manifests.read(directory)
    if recorded.part is not None:
        raise RunDirectoryError(
            f"{directory} is part {recorded.part} of a run. Join all of them: "
            f"{command('finalize', directory.parent.parent)}"
        )
    if recorded.status is not Status.FINISHED:
        raise RunDirectoryError(
            f"{directory} is a run that was not made in parts (status: {recorded.status}). Go on "
            f"with it: {command('resume', directory)}"
        )


def _join(
    directory: Path, reader: Callable[[Manifest, str], Sink], busy: Mapping[Part, str]
) -> None:
    for part in found_parts(directory):
        if _leads_elsewhere(at := place(directory, part)):
            raise RunDirectoryError(
                f"{at} is a link, or holds one in place of a folder: it may lead out of its run"
            )
    finished = finished_parts(directory, busy)
    first = finished[0].manifest
    sinks = {name: reader(first, name) for name in first.sinks}
    for one in finished:
        for entry in one.entries.values():
            check_names(one.directory, entry, first.sinks)
    entries = {s: e for one in finished for s, e in one.entries.items()}
    in_order = {shard: entries[shard] for shard in first.planned_shards}
    check_some_left(in_order.values(), sum(map(len, in_order)))
    moves = [move for one in finished for move in _moves(directory, one)]
    for name in (SHARDS, *([HYDRA] if _hydra(first) else [])):
        make_directory(directory / name)
    for source, target in moves:
        move(source, target)
    for folder in sorted({target.parent for _, target in moves}):
        make_durable(folder)
    write_durably(directory / LOG, b"".join(_log(one) for one in finished))
    journal.rewrite(directory / JOURNAL, in_order.values())
    recorder = Recorder(directory, _joined(finished), sinks, in_order)
    recorder.finish(_summed(one.manifest.volatile.timings for one in finished))


def _moves(directory: Path, finished: FinishedPart) -> list[tuple[Path, Path]]:
    """Where the files of a part are and where they belong; those that are there are left out.

    Raises:
        RunDirectoryError: one is in neither place, or damaged.
    """
    files = [file for entry in finished.entries.values() for file in entry.stored]
    if finished.part.number == 1:
        recorded = {file.name: file for file in finished.manifest.files}
        if SAMPLES not in recorded:
            raise RunDirectoryError(f"{finished.directory} records no {SAMPLES}: damaged")
        files += [recorded[SAMPLES], *_hydra(finished.manifest)]
    moves = []
    for file in files:
        source, target = finished.directory / file.name, directory / file.name
        if not source.exists() and _whole(file, directory):
            continue
        try:
            file.check(finished.directory)
        except RunDirectoryError as error:
            raise RunDirectoryError(
                f"part {finished.part} is damaged: {error}. Mend it: "
                f"{command('resume', finished.directory)}"
            ) from error
        moves.append((source, target))
    return moves


def _whole(file: StoredFile, directory: Path) -> bool:
    try:
        file.check(directory)
    except RunDirectoryError:
        return False
    return True


def _hydra(manifest: Manifest) -> list[StoredFile]:
    return [file for file in manifest.files if Path(file.name).parts[:-1] == (HYDRA,)]


def _log(finished: FinishedPart) -> bytes:
    """What was logged while a part was made, under a line that says so."""
    with suppress(FileNotFoundError), reading(finished.directory / LOG) as file:
        return f"part {finished.part}\n".encode() + file.read()
    return b""


def _joined(finished: Sequence[FinishedPart]) -> Manifest:
    """The manifest of the whole run, to be finished."""
    first = finished[0].manifest
    every = [one.manifest.volatile for one in finished]
    machines = [machine for one in every for machine in (one.host, *one.workers)]
    runtime = first.job_resolved.get("runtime")
    resolved = dict(first.job_resolved)
    if isinstance(runtime, Mapping):
        resolved["runtime"] = {**runtime, "part": None}
    return replace(
        first,
        part=None,
        actual=None,
        job_given=without_part(first.job_given),
        job_resolved=resolved,
        volatile=Volatile(
            started=min(one.started for one in every),
            host=first.volatile.host,
            working_directory=first.volatile.working_directory,
            resumed=tuple(resumed for one in every for resumed in one.resumed),
            workers=tuple(m for at, m in enumerate(machines) if m not in machines[:at]),
            self_check=joined(one.self_check for one in every),
        ),
    )


def _summed(timings: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Seconds of each stage over all parts."""
    summed: dict[str, float] = {}
    for one in timings:
        for stage, seconds in one.items():
            summed[stage] = summed.get(stage, 0.0) + seconds
    return summed


def _remove_parts(directory: Path, note: Callable[[str], None], busy: Mapping[Part, str]) -> None:
    """Take away what the parts have left, and nothing else: no link is followed, no folder emptied
    of what a part does not have, and no part touched that holds what the run does not."""
    found = found_parts(directory)
    joined = journal.read(directory / JOURNAL, brief=True).digests() if found else {}
    for part in found:
        at = place(directory, part)
        if _leads_elsewhere(at) or not at.is_dir():
            continue
        if part in busy:
            note(f"{at} is being worked on by {busy[part]}: it is left as it is")
        elif (lacking := _lacking(at, joined)) is not None:
            note(f"{at} is left as it is: {lacking}")
        else:
            _remove_part(at)
    parts = directory / PARTS
    _remove_folder(parts)
    if parts.exists():
        note(f"{parts} holds something that is no part of the run: it is left as it is")


def _lacking(at: Path, joined: Mapping[str, str]) -> str | None:
    """What a part has, or may have, that the joined run has not; None: nothing."""
    try:
        own = journal.read(at / JOURNAL, brief=True).digests()
    except RunDirectoryError as error:
        return str(error)
    other = [key for key, digest in own.items() if joined.get(key) != digest]
    return f"the run does not hold its shard {other[0]}" if other else None


def _remove_part(at: Path) -> None:
    """Take away a part of which nothing is needed any more; it is locked."""
    for path in (*(at / name for name in (JOURNAL, SAMPLES, LOG)), *_hydra_left(at)):
        remove(path)
    remove(at / MANIFEST)  # while that is there, it tells what else is
    for folder in (at / SHARDS, at / HYDRA):
        _remove_folder(folder)
    remove(at / LOCK)
    _remove_folder(at)


def _remove_folder(path: Path) -> None:
    with suppress(OSError):
        os.rmdir(path)  # noqa: PTH106 - see store/local.py


def _hydra_left(at: Path) -> list[Path]:
    """What Hydra composed for a part, and is not in the run."""
    if not (at / MANIFEST).exists():
        return []
    return [at / file.name for file in _hydra(manifests.read(at))]


def _leads_elsewhere(at: Path) -> bool:
    """Whether a part, or a folder of it, is a link."""
    return any(path.is_symlink() for path in (at.parent, at, at / SHARDS, at / HYDRA))
