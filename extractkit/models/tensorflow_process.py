"""TensorFlow as one process has it: a start without noise, seeds, determinism, threads."""

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from extractkit.errors import ConfigError, choices
from extractkit.models.in_force import check, in_force, remember
from extractkit.models.native_noise import noise_to_log
from extractkit.models.threads import INTER_OP, INTRA_OP


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
    variables = in_force()
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
