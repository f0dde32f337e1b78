"""The C library's heap: large buffers go back to the system as soon as they are free."""

import ctypes

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_THRESHOLD = 1 << 20


def return_large_buffers() -> None:
    """Have blocks of a megabyte and more mapped, and unmapped, one by one.

    Left alone, glibc raises that threshold as blocks come and go. Then batches and shards of
    differing sizes fragment the heap, and the process grows with the number of samples. Does
    nothing on another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _THRESHOLD)
