"""What of the environment TensorFlow computes with in this process.

It reads these variables once, when it starts to compute: to set them later changes nothing. So what
they were is remembered, and a job that wants others is refused. TensorFlow is not imported here.
"""

import os
import sys
from collections.abc import Mapping
from types import MappingProxyType

from extractkit.errors import ConfigError
from extractkit.models.threads import INTER_OP, INTRA_OP, given, inter_op_threads, intra_op_threads

THREADS = (INTRA_OP, INTER_OP)
"""Variables that say how many threads there are."""

SWITCHES = ("TF_ENABLE_ONEDNN_OPTS", "TF_DETERMINISTIC_OPS")
"""Variables that switch something on or off."""

_READ: dict[str, str] = {}


def in_force() -> Mapping[str, str]:
    """The variables as TensorFlow has read them, threads always counted; empty before it starts."""
    return MappingProxyType(_READ)


def remember() -> None:
    """Call where TensorFlow has just started, or is about to; the first call counts."""
    import tensorflow as tf

    if not _READ:
        # 0 where nobody has set them in Python.
        threading = tf.config.threading
        intra_op = threading.get_intra_op_parallelism_threads() or intra_op_threads()
        inter_op = threading.get_inter_op_parallelism_threads() or inter_op_threads()
        _READ.update({INTRA_OP: str(intra_op), INTER_OP: str(inter_op)})
        _READ.update({name: os.environ[name] for name in SWITCHES if name in os.environ})


def remember_if_started() -> None:
    """Call before the variables are set: somebody may have had TensorFlow compute already."""
    if _started():
        remember()


def check() -> None:
    """Make sure that the variables as they are now are those in force.

    Raises:
        ConfigError: one is not. They are put back, so that a job that wants nothing can run.
    """
    wanted = {name: given(name) for name in THREADS}
    pairs: dict[str, tuple[str | None, str | None]] = {
        name: (str(count), _READ[name]) for name, count in wanted.items() if count is not None
    }
    pairs |= {name: (os.environ.get(name), _READ.get(name)) for name in SWITCHES}
    differing = {name: (now, read) for name, (now, read) in pairs.items() if now != read}
    if not differing:
        return
    for name, (_, read) in differing.items():
        if read is None:
            del os.environ[name]
        else:
            os.environ[name] = read
    raise ConfigError(
        f"{'; '.join(_told(differing))}, and it cannot change that. Start a new process (in a "
        f"sweep: one for each run)"
    )


def _told(differing: Mapping[str, tuple[str | None, str | None]]) -> list[str]:
    if set(THREADS) <= set(differing) and len({differing[name] for name in THREADS}) == 1:
        others = {name: pair for name, pair in differing.items() if name not in THREADS}
        differing = {"runtime.threads": differing[INTRA_OP], **others}
    return [
        f"{name}={'(unset)' if now is None else now}: TensorFlow already runs in this process with "
        f"{'it unset' if read is None else read}"
        for name, (now, read) in differing.items()
    ]


def _started() -> bool:
    """Whether TensorFlow's context has been made; that alone cannot be asked in public."""
    module = sys.modules.get("tensorflow.python.eager.context")
    return module is not None and getattr(module.context(), "_initialized", True)
