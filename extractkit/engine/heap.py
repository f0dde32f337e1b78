"""The heaps of Python and of the C library."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

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
