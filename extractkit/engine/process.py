"""The process that a job runs in: what of it may change bits is recorded, and imposed on a resume.

TensorFlow reads these variables when it starts, so they are set before it is imported. Nothing
here imports it.
"""

import os
from collections.abc import Mapping

_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
_FLAGS = ("TF_ENABLE_ONEDNN_OPTS", "XLA_FLAGS", "TF_XLA_FLAGS", "TF_DETERMINISTIC_OPS")


def environment(threads: int | None) -> dict[str, str]:
    """The variables as a new job is to have them: its threads, and flags as they are set.

    Args:
        threads: as the job asks; None: as many as there are processors, unless they are set.
    """
    found = {name: os.environ[name] for name in _FLAGS if name in os.environ}
    for name in _THREADS:
        found[name] = str(threads) if threads else os.environ.get(name) or str(_processors())
    return found


def impose(variables: Mapping[str, str]) -> None:
    """Have the process run as one with these variables; others of their kind are unset."""
    for name in (*_THREADS, *_FLAGS):
        if name in variables:
            os.environ[name] = variables[name]
        else:
            os.environ.pop(name, None)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
