"""The process that a job runs in: what of it may change bits is recorded, and imposed on a resume.

TensorFlow reads these variables when it starts, so they are set before it is imported. Nothing
here imports it.
"""

import os
from collections.abc import Mapping

from extractkit.errors import RunDirectoryError
from extractkit.models.threads import inter_op_threads, intra_op_threads

_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
_SWITCHES = ("TF_ENABLE_ONEDNN_OPTS", "TF_DETERMINISTIC_OPS")
_XLA = ("XLA_FLAGS", "TF_XLA_FLAGS")


def environment(threads: int | None) -> dict[str, str]:
    """The variables as a new job is to have them: its threads, and flags as they are set.

    Args:
        threads: as the job asks; None: as many as there are processors, unless they are set.
    """
    found = {name: os.environ[name] for name in (*_SWITCHES, *_XLA) if name in os.environ}
    for name, count in zip(_THREADS, (intra_op_threads(), inter_op_threads()), strict=True):
        found[name] = str(threads or count)
    return found


def impose(variables: Mapping[str, str]) -> None:
    """Have the process run as one with these threads and switches; other switches are unset.

    XLA's flags are left as they are: they can name files to write, and variables may come from a
    run of somebody else's. That they differ is told when the run is gone on with.

    Raises:
        RunDirectoryError: a value that is no number of threads, or neither on nor off.
    """
    for name in (*_THREADS, *_SWITCHES):
        value = variables.get(name)
        if value is None:
            os.environ.pop(name, None)
        elif (value.isdecimal() and value.isascii()) or (
            name in _SWITCHES and value.lower() in ("true", "false")
        ):
            os.environ[name] = value
        else:
            raise RunDirectoryError(f"the run records {name}={value!r}, which is no setting of it")
