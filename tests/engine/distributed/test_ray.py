"""One job on Ray: the same run as in one process, whatever becomes of a worker."""

import importlib.util
import logging
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from extractkit.errors import ConfigError, MissingExtraError
from extractkit.runs import LOG
from extractkit.runs.checking.files import damage
from tests.engine.distributed.test_processes import wait_until
from tests.engine.distributed.troubled import wanted
from tests.engine.examples import executed
from tests.engine.test_resume import Collected
from tests.faults.runs import content

if importlib.util.find_spec("ray") is None:
    pytest.skip("Ray is not installed", allow_module_level=True)

ROOT = Path(__file__).parents[3]
# What Ray leaves open or deprecated is not ours to mend.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What the run holds that was made in this process."""
    return content(executed(tmp_path_factory.mktemp("local") / "run", wanted()).path)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a cluster that somebody started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="ray-") as short:  # of sockets' names, which are so
        head = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                *(f"--port={port}", "--num-cpus=4", "--num-gpus=0", "--disable-usage-stats"),
                *("--include-dashboard=false", "--object-store-memory=80000000"),
                f"--temp-dir={short}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: answers(port), seconds=60)
            yield port
        finally:
            started = psutil.Process(head.pid).children(recursive=True)
            head.terminate()
            head.wait(30)
            for process in psutil.wait_procs(started, timeout=20)[1]:
                process.kill()


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.fixture(scope="module")
def cluster(port: int) -> Iterator[Any]:
    """A cluster to which this process is connected; runs take it, and leave it as it is."""
    import ray

    def connected() -> bool:
        # The port answers before the cluster has a node, which takes long on a busy machine.
        with suppress(ConnectionError):
            ray.init(f"127.0.0.1:{port}", log_to_driver=False, logging_level=logging.CRITICAL)
        return bool(ray.is_initialized())

    wait_until(connected, seconds=120)
    yield ray
    ray.shutdown()


def test_a_cluster_is_started_for_a_run_and_stopped_after_it(
    tmp_path: Path, local: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # where it would run, were it asked to
    run = executed(tmp_path / "run", wanted(engine="ray", workers=3, worker_cpus=0.5))
    assert content(run.path) == local
    assert not damage(run.path, run.manifest)
    assert not ray.is_initialized()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto"])
def test_no_cluster_answers(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    import ray

    ray.shutdown()
    with pytest.raises(ConfigError) as caught:
        executed(tmp_path / "run", wanted(engine="ray", ray_address=address))
    assert str(caught.value).startswith(f"runtime.ray_address={address}")
    assert "ray start --head" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_two_workers_make_the_same_run(
    tmp_path: Path, local: dict[str, object], cluster: Any
) -> None:
    listener = Collected()
    run = executed(tmp_path / "run", wanted(engine="ray"), listener)
    assert content(run.path) == local
    assert cluster.is_initialized()
    at = cluster.get_runtime_context().gcs_address
    assert (
        f"runtime.ray_address=null is ignored: this process is connected to the Ray cluster at "
        f"{at} already, and workers run there"
    ) in listener.notes


@pytest.mark.parametrize(
    ("trouble", "reported"),
    [
        ("die", " died: The actor died unexpectedly before finishing this task.; shard "),
        pytest.param(
            "stop",
            " took more than 3 s over its shard (runtime.shard_timeout); shard ",
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            "crash", " crashed: RuntimeError: out of order; shard ", marks=pytest.mark.thorough
        ),
        ("start", " died: The actor died unexpectedly before finishing this task., before it was"),
    ],
)
def test_what_a_worker_in_trouble_held_is_computed_by_another(
    tmp_path: Path, local: dict[str, object], cluster: Any, trouble: str, reported: str
) -> None:
    listener = Collected()
    wait = {"shard_timeout": 3} if trouble == "stop" else {}
    job = wanted(tmp_path, trouble, engine="ray", workers=2, **wait)
    run = executed(tmp_path / "run", job, listener)
    (note,) = [note for note in listener.notes if note.startswith("worker ")]
    assert reported in note
    assert content(run.path) == local
    assert note in (run.path / LOG).read_text("utf-8")


def test_no_machine_has_what_a_worker_needs(tmp_path: Path, cluster: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        executed(tmp_path / "run", wanted(engine="ray", worker_gpus=1))
    assert str(caught.value) == (
        "runtime.worker_gpus=1: no machine of the Ray cluster has so many, 0 is the most"
    )
    assert not (tmp_path / "run").exists()


def test_a_cluster_is_named_by_its_address(
    tmp_path: Path, local: dict[str, object], port: int
) -> None:
    import ray

    ray.shutdown()
    run = executed(tmp_path / "run", wanted(engine="ray", ray_address=f"127.0.0.1:{port}"))
    assert content(run.path) == local
    assert not ray.is_initialized()
    assert answers(port)


def test_ray_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError) as caught:
        executed(tmp_path / "run", wanted(engine="ray"))
    assert str(caught.value) == (
        "runtime.engine=ray needs ray, which is not installed. "
        "Install it: python -m pip install 'extractkit[ray]'"
    )
    assert not (tmp_path / "run").exists()


def test_a_cluster_that_does_not_start_is_refused_with_what_helps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import ray

    def late(**settings: object) -> None:
        raise RuntimeError("The current node timed out during startup.\nMore of it.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", late)
    with pytest.raises(ConfigError) as refused:
        executed(tmp_path / "run", wanted(engine="ray", workers=2))
    assert str(refused.value).startswith(
        "a Ray cluster cannot be started on this machine: The current node timed out during "
        "startup. Try again when the machine is less busy, use workers without Ray "
        "(runtime.engine=processes), or start a cluster"
    )
    assert not (tmp_path / "run").exists()
