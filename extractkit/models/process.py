"""This process: environment variables, threads, seeds, determinism, heap, and TensorFlow's start.

TensorFlow reads its environment variables once, when it starts to compute, so they are set before
it is imported. Their values are recorded here, and a job that needs other values is refused. LiteRT
does not read them; its thread count is passed explicitly. Importing this module does not import
TensorFlow.
"""

import ctypes
import gc
import importlib
import logging
import os
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

from extractkit.core.component import import_from_here
from extractkit.core.job import MOST_THREADS
from extractkit.errors import ConfigError, RunDirectoryError, choices
from extractkit.models.failures import error_summary
from extractkit.models.isolation import noise_to_log, patched

INTRA_OP = "TF_NUM_INTRAOP_THREADS"
INTER_OP = "TF_NUM_INTEROP_THREADS"


def intra_op_threads() -> int:
    """Return the threads that one operation may use."""
    return given(INTRA_OP) or _processors()


def inter_op_threads() -> int:
    """Return the operations that may run at once."""
    return given(INTER_OP) or _processors()


def given(variable: str) -> int | None:
    """Return the positive number in an environment variable, or None.

    With 0, with text that is not a number, or unset, TensorFlow uses every processor.
    """
    text = os.environ.get(variable, "").strip()
    return (int(text) or None) if text.isdecimal() else None


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


THREADS = (INTRA_OP, INTER_OP)
"""The environment variables for the numbers of threads."""

SWITCHES = ("TF_ENABLE_ONEDNN_OPTS", "TF_DETERMINISTIC_OPS")
"""The environment variables that switch behaviour on or off."""

_READ: dict[str, str] = {}


def effective_variables() -> Mapping[str, str]:
    """Return the variables as TensorFlow has read them, empty before it starts.

    The numbers of threads are always included.
    """
    return MappingProxyType(_READ)


def remember() -> None:
    """Record the variables that TensorFlow has read or is about to read. Later calls do nothing."""
    import tensorflow as tf

    if not _READ:
        # 0 unless they were set in Python.
        threading = tf.config.threading
        intra_op = threading.get_intra_op_parallelism_threads() or intra_op_threads()
        inter_op = threading.get_inter_op_parallelism_threads() or inter_op_threads()
        _READ.update({INTRA_OP: str(intra_op), INTER_OP: str(inter_op)})
        _READ.update({name: os.environ[name] for name in SWITCHES if name in os.environ})


def record_if_started() -> None:
    """Record the variables, before they are set, if TensorFlow has already started."""
    if _started():
        remember()


def check() -> None:
    """Check that the environment variables still have the values that TensorFlow has read.

    Raises:
        ConfigError: One differs. Its old value is restored, so that other jobs can run.
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
        f"{'; '.join(_differences(differing))}, and it cannot change that. Start a new process (in "
        f"a sweep: one for each run)"
    )


def _differences(differing: Mapping[str, tuple[str | None, str | None]]) -> list[str]:
    if set(THREADS) <= set(differing) and len({differing[name] for name in THREADS}) == 1:
        others = {name: pair for name, pair in differing.items() if name not in THREADS}
        differing = {"runtime.threads": differing[INTRA_OP], **others}
    return [
        f"{name}={'(unset)' if now is None else now}: TensorFlow already runs in this process with "
        f"{'it unset' if read is None else read}"
        for name, (now, read) in differing.items()
    ]


def _started() -> bool:
    """Return whether TensorFlow's context is initialized, without importing it."""
    if "tensorflow" not in sys.modules:
        return False
    from extractkit.models.tensorflow_internals import is_started

    return is_started()


# NumPy's generators take 32-bit seeds.
_LARGEST = 2**32 - 1


def check_seed(seed: object) -> None:
    """Check that `model.seed` is a seed for every generator.

    Raises:
        ConfigError: It is not a whole number in the range of a seed.
    """
    if type(seed) is not int or not 0 <= seed <= _LARGEST:
        raise ConfigError(f"model.seed={seed!r} is not a whole number from 0 to {_LARGEST}")


@contextmanager
def quiet_start() -> Iterator[None]:
    """Redirect the messages of native code to the log while TensorFlow and Keras are imported.

    Only imports belong in the block: the output of user code is for the user.

    Raises:
        ConfigError: Keras is configured for another backend than TensorFlow.
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
    """List the devices once, so that the messages of that search go to the log as well."""
    import tensorflow as tf

    tf.config.list_physical_devices()
    # TensorFlow's own handler would print to the terminal. Messages belong in the run's log.
    tf.get_logger().setLevel(logging.ERROR)
    # absl prints whole tracebacks of failures that TensorFlow recovers from.
    logging.getLogger("absl").setLevel(logging.CRITICAL)


def configure(seed: int, deterministic: bool, device: str | None) -> Mapping[str, object]:
    """Seed Python, NumPy and TensorFlow, and require deterministic kernels if asked to.

    Returns the settings of the process. Determinism cannot be switched off again in it.

    Raises:
        ConfigError: As `settings`.
    """
    import keras
    import tensorflow as tf

    found = settings(device)
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    return found


@contextmanager
def kernels_kept() -> Iterator[None]:
    """Within the block, keep the kernels of TensorFlow's functions if the same seed is set again.

    Otherwise, TensorFlow optimises the graph of each function when it runs next. Kernels of random
    operations keep their state, which no extractable tensor depends on.
    """
    if "tensorflow" not in sys.modules:
        yield
        return
    import tensorflow as tf

    from extractkit.models.tensorflow_internals import seed_again

    def keeping(set_seed: Callable[[int], None]) -> Callable[[int], None]:
        return lambda seed: None if seed_again(seed) else set_seed(seed)

    with patched(tf.random, "set_seed", keeping):
        yield


def settings(device: str | None) -> Mapping[str, object]:
    """Return the settings of the process that may change the last bits of values.

    Raises:
        ConfigError: The device does not exist, or TensorFlow already runs in this process with
            other threads or switches.
    """
    import keras
    import tensorflow as tf

    devices = [found.name for found in tf.config.list_logical_devices()]
    # Listing the devices has started TensorFlow.
    remember()
    check()
    if device is not None:
        _check_device(device, devices)
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
    """Refuse a device that does not exist. TensorFlow would silently compute on another one."""
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
        raise ConfigError(f"runtime.device={device!r} is not a device. {choices(device, offered)}")


def import_modules(names: Sequence[str]) -> None:
    """Import the modules named in `model.imports`.

    Raises:
        ConfigError: A module is not installed, or its import fails.
    """
    if all(name in sys.modules for name in names):
        return
    import_from_here()
    with quiet_start():
        for name in names:
            _import(name)


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"model.imports={name} cannot be imported: it needs the module {error.name!r}, "
                f"which is not installed. Install the package that has it"
            ) from error
        raise ConfigError(
            f"model.imports={name} is not installed: there is no module {error.name!r}. Install "
            f"the package that has it, or put its folder on PYTHONPATH"
        ) from error
    except Exception as error:  # such as a library built for another TensorFlow
        raise ConfigError(
            f"model.imports={name} cannot be imported: {error_summary(error)}"
        ) from error


# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_MAPPED_BYTES = 4 << 20
_KEPT_BYTES = 16 << 20


def return_large_buffers() -> None:
    """Map and unmap blocks of four megabytes and more one by one.

    By default, glibc raises this threshold as blocks are freed. Then batches and shards of
    different sizes fragment the heap, and the process grows with the number of samples. Smaller
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

    Loading and listing a model makes millions of long-lived objects. The collector would visit all
    of them again and again, which takes half of the time for a large graph. After the block they
    count as old, so that the next collection of young objects does not visit them.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # Together these two move every object to the oldest generation. Objects that the caller has
        # frozen stay frozen.
        if not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()
        if was_enabled:
            gc.enable()


_XLA = ("XLA_FLAGS", "TF_XLA_FLAGS")
_KERNELS = (
    *("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE"),
    "NVIDIA_TF32_OVERRIDE",
)


def environment(threads: int | None) -> dict[str, str]:
    """Return the environment variables of a new job: its thread counts, and flags that are set.

    Args:
        threads: the requested number. If None, the number that is set or that TensorFlow already
            runs with, or the number of processors.
    """
    found = {name: os.environ[name] for name in (*SWITCHES, *_XLA, *_KERNELS) if name in os.environ}
    for name, count in zip(THREADS, (intra_op_threads(), inter_op_threads()), strict=True):
        found[name] = str(threads or given(name) or effective_variables().get(name, count))
    return found


def machine_variables() -> dict[str, str]:
    """Return the variables set in this process that `impose` does not change."""
    return {name: os.environ[name] for name in (*_XLA, *_KERNELS) if name in os.environ}


def take_machine_variables(variables: Mapping[str, str]) -> None:
    """Set these variables in a worker to the values of its driver, which the same user started."""
    for name in (*_XLA, *_KERNELS):
        if name in variables:
            os.environ[name] = variables[name]
        else:
            os.environ.pop(name, None)


def impose(variables: Mapping[str, str]) -> None:
    """Set the thread counts and switches to these values, and unset other switches.

    XLA's flags are not changed: they can name files to write, and the variables may come from
    another person's run. The limits of kernels belong to the machine. A resume reports where
    they differ.

    Raises:
        RunDirectoryError: a value is not a valid number of threads, or neither on nor off.
    """
    record_if_started()
    for name in (*THREADS, *SWITCHES):
        value = variables.get(name)
        if value is None:
            os.environ.pop(name, None)
        elif name in THREADS and _is_number(value) and not _small(value):
            raise RunDirectoryError(
                f"the run records {name}={value}: that is too many, {MOST_THREADS:,} at most"
            )
        elif _is_number(value) or (name in SWITCHES and value.lower() in ("true", "false")):
            os.environ[name] = value
        else:
            raise RunDirectoryError(f"the run records {name}={value!r}, which is not a valid value")


def _is_number(value: str) -> bool:
    return value.isdecimal() and value.isascii()


def _small(value: str) -> bool:
    digits = value.lstrip("0")
    return len(digits) <= len(str(MOST_THREADS)) and int(digits or 0) <= MOST_THREADS


def free_memory() -> int:
    """Return how many bytes this process may still take: of the machine, its group and its limit.

    Raises:
        OSError: the system does not report it.
    """
    found = [_status("/proc/meminfo", "MemAvailable")]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        found.append(soft - _status(_OWN, "VmSize"))
    for limit, used in _GROUPS:
        with suppress(OSError, ValueError):  # a group without a limit has the word "max"
            found.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
    return max(0, min(found))


def peak_memory() -> int:
    """Return the most resident bytes that this process has had so far.

    Raises:
        OSError: the system does not report it.
    """
    return _status(_OWN, "VmHWM")


def resident_memory() -> int:
    """Return the resident bytes of this process.

    Raises:
        OSError: the system does not report it.
    """
    return _status(_OWN, "VmRSS")


_OWN = "/proc/self/status"
_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Limit and use of the group of processes, in versions 2 and 1 of Linux's control groups."""


def _status(file: str, name: str) -> int:
    """Return a number of kilobytes from a file of Linux, in bytes."""
    for line in Path(file).read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{file} has no {name}")
