"""The process that a job runs in: its environment and its heaps.

TensorFlow reads these variables when it starts, so they are set before it is imported; where it
runs already, a model that computes with it refuses others. Nothing here imports it.
"""

import ctypes
import gc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from extractkit.core.job import MOST_THREADS
from extractkit.errors import RunDirectoryError
from extractkit.models.tensorflow_process import (
    SWITCHES,
    THREADS,
    effective_variables,
    given,
    inter_op_threads,
    intra_op_threads,
    record_if_started,
)

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_MAPPED_BYTES = 4 << 20
_KEPT_BYTES = 16 << 20


def return_large_buffers() -> None:
    """Have blocks of four megabytes and more mapped, and unmapped, one by one.

    Left alone, glibc raises that threshold as blocks come and go. Then batches and shards of
    differing sizes fragment the heap, and the process grows with the number of samples. Smaller
    blocks stay on the heap, where they are reused without being cleared each time. Does nothing on
    another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


@contextmanager
def without_collections() -> Iterator[None]:
    """Pause Python's cyclic garbage collector within the block.

    A model that is loaded and listed makes millions of objects that stay. The collector would look
    through all of them again and again, for half of the time that a large graph takes. After the
    block they count as old, so that not even the next collection of young objects visits them.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # Together these two move every object to the oldest generation. What the caller has frozen
        # stays frozen.
        if not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()
        if was_enabled:
            gc.enable()


_XLA = ("XLA_FLAGS", "TF_XLA_FLAGS")
_KERNELS = (
    *("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE"),
    "NVIDIA_TF32_OVERRIDE",
)


def environment(threads: int | None) -> dict[str, str]:
    """Return the environment variables of a new job: its thread counts, and flags that are set.

    Args:
        threads: the requested number. If None, the number that is set or that TensorFlow already
            runs with, or the number of processors.
    """
    found = {name: os.environ[name] for name in (*SWITCHES, *_XLA, *_KERNELS) if name in os.environ}
    for name, count in zip(THREADS, (intra_op_threads(), inter_op_threads()), strict=True):
        found[name] = str(threads or given(name) or effective_variables().get(name, count))
    return found


def machine_variables() -> dict[str, str]:
    """Return the variables set in this process that `impose` does not change."""
    return {name: os.environ[name] for name in (*_XLA, *_KERNELS) if name in os.environ}


def take_machine_variables(variables: Mapping[str, str]) -> None:
    """Set these variables in a worker to the values of its driver, which the same user started."""
    for name in (*_XLA, *_KERNELS):
        if name in variables:
            os.environ[name] = variables[name]
        else:
            os.environ.pop(name, None)


def impose(variables: Mapping[str, str]) -> None:
    """Set the thread counts and switches to these values, and unset other switches.

    XLA's flags are not changed: they can name files to write, and the variables may come from
    another person's run. The limits of kernels belong to the machine. A resume reports where
    they differ.

    Raises:
        RunDirectoryError: a value that is no number of threads, or of more than there may be; or
            that is neither on nor off.
    """
    record_if_started()
    for name in (*THREADS, *SWITCHES):
        value = variables.get(name)
        if value is None:
            os.environ.pop(name, None)
        elif name in THREADS and _is_number(value) and not _small(value):
            raise RunDirectoryError(
                f"the run records {name}={value}: that is too many, {MOST_THREADS:,} at most"
            )
        elif _is_number(value) or (name in SWITCHES and value.lower() in ("true", "false")):
            os.environ[name] = value
        else:
            raise RunDirectoryError(f"the run records {name}={value!r}, which is no setting of it")


def _is_number(value: str) -> bool:
    return value.isdecimal() and value.isascii()


def _small(value: str) -> bool:
    digits = value.lstrip("0")
    return len(digits) <= len(str(MOST_THREADS)) and int(digits or 0) <= MOST_THREADS
