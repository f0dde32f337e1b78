"""Checks of committed shards, for damaged and interrupted runs."""

import logging
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from extractkit.core.plan import Shard
from extractkit.errors import FinalError, RunDirectoryError
from extractkit.runs import journal
from extractkit.runs.journal import Entry
from extractkit.runs.layout import JOURNAL, SHARDS, shard_file
from extractkit.runs.manifest import Manifest
from extractkit.runs.storing import check_state, state_file
from extractkit.store.local import check_directory, cut, make_durable

_log = logging.getLogger(__name__)

_SUFFIX = re.compile(r"(\.[A-Za-z0-9]+)+")


def intact_entries(
    directory: Path, manifest: Manifest, sinks: Collection[str]
) -> dict[Shard, Entry]:
    """Return the committed shards whose files exist and are as written.

    A journal line that was being written when its process died is cut off, and damaged lines are
    removed. Their shards are stored again.

    Args:
        sinks: names of the sinks that wrote the run.

    Returns:
        The entries without statistics and timings, which would grow large over many shards.

    Raises:
        RunDirectoryError: the journal is not a file or has another version, or the directory of
            shards is not a real directory of the run.
        JobError: the disk refuses.
    """
    check_directory(directory / SHARDS)
    path = directory / JOURNAL
    if path.exists():
        # A process that died may have written a line that is not yet durable.
        make_durable(path)
    found = journal.read(path, salvage=True, brief=True)
    if found.damaged:
        _log.warning("%s: damaged lines %s are removed", path, found.damaged)
        journal.rewrite(path, journal.read(path, salvage=True).entries)
    elif found.torn is not None:
        _log.warning("%s: its last line was not finished; the shard is stored again", path)
        cut(path, found.size)
    planned = set(manifest.shards)
    entries = {}
    for shard, entry in found.by_shard().items():
        try:
            if shard not in planned:
                raise RunDirectoryError(f"{path} lists shard {entry.shard!r}, which is not planned")
            check_state(manifest, entry)
            check_entry(directory, entry, sinks)
        except RunDirectoryError as error:
            _log.warning("%s; its planned samples are stored again", error)
        else:
            entries[shard] = entry
    return entries


def check_entry(directory: Path, entry: Entry, sinks: Collection[str]) -> None:
    """Check one shard's files against its journal entry.

    Raises:
        RunDirectoryError: a file is missing or damaged, or has a name that its shard cannot have.
    """
    check_names(directory, entry, sinks)
    for file in entry.stored:
        file.check(directory)


def check_names(directory: Path, entry: Entry, sinks: Collection[str]) -> None:
    """Check that an entry names exactly the files that its shard has.

    Raises:
        RunDirectoryError: it names other files.
    """
    shard = entry.covers
    at = f"{directory / JOURNAL}, shard {entry.shard!r}"
    if entry.shard != shard.key or set(entry.files) != set(sinks):
        raise RunDirectoryError(
            f"{at}: files of {', '.join(sorted(entry.files)) or 'no sink'} for samples "
            f"{entry.start} … {entry.stop}; {', '.join(sorted(sinks))} wrote the run"
        )
    for file in entry.files.values():
        suffix = file.name.removeprefix(shard_file(shard, ""))
        if suffix == file.name or not _SUFFIX.fullmatch(suffix):
            raise RunDirectoryError(
                f"{at} names the file {file.name!r}, not {shard_file(shard, '.…')!r}"
            )
    if entry.state is not None and entry.state.name != state_file(shard):
        raise RunDirectoryError(
            f"{at} names the state {entry.state.name!r}, not {state_file(shard)!r}"
        )


def check_any_values(entries: Iterable[Entry], samples: int) -> None:
    """Refuse to finish a run in which no sample has a value.

    Args:
        entries: the entries of all shards.
        samples: number of samples, counted once for each checkpoint. 0 for a run of constants
            alone, which is accepted.

    Raises:
        FinalError: all samples were skipped.
    """
    count, first = 0, ""
    for entry in entries:
        count += len(entry.missing)
        first = first or next(iter(entry.missing.values()), "")
    if samples and count == samples:
        raise FinalError(
            f"no sample has a value: all {samples} were skipped. "
            f"The first: {first.removesuffix('.')}. To store values that are not finite: "
            f"runtime.non_finite=warn. To see where a model fails: runtime.bad_samples=fail. "
            f"That takes a new run, because this one keeps its settings"
        )
