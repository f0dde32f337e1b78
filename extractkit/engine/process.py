"""The process that a job runs in: its environment and its heaps.

TensorFlow reads these variables when it starts, so they are set before it is imported. If it is
already running, a model that computes with it refuses different values. This module does not import
it.
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
    """Map and unmap blocks of four megabytes and more one by one.

    By default, glibc raises this threshold as blocks are freed. Then batches and shards of
    different sizes fragment the heap, and the process grows with the number of samples. Smaller
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

    Loading and listing a model makes millions of long-lived objects. The collector would visit all
    of them again and again, which takes half of the time for a large graph. After the block they
    count as old, so that the next collection of young objects does not visit them.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # Together these two move every object to the oldest generation. Objects that the caller has
        # frozen stay frozen.
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
        RunDirectoryError: a value is not a valid number of threads, or neither on nor off.
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
