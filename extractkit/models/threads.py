"""How many threads this process computes with, as TensorFlow takes it. TensorFlow is not needed.

TensorFlow reads these variables when it starts: for what runs eagerly, in functions, by XLA, and in
sessions. LiteRT has to be told.
"""

import os

INTRA_OP = "TF_NUM_INTRAOP_THREADS"
INTER_OP = "TF_NUM_INTEROP_THREADS"


def intra_op_threads() -> int:
    """Threads that one operation may use."""
    return given(INTRA_OP) or _processors()


def inter_op_threads() -> int:
    """Operations that may run at once."""
    return given(INTER_OP) or _processors()


def given(variable: str) -> int | None:
    """The number that one of these variables gives.

    None for nothing, 0, and what is no number: they leave TensorFlow every processor.
    """
    text = os.environ.get(variable, "").strip()
    return (int(text) or None) if text.isdecimal() else None


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
