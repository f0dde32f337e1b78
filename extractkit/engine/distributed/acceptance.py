"""What a worker says to have stored, held against what it was given and against the disk."""

from pathlib import Path

from extractkit.engine.distributed.messages import GarbledError
from extractkit.errors import RunDirectoryError
from extractkit.plan import Shard
from extractkit.runs import journal
from extractkit.runs.intact import check_names
from extractkit.runs.journal import Entry
from extractkit.runs.manifest import Manifest
from extractkit.runs.storing import check_stored


def accepted(line: str, shard: Shard, directory: Path, manifest: Manifest, writer: str) -> Entry:
    """The entry of a shard, once everything about it is as it has to be.

    Args:
        line: as the worker sent it.
        shard: what it had to compute.
        writer: under which name it stores files.

    Raises:
        GarbledError: the line is none of a journal, tells of another shard, of other files or of
            other tensors; or a file is not there, or not as it says.
    """
    try:
        entry = journal.entry_of(line.encode(errors="surrogatepass"), "its entry")
        if entry is None:
            raise GarbledError("the checksum of its entry does not hold")
        if entry.covers != shard or entry.shard != shard.key:
            raise GarbledError(f"it was given {shard.key}, and stored {entry.shard!r}")
        check_names(directory, entry, manifest.sinks)
        check_stored(directory, entry, writer)
    except RunDirectoryError as error:
        raise GarbledError(str(error)) from error
    planned = {t.key for t in manifest.tensors if t.stored.constant == shard.constant}
    if entry.stats.keys() != planned:
        raise GarbledError("it tells of other tensors than those planned")
    samples = {str(index) for index in range(shard.start, shard.stop)}
    if not entry.skipped.keys() <= samples:
        raise GarbledError("it tells of samples that are not of its shard")
    return entry
