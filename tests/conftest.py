"""Hooks for the whole suite."""

import gc
import itertools
import os
import secrets
import signal
import sys
from collections.abc import Callable, Generator
from functools import cache
from pathlib import Path

import hypothesis
import pytest

from extractkit.runs import environment
from tests.preloaded import only_for, programs

# Ray reads these when it is imported. Clusters of these tests have a token of their own, so that
# nobody else's is looked for, and tell nobody that they are used.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

# The gate has a process for each core. Two threads of BLAS for each would wait for each other,
# busily, and double the time of small products. Tests about threads ask for more.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Each job records the state of the checkout around the working directory. It stays the same while
# the tests run, and git looks at a thousand files for it.
_state = environment.git_state
_state_around = cache(lambda _: _state())
environment.git_state = lambda directory=None: (
    _state(directory) if directory else _state_around(Path.cwd())
)

REQUIRE = "EXTRACTKIT_REQUIRE_REAL_MODELS"
# The marks of tests that fail then if they skip.
_REQUIRED = ("real_model", "browser")

# Begun first: a file goes to one worker as a whole, and the other would wait for the last of these.
LONGEST = (
    *("test_pages.py", "test_sweeps.py", "test_campaigns.py", "test_experiments.py"),
    *("test_derived_state.py", "test_large_model.py", "test_ray.py", "test_program.py"),
    # The folders of these come last.
    *("test_resume.py", "test_callback.py", "test_forms_agree.py", "test_ready_selectors.py"),
)

# What a job imports that computes with NumPy alone.
_LIGHT = (
    *("h5py", "hydra.main", "ai_edge_litert.interpreter", "matplotlib.figure"),
    *("extractkit.cli", "extractkit.api", "extractkit.testing.reference"),
    *("extractkit.config.app", "extractkit.config.compose", "extractkit.display.progress"),
    "extractkit.engine.distributed.worker",
    *("extractkit.models.litert.examination", "extractkit.models.weight_files.hdf5_listing"),
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher",
    *("hydra_plugins.hydra_submitit_launcher.submitit_launcher", "submitit.core.submission"),
)
_PYTHON = Path(sys.executable)  # whatever tests put there later

# Processes in which launchers run jobs: of joblib and submitit.
_LAUNCHED = (("-m", "joblib.externals.loky.backend.popen_loky_posix"), ("-u", "-m"))
# What a job imports that computes with TensorFlow. Hydra imports its plugins for every job.
_HEAVY = (
    *("h5py", "hydra.main", "keras_hub", "matplotlib.figure", "rich.progress", "rich.tree"),
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher",
    "hydra_plugins.hydra_ray_launcher.ray_launcher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher",
    *("hydra._internal.logging_config", "encodings.cp437", "h5py._hl.dims"),
    *("extractkit.cli", "extractkit.api", "extractkit.config.app", "extractkit.display.run"),
    *("extractkit.config.compose", "extractkit.display.checks", "extractkit.display.progress"),
    *("extractkit.models.in_memory", "extractkit.models.saved_model"),
    *("extractkit.models.bert", "extractkit.models.tflite", "extractkit.models.litert.model"),
    *("extractkit.inputs.arrays", "extractkit.inputs.random", "extractkit.inputs.texts"),
)
# Processes of a moment that read a file which may crash them.
_CHILDREN = (
    "extractkit.models.litert.examination",
    "extractkit.models.weight_files.hdf5_listing",
)

# No test fails for taking its time: machines that run the gate have other work, too.
# Each run draws the same examples, so that a failure belongs to the change at hand.
hypothesis.settings.register_profile("gate", deadline=None, max_examples=30, derandomize=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("gate")


@pytest.fixture(autouse=True, scope="session")
def _no_terminal() -> Generator[None]:
    """Output is folded where a width is set, and none must be set by chance.

    pytest imports readline, which leaves COLUMNS and LINES to every process started from then on:
    that is where xdist's have theirs from.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("COLUMNS", "LINES"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> Generator[None]:
    """Signals do what they do at a terminal, also where the gate runs in the background."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True, scope="session")
def _no_wait_for_the_disk() -> Generator[None]:
    """A test's runs need not outlive a power failure, so nothing is forced to the disk.

    What is forced when is for `tests/faults` to say, and programs that tests start do force it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", _checked)
        yield


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """Programs that tests start keep catalogs of models apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def preloaded(tmp_path_factory: pytest.TempPathFactory, light: Path) -> Generator[Path]:
    """A folder of programs for PATH that have TensorFlow imported, as have the workers of jobs.

    `tests/cli/test_workers.py` also starts workers as they are.
    """
    folder = tmp_path_factory.mktemp("bin")
    python = _python_of_workers(folder, _python_of_children(light))
    with programs(folder, _HEAVY, python) as folder:
        yield folder


@pytest.fixture(scope="session")
def light(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """A folder of programs that have imported what needs no TensorFlow, as have their launchers."""
    folder = tmp_path_factory.mktemp("light")
    with programs(folder, _LIGHT, only_for("python-of-launchers", _LAUNCHED, folder)) as folder:
        yield folder


def _python_of_children(light: Path) -> Path:
    return only_for("python-of-children", [("-m", name) for name in _CHILDREN], light)


@pytest.fixture(autouse=True, scope="session")
def _quick_children(light: Path) -> Generator[None]:
    """Have the children that look at a file forked: a new process imports for longer than it looks.

    `tests/models/test_child.py` starts them as they are.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(_python_of_children(light)))
        yield


@pytest.fixture
def quick_workers(light: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the workers of a job forked: most of what a small job costs is their start.

    `tests/engine/distributed/test_processes.py` also starts them as they are.
    """
    monkeypatch.setattr(sys, "executable", str(_python_of_workers(light, _PYTHON)))


@pytest.fixture
def quick_tensorflow_workers(preloaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of workers that compute with TensorFlow."""
    monkeypatch.setattr(sys, "executable", str(preloaded / _OF_WORKERS))


_OF_WORKERS = "python-of-workers"


def _python_of_workers(folder: Path, otherwise: Path) -> Path:
    from extractkit.engine.distributed import worker  # few tests have workers

    return only_for(_OF_WORKERS, [("-c", worker.PROGRAM)], folder, otherwise)


@pytest.fixture(autouse=True, scope="session")
def frozen_objects_counted_once() -> Generator[Callable[[], int]]:
    """Count the frozen objects once: each count visits them all, and each job asks for one.

    Yields what counts them anew.
    """
    real, count = gc.get_freeze_count, gc.get_freeze_count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "get_freeze_count", lambda: count)
        yield real


class _Loaded:
    """The models that the tests of one contract class share."""

    def __init__(self) -> None:
        self._of: type | None = None
        self._models: dict[str, object] = {}

    def once(self, contract: type, parameters: str, load: Callable[[], object]) -> object:
        """Return the model of a class and its parameters, loaded if it is the first call."""
        if contract is not self._of:
            self._of, self._models = contract, {}
        if parameters not in self._models:
            self._models[parameters] = load()
        return self._models[parameters]


_loaded = _Loaded()


@pytest.fixture(autouse=True)
def _contract_model_loaded_once(request: pytest.FixtureRequest) -> None:
    """Load the model of a contract once for all tests; a test that needs two loads another."""
    contract = type(request.instance)
    if not any(base.__name__ == "WeightsContract" for base in contract.__mro__):
        return
    load, parameters = request.instance.model, getattr(request.node, "callspec", None)
    calls = itertools.count()

    def model() -> object:
        first = next(calls) == 0
        given = "" if parameters is None else parameters.id
        return _loaded.once(contract, given, load) if first else load()

    request.instance.model = model


def _checked(descriptor: int) -> None:
    """Fail where the descriptor is closed, as `os.fsync` does."""
    os.fstat(descriptor)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, whatever they are called."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_collection_finish() -> None:
    """Spare the collector what stays to the end: the modules and the tests, a million objects.

    Each comparison of a run with its model's own call begins with a collection.
    """
    gc.collect()
    gc.freeze()


def _refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure that says why."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"{REQUIRE} is set, so this test must run, but: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test skips without the weights or the browser that it needs; in a strict run it fails."""
    report = yield
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if skipped and os.environ.get(REQUIRE) and any(map(item.get_closest_marker, _REQUIRED)):
        _refuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself while it is imported, before any mark can be read."""
    report = yield
    # What is optional has an environment of its own.
    optional = "optional" in collector.path.parts
    skipped = report.skipped and isinstance(collector, pytest.Module) and not optional
    if skipped and os.environ.get(REQUIRE) and "real_model" in collector.path.read_text("utf-8"):
        _refuse(report)
    return report
