"""The C library's heap: large buffers go back to the system as soon as they are free."""

import ctypes

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
