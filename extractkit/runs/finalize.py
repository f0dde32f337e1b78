"""Joining the parts of a job to one run. No model is loaded, and nothing is computed.

Files are moved, not copied, and the run has no manifest until everything is in its place: whenever
the process is killed, each file stands either in its part or in the run, and joining goes on from
there. Only then the parts are removed. From their being read until then all of them are locked.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from extractkit.advice import command
from extractkit.errors import RunDirectoryError
from extractkit.plan import Part
from extractkit.runs import journal
from extractkit.runs import manifest as manifests
from extractkit.runs.directory import HYDRA, JOURNAL, LOG, SAMPLES, SHARDS
from extractkit.runs.files import StoredFile, reading
from extractkit.runs.intact import check_names
from extractkit.runs.lock import LOCK, locked, owner
from extractkit.runs.manifest import MANIFEST, PARTS, Manifest, Status, Volatile
from extractkit.runs.neighbours import no_run
from extractkit.runs.parts import Piece, finished_parts, found_parts, place, without_part
from extractkit.runs.reader import sink_of
from extractkit.runs.recorder import Recorder
from extractkit.runs.self_check import joined
from extractkit.runs.some_left import check_some_left
from extractkit.runs.write import make_directory, make_durable, move, remove, write_durably
from extractkit.sinks.protocol import Sink


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
    pieces = finished_parts(directory, busy)
    first = pieces[0].manifest
    sinks = {name: reader(first, name) for name in first.sinks}
    for piece in pieces:
        for entry in piece.entries.values():
            check_names(piece.directory, entry, first.sinks)
    entries = {s: e for piece in pieces for s, e in piece.entries.items()}
    in_order = {shard: entries[shard] for shard in first.planned_shards}
    check_some_left(in_order.values(), sum(map(len, in_order)))
    moves = [move for piece in pieces for move in _moves(directory, piece)]
    for name in (SHARDS, *([HYDRA] if _hydra(first) else [])):
        make_directory(directory / name)
    for source, target in moves:
        move(source, target)
    for folder in sorted({target.parent for _, target in moves}):
        make_durable(folder)
    write_durably(directory / LOG, b"".join(_log(piece) for piece in pieces))
    journal.rewrite(directory / JOURNAL, in_order.values())
    recorder = Recorder(directory, _joined(pieces), sinks, in_order)
    recorder.finish(_summed(piece.manifest.volatile.timings for piece in pieces))


def _moves(directory: Path, piece: Piece) -> list[tuple[Path, Path]]:
    """Where the files of a part are and where they belong; those that are there are left out.

    Raises:
        RunDirectoryError: one is in neither place, or damaged.
    """
    files = [file for entry in piece.entries.values() for file in entry.stored]
    if piece.part.number == 1:
        recorded = {file.name: file for file in piece.manifest.files}
        if SAMPLES not in recorded:
            raise RunDirectoryError(f"{piece.directory} records no {SAMPLES}: damaged")
        files += [recorded[SAMPLES], *_hydra(piece.manifest)]
    moves = []
    for file in files:
        source, target = piece.directory / file.name, directory / file.name
        if not source.exists() and _whole(file, directory):
            continue
        try:
            file.check(piece.directory)
        except RunDirectoryError as error:
            raise RunDirectoryError(
                f"part {piece.part} is damaged: {error}. Mend it: "
                f"{command('resume', piece.directory)}"
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


def _log(piece: Piece) -> bytes:
    """What was logged while a part was made, under a line that says so."""
    with suppress(FileNotFoundError), reading(piece.directory / LOG) as file:
        return f"part {piece.part}\n".encode() + file.read()
    return b""


def _joined(pieces: Sequence[Piece]) -> Manifest:
    """The manifest of the whole run, to be finished."""
    first = pieces[0].manifest
    every = [piece.manifest.volatile for piece in pieces]
    machines = [machine for one in every for machine in (one.host, *one.workers)]
    runtime = first.job_resolved.get("runtime")
    resolved = dict(first.job_resolved)
    if isinstance(runtime, Mapping):
        resolved["runtime"] = {**runtime, "shards": None}
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
        os.rmdir(path)  # noqa: PTH106 - see runs/write.py


def _hydra_left(at: Path) -> list[Path]:
    """What Hydra composed for a part, and is not in the run."""
    if not (at / MANIFEST).exists():
        return []
    return [at / file.name for file in _hydra(manifests.read(at))]


def _leads_elsewhere(at: Path) -> bool:
    """Whether a part, or a folder of it, is a link."""
    return any(path.is_symlink() for path in (at.parent, at, at / SHARDS, at / HYDRA))
