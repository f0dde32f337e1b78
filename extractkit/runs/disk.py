"""Whether a disk can hold what a plan predicts."""

import shutil
from pathlib import Path

from extractkit.errors import DiskSpaceError
from extractkit.runs.directory import existing_parent

_BYTES_PER_TENSOR = 2_000
_BYTES_PER_SHARD = 4_000


def free_bytes(path: Path) -> int:
    """Room on the disk of the directory `path`, or of its nearest parent."""
    return shutil.disk_usage(existing_parent(path)).free


def check_space(path: Path, needed_bytes: int) -> None:
    """Make sure that the disk of the directory `path` (or of its nearest parent) has room.

    Raises:
        DiskSpaceError: it has less than `needed_bytes` free.
    """
    directory, free = existing_parent(path), free_bytes(path)
    if needed_bytes > free:
        raise DiskSpaceError(
            f"The run needs {human_bytes(needed_bytes)}, but {directory} has {human_bytes(free)} "
            f"free. Take fewer samples (inputs.limit=…), store less of each tensor "
            f"(selectors.NAME.reduce, .slice or .cast), or choose another disk (hydra.run.dir=…)"
        )


def file_overhead(tensors: int, shards: int) -> int:
    """About what files take beyond their values: HDF5's structures, journal, manifest, index."""
    return _BYTES_PER_TENSOR * tensors * (shards + 1) + _BYTES_PER_SHARD * (shards + 1)


def human_bytes(count: int) -> str:
    """A number of bytes in decimal units, as disks are sold: "813 B", "6.5 GB"."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            break
        size /= 1000
    digits = 0 if unit == "B" or size >= 99.5 else 1
    return f"{size:.{digits}f} {unit}"
