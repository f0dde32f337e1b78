"""Workers as actors of a Ray cluster. Ray is an extra, and is imported only here.

One thread of an actor is the worker, and the others answer calls. The driver has one pending call
to each actor, which returns with the next message.
"""

import logging
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from queue import SimpleQueue
from typing import Any

from extractkit.core.component import require
from extractkit.core.job import Runtime
from extractkit.engine.distributed import Begun, Ended, Event, Sent, Task
from extractkit.engine.threads import Inbox
from extractkit.errors import ConfigError

_REACHED_SECONDS = 5.0
_SECONDS_TO_END = 20.0
_STORE_BYTES = 80 << 20
"""Object store of a cluster started here, which holds only tasks and messages."""


class Actor:
    """A worker in one of Ray's processes."""

    def __init__(self) -> None:
        self._inbox: Inbox[str] = Inbox()
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._taking = threading.Lock()
        self._given: dict[int, str] = {}
        self._taken = 0

    def begin(self, pickled: bytes) -> None:
        """Start the worker's thread."""
        # Imported before libraries read the environment, which the task sets.
        from extractkit.engine.distributed.worker import work

        def run() -> None:
            try:
                work(pickle.loads(pickled), self._inbox, self._outbox.put)
            finally:
                self._outbox.put(None)

        threading.Thread(target=run, daemon=True).start()

    def give(self, number: int, key: str) -> None:
        """Take a shard, the first being number 0. Ray may deliver calls out of order."""
        with self._taking:
            self._given[number] = key
            while (first := self._given.pop(self._taken, None)) is not None:
                self._inbox.put(first)
                self._taken += 1

    def next(self) -> bytes | None:
        """Wait for the next message and return it, or None if no other will follow."""
        return self._outbox.get()


class Actors:
    """A crew of actors."""

    def __init__(self, ray: Any, runtime: Runtime) -> None:
        self.events: SimpleQueue[Event] = SimpleQueue()
        cpus, gpus = _needs(runtime)
        self.awaits = f"{cpus:g} CPU{f' and {gpus:g} GPU' if gpus else ''} of the Ray cluster"
        self._ray = ray
        self._workers: list[RemoteWorker] = []
        self._kind = ray.remote(Actor).options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=4,
            runtime_env={"env_vars": _variables()},
        )

    def start(self, number: int, task: Task) -> "RemoteWorker":
        """Request an actor."""
        worker = RemoteWorker(self._ray, self._kind.remote(), number, task, self.events)
        self._workers.append(worker)
        return worker

    def close(self) -> None:
        """Kill all actors."""
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.join()


class RemoteWorker:
    """A worker as the driver has it: the handle of an actor, and a thread that listens to it."""

    def __init__(
        self, ray: Any, handle: Any, number: int, task: Task, events: SimpleQueue[Event]
    ) -> None:
        self._ray = ray
        self._handle = handle
        self._number = number
        self._events = events
        self._given = 0
        self._listening = threading.Thread(target=self._listen, args=(task,), daemon=True)
        self._listening.start()

    def give(self, key: str) -> None:
        self._handle.give.remote(self._given, key)
        self._given += 1

    def kill(self) -> None:
        self._ray.kill(self._handle)

    def join(self) -> None:
        self._listening.join(_SECONDS_TO_END)

    def _listen(self, task: Task) -> None:
        how, words = "ended", ""
        try:  # the driver waits for the last event in any case
            self._ray.get(self._handle.begin.remote(pickle.dumps(task)))
            self._events.put(Begun(self._number))
            while (data := self._ray.get(self._handle.next.remote())) is not None:
                self._events.put(Sent(self._number, data))
        except self._ray.exceptions.RayError as error:
            how, words = f"died: {_first_line(error)}", str(error)
        except Exception as error:  # noqa: BLE001 - see above
            how = f"cannot be heard: {type(error).__name__}: {_first_line(error)}"
        finally:
            self._events.put(Ended(self._number, how, words))


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _variables() -> dict[str, str]:
    """Return the variables that must be set before a worker's process starts."""
    # Ray would set this to 1, and sums may depend on it.
    threads = os.environ.get("OMP_NUM_THREADS") or str(len(os.sched_getaffinity(0)))
    # Paths in front of the standard library are not installed on the workers: the user's modules,
    # or extractkit itself.
    first = [os.path.abspath(path) for path in takewhile(_not_installed, sys.path)]  # noqa: PTH100
    return {"OMP_NUM_THREADS": threads, "PYTHONPATH": os.pathsep.join(first)}


def _not_installed(path: str) -> bool:
    return not path.startswith(sys.base_prefix)


@contextmanager
def connected(
    runtime: Runtime, workers: int, note: Callable[[str], None] = lambda message: None
) -> Iterator[Actors]:
    """Yield workers of the cluster that a job names, or of one started here for the duration.

    An existing connection of this process to a cluster is used and kept. If the job names another
    cluster, the user is notified.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: there is no cluster at the address, or none of its machines has what a worker
            needs.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = require("ray", "runtime.engine=ray")
    own = not ray.is_initialized()
    if own:
        _connect(ray, runtime, workers)
    else:
        _note_other(ray, runtime, note)
    try:
        _check_room(ray, runtime)
        crew = Actors(ray, runtime)
        try:
            yield crew
        finally:
            crew.close()
    finally:
        if own:
            ray.shutdown()


def _connect(ray: Any, runtime: Runtime, workers: int) -> None:
    address = runtime.ray_address
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is None:
        cpus, _ = _needs(runtime)
        settings |= {
            # Without this, Ray would use RAY_ADDRESS or a cluster on this machine.
            "address": "local",
            # As many as the workers need, so that they run at once on any number of processors.
            "num_cpus": max(1, -int(-cpus * workers // 1)),
            "include_dashboard": False,
            "object_store_memory": _STORE_BYTES,
        }
    else:
        if address != "auto":
            _reach(address)
        settings["address"] = address
    with _own_signals():
        try:
            ray.init(**settings)
        except Exception as error:
            raise ConfigError(_unusable(address, _first_line(error).rstrip("."))) from error


def _unusable(address: str | None, reason: str) -> str:
    """Return the message about a cluster that Ray could not start, or not connect to."""
    if address is None:
        return (
            f"a Ray cluster cannot be started on this machine: {reason}. Try again when the "
            f"machine is less busy, use workers without Ray (runtime.engine=processes), or start a "
            f"cluster with: ray start --head, and name it by runtime.ray_address=HOST:6379"
        )
    return (
        f"runtime.ray_address={address} cannot be used: {reason}. {_HINT}. A cluster with "
        f"authentication takes its token from RAY_AUTH_TOKEN"
    )


def _note_other(ray: Any, runtime: Runtime, note: Callable[[str], None]) -> None:
    at, given = ray.get_runtime_context().gcs_address, runtime.ray_address
    if given not in ("auto", at):
        note(
            f"runtime.ray_address={'null' if given is None else given} is ignored: this process "
            f"is connected to the Ray cluster at {at} already, and workers run there"
        )


_HINT = (
    "Start one with: ray start --head, and name it by runtime.ray_address=HOST:6379; or give "
    "runtime.ray_address=null to have one started here"
)


def _reach(address: str) -> None:
    """Check that a server answers. Ray itself would try for five minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACHED_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"runtime.ray_address={address}: no Ray cluster answers there ({error}). {_HINT}"
        ) from error


def _needs(runtime: Runtime) -> tuple[float, float]:
    """Return the processors and accelerators that a worker reserves."""
    return 1 if runtime.worker_cpus is None else runtime.worker_cpus, runtime.worker_gpus or 0


def _check_room(ray: Any, runtime: Runtime) -> None:
    cpus, gpus = _needs(runtime)
    needs = {"CPU": ("worker_cpus", cpus), "GPU": ("worker_gpus", gpus)}
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for resource, (key, wanted) in needs.items():
        most = max((machine.get(resource, 0) for machine in machines), default=0)
        if wanted > most:
            raise ConfigError(
                f"runtime.{key}={wanted:g}: no machine of the Ray cluster has so many, {most:g} is "
                f"the most"
            )


@contextmanager
def _own_signals() -> Iterator[None]:
    """Restore this process's signal handlers, because Ray would let SIGTERM end it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            with suppress(TypeError):  # a handler that was not set by Python
                signal.signal(number, handler)
