"""Parts of a job: each is a run of its own, and joining them makes one run.

Files are moved, not copied, and the run has no manifest until every file has arrived. If the
process is killed, each file is either in its part or in the run, and joining continues from there.
The parts are removed last. They stay locked from the moment they are read.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from extractkit.advice import command, override
from extractkit.core.digests import Algorithm
from extractkit.core.shards import Part, Shard
from extractkit.errors import RunDirectoryError
from extractkit.runs import (
    COMPONENTS,
    ELSEWHERE,
    HYDRA,
    JOURNAL,
    LOCK,
    LOG,
    MANIFEST,
    PARTS,
    RUN_KEY,
    SAMPLES,
    SHARDS,
    SWEEP,
    journal,
    no_run,
)
from extractkit.runs import manifest as manifests
from extractkit.runs.directory import locked, owner
from extractkit.runs.environment import Volatile, joined_checks
from extractkit.runs.files import StoredFile, reading
from extractkit.runs.journal import Entry
from extractkit.runs.manifest import Manifest, Status
from extractkit.runs.reader import sink_of
from extractkit.runs.recorder import Recorder
from extractkit.runs.same_job import part_differences, repeated
from extractkit.runs.shards import check_any_values, check_names
from extractkit.sinks import Sink
from extractkit.store.local import make_directory, make_durable, move, remove, write_durably

_NAME = re.compile(r"([0-9]+)-of-([0-9]+)")


@dataclass(frozen=True, eq=False)
class FinishedPart:
    """A finished part of a job with its directory, its manifest and its journal entries."""

    part: Part
    directory: Path
    manifest: Manifest
    entries: Mapping[Shard, Entry]


def part_directory(directory: Path, part: Part | None) -> Path:
    """Return the directory of a part of a run, or the run's own if `part` is None."""
    if part is None:
        return directory
    return directory / PARTS / f"{part.number}-of-{part.count}"


def check_part_directory(directory: Path, part: Part) -> None:
    """Check that a part may be made for a run.

    Raises:
        RunDirectoryError: the run exists already, or has parts of another count.
    """
    if (directory / MANIFEST).exists():
        raise RunDirectoryError(
            f"{RUN_KEY}={directory} already holds a run, so no part of it can be made. Look at "
            f"it: {command('show', directory)}. {ELSEWHERE}"
        )
    others = sorted({found.count for found in found_parts(directory)} - {part.count})
    if others:
        raise RunDirectoryError(
            f"runtime.part={part}: {RUN_KEY}={directory} holds parts of {others[0]}. {ELSEWHERE}"
        )


def found_parts(directory: Path) -> list[Part]:
    """Return the parts that have a folder, in order."""
    parts = directory / PARTS
    names = [path.name for path in parts.iterdir()] if parts.is_dir() else []
    found = (Part.parse("/".join(name.groups())) for name in map(_NAME.fullmatch, names) if name)
    return sorted((part for part in found if part), key=lambda one: (one.count, one.number))


def finished_parts(directory: Path, busy: Mapping[Part, str]) -> list[FinishedPart]:
    """Return all parts of a run, in order, after checking that they are finished and of one job.

    Args:
        busy: the parts that another process holds, with its name. The caller holds the locks of
            all others.

    Raises:
        RunDirectoryError: there are none, some are missing or unfinished (the message lists all of
            them, with the command that makes each), or two are of different jobs.
    """
    found = found_parts(directory)
    if not found:
        if (directory / SWEEP).exists():
            manifests.read(directory)  # raises with the message that this is a sweep
        raise RunDirectoryError(
            f"{directory} holds no parts of a run. Make them, in any order and anywhere: "
            f"extractkit … runtime.part=1/4 {override(RUN_KEY, directory)}, and so on to 4/4"
        )
    counts = sorted({part.count for part in found})
    if len(counts) > 1:
        raise RunDirectoryError(
            f"{directory / PARTS} holds parts of {' and of '.join(map(str, counts))}, which cannot "
            f"be of one job. Remove those you do not want"
        )
    finished: list[FinishedPart] = []
    lacking: list[tuple[Part, str | None]] = []
    for part in found[0].siblings:
        at = part_directory(directory, part)
        if part in busy:
            lacking.append((part, f"is being worked on by {busy[part]}"))
            continue
        if not (at / MANIFEST).exists():
            lacking.append((part, None))
            continue
        manifest = manifests.read(at)
        if manifest.part != str(part):
            raise RunDirectoryError(f"{at} is recorded as part {manifest.part}, not {part}")
        if manifest.status is not Status.FINISHED:
            lacking.append((part, f"is unfinished ({manifest.status}): {command('resume', at)}"))
        else:
            finished.append(FinishedPart(part, at, manifest, _entries(at, manifest)))
    if lacking:
        listed = [f"{part} {why or _missing(directory, part, finished)}" for part, why in lacking]
        raise RunDirectoryError(
            f"{len(lacking)} of the {found[0].count} parts of {directory} are missing or not "
            f"finished: {'; '.join(listed)}"
        )
    _check_agreement(directory, finished)
    return finished


def without_part(overrides: tuple[str, ...]) -> tuple[str, ...]:
    """Return the overrides of a part without the one that chooses the part."""
    return tuple(one for one in overrides if one.lstrip("+").partition("=")[0] != "runtime.part")


def _missing(directory: Path, part: Part, finished: Sequence[FinishedPart]) -> str:
    """Return the message that a part is missing, with the command that makes it."""
    if not finished:
        return f"is missing: extractkit … runtime.part={part} {override(RUN_KEY, directory)}"
    return f"is missing: {_command(directory, part, finished[0])}"


def _command(directory: Path, part: Part, like: FinishedPart) -> str:
    """Return the shell command that makes a part in the same way as another part."""
    return repeated(like.directory, like.manifest, directory, [f"runtime.part={part}"])


def _entries(directory: Path, manifest: Manifest) -> dict[Shard, Entry]:
    entries = journal.read(directory / JOURNAL).by_shard()
    if entries.keys() != set(manifest.shards):
        raise RunDirectoryError(
            f"{directory / JOURNAL} does not list the shards of its part. Store them again: "
            f"{command('resume', directory)}"
        )
    return entries


def _check_agreement(directory: Path, finished: list[FinishedPart]) -> None:
    """Raise if the parts disagree; the reference is the majority, or the first part in a tie."""
    first = finished[0]
    by = first.manifest.digests
    finished = [replace(one, manifest=_with_samples(one, by)) for one in finished]
    other = [one for one in finished if part_differences(first.manifest, one.manifest)]
    if not other:
        return
    alike = len(finished) - len(other)
    reference, odd = (other[0], first) if len(other) > alike else (first, other[0])
    remedies = [(odd, reference)] if len(other) != alike else [(odd, reference), (reference, odd)]
    advice = " Or: ".join(
        f"remove {one.directory} and make it again as part {like.part} was made: "
        f"{_command(directory, one.part, like)}."
        for one, like in remedies
    )
    found = part_differences(reference.manifest, odd.manifest)
    raise RunDirectoryError(
        f"part {odd.part} is not of the same job as part {reference.part}, or was made in another "
        f"environment. Recorded by part {reference.part}, found in the other: {'; '.join(found)}. "
        f"{advice[0].upper()}{advice[1:].rstrip('.')}"
    )


def _with_samples(one: FinishedPart, by: Algorithm) -> Manifest:
    """Return the manifest of a part with the digest of its samples' rows by this algorithm.

    Raises:
        RunDirectoryError: the rows are needed for that, and damaged.
    """
    recorded = next((file for file in one.manifest.files if file.name == SAMPLES), None)
    if recorded is None or recorded.digest.algorithm is by:
        return one.manifest
    _check_file(one, recorded)
    again = StoredFile.on_disk(one.directory, SAMPLES, by=by)
    files = tuple(again if file is recorded else file for file in one.manifest.files)
    return replace(one.manifest, files=files)


def join(
    directory: Path,
    *,
    reader: Callable[[Manifest, str], Sink] = sink_of,
    note: Callable[[str], None] = lambda message: None,
) -> None:
    """Join the parts in a directory to one run, bitwise identical to that of a single process.

    Continues if it was interrupted before. A run that is already joined is left unchanged.

    Args:
        directory: the run directory, which holds the parts.
        reader: makes a sink from a manifest and the sink's name.
        note: receives messages for the user.

    Raises:
        RunDirectoryError: parts are missing, unfinished, of different jobs or damaged; another
            process is at work; or there is nothing to join.
        ConfigError: the parts name something that is not a sink, or not a trusted one.
        JobError: the disk refuses, or no sample has a value.
    """
    if not directory.is_dir():
        raise RunDirectoryError(no_run(directory, (PARTS, MANIFEST)))
    with locked(directory), ExitStack() as locks:
        busy = _locked_parts(directory, locks)
        if (directory / MANIFEST).exists():
            _check_joined(directory)
            note(f"{directory} is finished")
        else:
            _join_locked(directory, reader, busy)
        _remove_parts(directory, note, busy)


def _locked_parts(directory: Path, locks: ExitStack) -> dict[Part, str]:
    """Lock the parts. Return those that another process holds, with its name."""
    busy = {}
    for part in found_parts(directory):
        at = part_directory(directory, part)
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
            f"{command('join', directory.parent.parent)}"
        )
    if recorded.status is not Status.FINISHED:
        raise RunDirectoryError(
            f"{directory} is a run that was not made in parts (status: {recorded.status}). Resume "
            f"it: {command('resume', directory)}"
        )


def _join_locked(
    directory: Path, reader: Callable[[Manifest, str], Sink], busy: Mapping[Part, str]
) -> None:
    for part in found_parts(directory):
        if _leads_elsewhere(at := part_directory(directory, part)):
            raise RunDirectoryError(
                f"{at} is a link, or contains one in place of a folder: it may lead out of its run"
            )
    finished = finished_parts(directory, busy)
    first = finished[0].manifest
    sinks = {name: reader(first, name) for name in first.sinks}
    for one in finished:
        for entry in one.entries.values():
            check_names(one.directory, entry, first.sinks)
    entries = {s: e for one in finished for s, e in one.entries.items()}
    in_order = {shard: entries[shard] for shard in first.planned_shards}
    check_any_values(in_order.values(), sum(map(len, in_order)))
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
    """Return source and target of each file of a part, except files already moved.

    Raises:
        RunDirectoryError: a file is missing from both, or damaged.
    """
    files = [file for entry in finished.entries.values() for file in entry.stored]
    if finished.part.number == 1:
        recorded = {file.name: file for file in finished.manifest.files}
        if SAMPLES not in recorded:
            raise RunDirectoryError(f"{finished.directory} records no {SAMPLES}: damaged")
        beside = [recorded[COMPONENTS]] if COMPONENTS in recorded else []
        files += [recorded[SAMPLES], *beside, *_hydra(finished.manifest)]
    moves = []
    for file in files:
        source, target = finished.directory / file.name, directory / file.name
        if not source.exists() and file.whole(directory):
            continue
        _check_file(finished, file)
        moves.append((source, target))
    return moves


def _check_file(finished: FinishedPart, file: StoredFile) -> None:
    try:
        file.check(finished.directory)
    except RunDirectoryError as error:
        raise RunDirectoryError(
            f"part {finished.part} is damaged: {error}. Repair it: "
            f"{command('resume', finished.directory)}"
        ) from error


def _hydra(manifest: Manifest) -> list[StoredFile]:
    return [file for file in manifest.files if Path(file.name).parts[:-1] == (HYDRA,)]


def _log(finished: FinishedPart) -> bytes:
    """Return the log of a part, under a line that names the part."""
    with suppress(FileNotFoundError), reading(finished.directory / LOG) as file:
        return f"part {finished.part}\n".encode() + file.read()
    return b""


def _joined(finished: Sequence[FinishedPart]) -> Manifest:
    """Return the manifest of the whole run, before it is finished."""
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
            self_check=joined_checks(one.self_check for one in every),
            sharing=first.volatile.sharing,
        ),
    )


def _summed(timings: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Add up the seconds of each stage over all parts."""
    summed: dict[str, float] = {}
    for one in timings:
        for stage, seconds in one.items():
            summed[stage] = summed.get(stage, 0.0) + seconds
    return summed


def _remove_parts(directory: Path, note: Callable[[str], None], busy: Mapping[Part, str]) -> None:
    """Remove the files of joined parts, and nothing else.

    Links are not followed, files that are not a part's stay, and so does a part that holds a shard
    that the run lacks.
    """
    found = found_parts(directory)
    joined = journal.read(directory / JOURNAL, brief=True).digests() if found else {}
    for part in found:
        at = part_directory(directory, part)
        if _leads_elsewhere(at) or not at.is_dir():
            continue
        if part in busy:
            note(f"{at} is being worked on by {busy[part]}: it is left unchanged")
        elif (lacking := _lacking(at, joined)) is not None:
            note(f"{at} is left unchanged: {lacking}")
        else:
            _remove_part(at)
    parts = directory / PARTS
    _remove_folder(parts)
    if parts.exists():
        note(f"{parts} holds files that are not part of the run: it is left unchanged")


def _lacking(at: Path, joined: Mapping[str, str]) -> str | None:
    """Return what a part has, or may have, that the joined run lacks; None if nothing."""
    try:
        own = journal.read(at / JOURNAL, brief=True).digests()
    except RunDirectoryError as error:
        return str(error)
    other = [key for key, digest in own.items() if joined.get(key) != digest]
    return f"the run does not hold its shard {other[0]}" if other else None


def _remove_part(at: Path) -> None:
    """Remove a joined part, whose lock is held."""
    for path in (*(at / name for name in (JOURNAL, SAMPLES, COMPONENTS, LOG)), *_hydra_left(at)):
        remove(path)
    remove(at / MANIFEST)  # last of the files, because it lists the others
    for folder in (at / SHARDS, at / HYDRA):
        _remove_folder(folder)
    remove(at / LOCK)
    _remove_folder(at)


def _remove_folder(path: Path) -> None:
    with suppress(OSError):
        os.rmdir(path)  # noqa: PTH106 - see store/local.py


def _hydra_left(at: Path) -> list[Path]:
    """Return the files that Hydra composed for a part and that the run does not need."""
    if not (at / MANIFEST).exists():
        return []
    return [at / file.name for file in _hydra(manifests.read(at))]


def _leads_elsewhere(at: Path) -> bool:
    """Return True if a part, or a folder of it, is a link."""
    return any(path.is_symlink() for path in (at.parent, at, at / SHARDS, at / HYDRA))
