"""What of a run's files is not as manifest and journal record it, found without reading values."""

from collections.abc import Callable
from pathlib import Path

from extractkit.errors import RunDirectoryError
from extractkit.plan import Shard
from extractkit.runs import journal
from extractkit.runs.directory import JOURNAL
from extractkit.runs.files import StoredFile
from extractkit.runs.intact import check_entry
from extractkit.runs.journal import Journal
from extractkit.runs.manifest import Manifest


def damage(directory: Path, manifest: Manifest) -> list[str]:
    """Every file that is missing or holds something else, each in a message that names it.

    Of a run that is not finished, what it says to have stored is looked at.
    """
    found: list[str] = []

    def check(one: Callable[..., object], *arguments: object, **options: object) -> None:
        try:
            one(*arguments, **options)
        except RunDirectoryError as error:
            found.append(str(error))

    for file in manifest.files:
        check(StoredFile.check, file, directory)
    if manifest.volatile.log is not None:
        check(StoredFile.check, manifest.volatile.log, directory, growing=True)
    try:
        written = journal.read(directory / JOURNAL)
    except RunDirectoryError as error:
        return [*found, str(error)]
    found += _gaps(directory, manifest, written)
    try:
        sinks = set(manifest.sinks)
    except RunDirectoryError as error:
        return [*found, str(error)]
    for entry in written.by_shard().values():
        check(check_entry, directory, entry, sinks)
    return found


def _gaps(directory: Path, manifest: Manifest, written: Journal) -> list[str]:
    """Where the journal does not list exactly the planned shards, once they have been stored."""
    path = directory / JOURNAL
    found = []
    if manifest.actual is not None and written.torn is not None:
        found.append(f"{path} is damaged: its last line is not whole")
    planned, listed = set(manifest.shards), set(written.by_shard())
    if manifest.actual is not None:
        found += [f"{path} lacks shard {shard.key!r}" for shard in _sorted(planned - listed)]
    found += [
        f"{path} lists shard {shard.key!r}, which was not planned"
        for shard in _sorted(listed - planned)
    ]
    return found


def _sorted(shards: set[Shard]) -> list[Shard]:
    return sorted(shards, key=lambda shard: (shard.start, shard.stop))
