"""How many threads this process computes with, as TensorFlow takes it. TensorFlow is not needed.

TensorFlow reads these variables when it starts: for what runs eagerly, in functions, by XLA, and in
sessions. LiteRT has to be told.
"""

import os

_INTRA_OP = "TF_NUM_INTRAOP_THREADS"
_INTER_OP = "TF_NUM_INTEROP_THREADS"


def intra_op_threads() -> int:
    """Threads that one operation may use."""
    return _number(_INTRA_OP)


def inter_op_threads() -> int:
    """Operations that may run at once."""
    return _number(_INTER_OP)


def _number(variable: str) -> int:
    given = os.environ.get(variable, "").strip()
    # Nothing, 0, and what is no number leave TensorFlow every processor.
    return int(given) if given.isdecimal() and int(given) else _processors()


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
