"""Verification of a run, file by file and value by value. Needs no TensorFlow.

Only computing values again needs TensorFlow. The engine passes in the function for that.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from extractkit.advice import command
from extractkit.core.plan import Shard
from extractkit.errors import RunDirectoryError
from extractkit.runs import JOURNAL, MANIFEST
from extractkit.runs import manifest as manifests
from extractkit.runs.checking.contents import shard_contents
from extractkit.runs.checking.files import (
    given_files,
    listed_shards,
    other_files,
    recorded_files,
    sample_rows,
    shard_files,
)
from extractkit.runs.checking.result import Check, Finding, Outcome, Verification, counted
from extractkit.runs.directory import owner
from extractkit.runs.journal import Entry
from extractkit.runs.manifest import Manifest, Status
from extractkit.runs.reader import sink_of
from extractkit.sinks import Sink


@dataclass(frozen=True, eq=False)
class IntactRun:
    """The intact content of a run, with which recomputed values are compared.

    Attributes:
        directory: the run directory.
        manifest: the run's manifest.
        entries: the committed shards, each with those of its files that are as written.
        sinks: the sinks that read them, by name.
        samples: whether the samples' rows are as written.
    """

    directory: Path
    manifest: Manifest
    entries: Mapping[Shard, Entry]
    sinks: Mapping[str, Sink]
    samples: bool


Recompute = Callable[[IntactRun], Sequence[Check]]
"""Computes values again, and returns the checks made with them."""


def verify(
    directory: Path,
    *,
    reader: Callable[[Manifest, str], Sink] = sink_of,
    recompute: Recompute | None = None,
) -> Verification:
    """Check everything in a run, and report all that is wrong.

    For an unfinished run, checks what has been committed. Nothing is written, and files that are
    not as written are not opened.

    Args:
        directory: the run directory.
        reader: makes a sink that reads the run, from its manifest and the sink's name.
        recompute: called last, unless the manifest cannot be read.

    Raises:
        RunDirectoryError: the directory holds neither manifest nor journal, or a process is
            changing it.
        ConfigError: the manifest names something that is not a sink, or not a trusted one.
    """
    if (at_work := owner(directory)) is not None:
        raise RunDirectoryError(
            f"{directory} is being worked on by {at_work}. Wait for it to end: "
            f"{command('verify', directory)}"
        )
    manifest, first = _manifest(directory)
    sinks = {} if manifest is None else {name: reader(manifest, name) for name in manifest.sinks}
    journal, entries = listed_shards(directory, manifest)
    shards, intact = shard_files(directory, entries, manifest)
    if manifest is None:
        return Verification(str(directory), None, (first, journal, shards))
    files = recorded_files(directory, manifest)
    samples, rows = sample_rows(directory, manifest, files)
    checks = [
        first,
        files,
        journal,
        shards,
        samples,
        shard_contents(directory, manifest, intact, sinks, rows),
        other_files(directory, manifest, entries),
        given_files(manifest),
    ]
    if recompute is not None:
        samples_intact = samples.outcome is Outcome.OK
        checks += recompute(IntactRun(directory, manifest, intact, sinks, samples_intact))
    return Verification(str(directory), manifest.status, tuple(checks))


def _manifest(directory: Path) -> tuple[Manifest | None, Check]:
    name = "manifest"
    path = directory / MANIFEST
    try:
        found = manifests.read(directory)
        sinks = " and ".join(found.sinks)
    except RunDirectoryError as error:
        if not os.path.isdir(directory):  # noqa: PTH112 - a name that is too long does not exist
            raise
        if path.exists():
            message = str(error)
        elif (directory / JOURNAL).exists():
            message = f"{path} is missing from its run"
        else:
            raise
        return None, Check.of(name, "unreadable", [Finding(MANIFEST, message)])
    notes = []
    if found.status is not Status.FINISHED:
        planned = f"of {len(found.shards)} planned shards" if found.plan else "before its plan"
        notes.append(f"the run is not finished (status: {found.status}), {planned}")
    size = (
        f"{counted(len(found.tensors), 'tensor')}, {counted(found.samples, 'sample')}, by {sinks}"
    )
    return found, Check.of(name, size, notes=notes)
