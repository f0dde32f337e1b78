"""TensorFlow in this process: a quiet start, seeds, threads, determinism.

TensorFlow reads these variables when it starts: for what runs eagerly, in functions, by XLA, and in
sessions. LiteRT has to be told.

It reads these variables once, when it starts to compute: to set them later changes nothing. So what
they were is remembered, and a job that wants others is refused. TensorFlow is not imported here.
"""

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from extractkit.errors import ConfigError, choices
from extractkit.models.foreign import noise_to_log

INTRA_OP = "TF_NUM_INTRAOP_THREADS"
INTER_OP = "TF_NUM_INTEROP_THREADS"


def intra_op_threads() -> int:
    """Return the threads that one operation may use."""
    return given(INTRA_OP) or _processors()


def inter_op_threads() -> int:
    """Return the operations that may run at once."""
    return given(INTER_OP) or _processors()


def given(variable: str) -> int | None:
    """Return the number that one of these variables gives.

    None for nothing, 0, and what is no number: they leave TensorFlow every processor.
    """
    text = os.environ.get(variable, "").strip()
    return (int(text) or None) if text.isdecimal() else None


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


THREADS = (INTRA_OP, INTER_OP)
"""Variables that say how many threads there are."""

SWITCHES = ("TF_ENABLE_ONEDNN_OPTS", "TF_DETERMINISTIC_OPS")
"""Variables that switch something on or off."""

_READ: dict[str, str] = {}


def effective_variables() -> Mapping[str, str]:
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


def record_if_started() -> None:
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
    """Return whether TensorFlow's context has been made; that alone cannot be asked in public."""
    module = sys.modules.get("tensorflow.python.eager.context")
    return module is not None and getattr(module.context(), "_initialized", True)


# NumPy's generators take 32 bits.
_LARGEST = 2**32 - 1


def check_seed(seed: object) -> None:
    """Refuse what is no seed.

    Raises:
        ConfigError: `model.seed` is no whole number that generators take.
    """
    if type(seed) is not int or not 0 <= seed <= _LARGEST:
        raise ConfigError(f"model.seed={seed!r} is not a whole number from 0 to {_LARGEST}")


@contextmanager
def quiet_start() -> Iterator[None]:
    """Import TensorFlow and Keras inside: what their native code prints goes to the log instead.

    Nothing but imports belongs inside: what a user's own code prints is the user's to read.

    Raises:
        ConfigError: Keras is told to use another backend than TensorFlow.
    """
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise ConfigError(
            f"KERAS_BACKEND={backend!r} in the environment; extractkit works on TensorFlow. "
            f"Unset it, or: KERAS_BACKEND=tensorflow python -m extractkit …"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if "tensorflow" in sys.modules:
        yield
        return
    with noise_to_log("tensorflow"):
        yield
        _look_for_devices()


def _look_for_devices() -> None:
    """What TensorFlow says when it looks for accelerators is part of its start."""
    import tensorflow as tf

    tf.config.list_physical_devices()
    # Its own handler would print to the terminal what the run's log is for.
    tf.get_logger().setLevel(logging.ERROR)
    # absl prints whole tracebacks of what TensorFlow goes on without.
    logging.getLogger("absl").setLevel(logging.CRITICAL)


def configure(seed: int, deterministic: bool, device: str | None) -> Mapping[str, object]:
    """Seed Python, NumPy and TensorFlow, and have only deterministic kernels run, if asked to.

    Returns the settings of the process that may change the last bits of values. Determinism holds
    for the rest of the process: TensorFlow has no way back.

    Raises:
        ConfigError: there is no such device; or threads or switches are wanted with which
            TensorFlow, as it runs in this process already, does not compute.
    """
    import keras
    import tensorflow as tf

    devices = [found.name for found in tf.config.list_logical_devices()]
    # It has started, by this very call if by nothing else.
    remember()
    check()
    if device is not None:
        _check_device(device, devices)
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    variables = effective_variables()
    return {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "floatx": keras.config.floatx(),
        "intra_op_threads": int(variables[INTRA_OP]),
        "inter_op_threads": int(variables[INTER_OP]),
        "cpus": os.cpu_count(),
        "onednn": variables.get("TF_ENABLE_ONEDNN_OPTS", "default"),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "devices": devices,
    }


def _check_device(device: str, names: list[str]) -> None:
    """TensorFlow itself would put up with a device that is not there, and compute elsewhere."""
    import tensorflow as tf

    try:
        wanted = tf.DeviceSpec.from_string(device)
    except ValueError:
        wanted = None
    specs = [tf.DeviceSpec.from_string(name) for name in names]
    if wanted is None or not any(
        (wanted.device_type, wanted.device_index or 0) == (spec.device_type, spec.device_index)
        for spec in specs
    ):
        offered = [f"/{spec.device_type}:{spec.device_index}" for spec in specs]
        raise ConfigError(f"runtime.device={device!r} is no device. {choices(device, offered)}")
