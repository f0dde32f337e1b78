"""The state that a model carries from shard to shard, a file beside the shard that it follows."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from extractkit.errors import RunDirectoryError
from extractkit.plan import Shard
from extractkit.runs.directory import JOURNAL, shard_file
from extractkit.runs.journal import Entry
from extractkit.runs.manifest import Manifest
from extractkit.sinks.npz import NpzSink
from extractkit.values import Dense, State

SUFFIX = ".state.npz"


def state_file(shard: Shard) -> str:
    """The name of the file with the state after a shard, within the run directory."""
    return shard_file(shard, SUFFIX)


def to_bytes(state: State) -> bytes:
    """Return a state as the bytes of an `.npz` file, its arrays named by their numbers."""
    return NpzSink().serialize({str(at): Dense(array) for at, array in enumerate(state)})


def check_state(manifest: Manifest, entry: Entry) -> None:
    """Check that an entry of a run that carries state names the state after its shard.

    Raises:
        RunDirectoryError: it does not.
    """
    if manifest.model.get("state") == "carry" and entry.state is None and entry.stop:
        raise RunDirectoryError(
            f"{JOURNAL}, shard {entry.shard!r} names no state, and the run carries one"
        )


def state_before(directory: Path, entries: Mapping[Shard, Entry], shard: Shard) -> State:
    """Read the state that a shard starts from: that after the shard in front of it.

    Args:
        entries: the committed shards.
        shard: of samples, not the first.

    Raises:
        RunDirectoryError: the shard in front of it is not committed, or the state after it is
            missing or damaged.
    """
    # Another thread may be committing shards behind this one.
    before = next((entries[key] for key in list(entries) if key.stop == shard.start), None)
    if before is None or before.state is None:
        raise RunDirectoryError(
            f"{directory / JOURNAL} has no state in front of sample {shard.start}, where shard "
            f"{shard.key} starts from"
        )
    before.state.check(directory)
    with np.load(directory / before.state.name, allow_pickle=False) as archive:
        return tuple(archive[str(at)] for at in range(len(archive.files)))
