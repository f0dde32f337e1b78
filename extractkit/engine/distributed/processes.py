"""Workers as processes on this machine, and the choice of workers for a job.

They are new interpreters. TensorFlow does not survive a fork, and Python's own `multiprocessing`
would run the user's script again in each. A worker ends when its pipe closes, so none outlives its
driver, however that ended.
"""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue

from extractkit.core.job import Job
from extractkit.core.plan import Shard
from extractkit.engine.distributed import Begun, Crew, Ended, Event, Sent, Task
from extractkit.engine.distributed.driver import Driver, Orders, accepted
from extractkit.engine.distributed.ray_actors import connected
from extractkit.engine.distributed.worker import Inbox, work
from extractkit.engine.process import machine_variables
from extractkit.errors import ConfigError, JobError
from extractkit.runs.environment import extractkit_release
from extractkit.runs.journal import Entry
from extractkit.runs.recorder import Recorder

_PROGRAM = (
    f"import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    f"from {__name__} import serve; serve(int(sys.argv[1]))"
)
_LAST_WORDS = 4000
_SECONDS_TO_END = 10.0
_ORPHANED = 3


class Processes:
    """A crew of processes."""

    def __init__(self) -> None:
        self.events: SimpleQueue[Event] = SimpleQueue()
        self.awaits = "its process"
        self._workers: list[_Process] = []

    def start(self, number: int, task: Task) -> "_Process":
        """Start a process."""
        worker = _Process(number, task, self.events)
        self._workers.append(worker)
        return worker

    def close(self) -> None:
        """Kill all workers. Files that the driver has not accepted are not needed."""
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.join()


class _Process:
    def __init__(self, number: int, task: Task, events: SimpleQueue[Event]) -> None:
        self._number = number
        self._events = events
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), json.dumps(sys.path)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=[theirs.fileno()],
                    # Ctrl-C in the terminal is for the driver, which ends its workers.
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise JobError(f"a worker process cannot be started: {error.strerror}") from error
        self._pipe = Connection(ours.detach())
        self._printed = b""
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()
        # In a thread, because sending a large task blocks until it is read.
        self._listening = threading.Thread(target=self._listen, args=(task,), daemon=True)
        self._listening.start()

    def give(self, key: str) -> None:
        with suppress(OSError):  # the worker has ended, which is an event of its own
            self._pipe.send_bytes(key.encode())

    def kill(self) -> None:
        self._process.kill()

    def join(self) -> None:
        self._listening.join(_SECONDS_TO_END)

    def _read(self) -> None:
        """Keep the process's last output. A full pipe would block it."""
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            while printed := os.read(pipe.fileno(), _LAST_WORDS):
                self._printed = (self._printed + printed)[-_LAST_WORDS:]

    def _listen(self, task: Task) -> None:
        how, words = "went unheard", ""
        try:  # the driver waits for the last event in any case
            how, words = self._heard(task)
        except Exception as error:  # noqa: BLE001 - see above
            how = f"cannot be heard: {type(error).__name__}: {error}"
        finally:
            self._process.kill()
            self._process.wait()
            self._events.put(Ended(self._number, how, words))

    def _heard(self, task: Task) -> tuple[str, str]:
        """Pass on the messages of the process; return how it ended, and its last output."""
        with self._pipe, suppress(OSError, EOFError):
            self._pipe.send_bytes(pickle.dumps(task))
            self._events.put(Begun(self._number))
            while True:
                self._events.put(Sent(self._number, self._pipe.recv_bytes()))
        # It has closed its end, or sent an invalid message.
        self._process.kill()
        code = self._process.wait()
        self._reading.join(_SECONDS_TO_END)
        return _how(code), self._printed.decode(errors="replace").strip()


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def serve(descriptor: int) -> None:
    """Run a worker at the other end of a pipe. The process ends with this function."""
    pipe = Connection(descriptor)
    task: Task = pickle.loads(pipe.recv_bytes())
    inbox: Inbox[str] = Inbox()

    def listen() -> None:
        with suppress(OSError, EOFError):
            while True:
                inbox.put(pipe.recv_bytes().decode())
        # Without a driver, shards cannot be committed.
        os._exit(_ORPHANED)

    threading.Thread(target=listen, daemon=True).start()
    work(task, inbox, pipe.send_bytes)
    sys.stdout.flush()
    os._exit(0)  # threads may still be running


_USUAL_WORKERS = 2

START_SECONDS = 600.0
"""Least time limit for every worker to load libraries and the model."""

_START_TIMES = 20
"""The limit as a multiple of this process's time, because all workers read from one disk."""


@dataclass(frozen=True, eq=False)
class Hired:
    """Workers for a job, none of which has been started yet."""

    job: Job
    pickled: bytes
    crew: Crew

    def compute(
        self,
        shards: Sequence[Shard],
        recorder: Recorder,
        loaded: float,
        committed: Callable[[Shard, Entry], None],
        note: Callable[[str], None],
    ) -> None:
        """Let workers compute shards, and commit them as they arrive.

        Args:
            recorder: the recorder of the run, whose plan is frozen.
            loaded: seconds in which this process loaded what a worker has to load.
            committed: called with each committed shard.
            note: receives messages about workers that failed.

        Raises:
            JobError: the job failed, or too many workers did.
            UserError: a worker finds another model or other inputs than this process.
        """

        def commit(line: str, shard: Shard, writer: str) -> None:
            entry = accepted(line, shard, recorder.directory, recorder.manifest, writer)
            recorder.accept(shard, entry, writer)
            committed(shard, entry)

        def task(writer: str) -> Task:
            return Task(
                self.pickled,
                str(recorder.directory),
                os.getcwd(),  # noqa: PTH109 - as text
                tuple(os.path.abspath(path) for path in sys.path),  # noqa: PTH100
                machine_variables(),
                extractkit_release(),
                writer,
            )

        runtime = self.job.runtime
        orders = Orders(
            runtime.workers or _USUAL_WORKERS,
            max(START_SECONDS, _START_TIMES * loaded),
            runtime.shard_timeout,
            task,
            commit,
            recorder.add_worker,
            note,
        )
        Driver(self.crew, orders).run(shards)


@contextmanager
def hired(job: Job, note: Callable[[str], None]) -> Iterator[Hired | None]:
    """Yield the workers that a job asks for, or None if it runs in this process only.

    On exit, terminates workers that are still running.

    Args:
        note: receives messages for the user.

    Raises:
        ConfigError: an object of the job is in memory and cannot be sent to workers, or there is
            no such Ray cluster.
        MissingExtraError: Ray is not installed.
    """
    runtime = job.runtime
    if runtime.engine == "local":
        yield None
        return
    pickled = _pickled(job)
    if runtime.engine == "processes":
        crew = Processes()
        try:
            yield Hired(job, pickled, crew)
        finally:
            crew.close()
        return
    with connected(runtime, runtime.workers or _USUAL_WORKERS, note) as actors:
        yield Hired(job, pickled, actors)


def _pickled(job: Job) -> bytes:
    for component in (job.model, job.inputs, *job.sinks.values()):
        try:
            pickle.dumps(component)
        except Exception as error:
            raise ConfigError(
                f"{component.at} is in memory and cannot be sent to workers "
                f"(runtime.engine={job.runtime.engine}): {error}. Name it in the configuration, as "
                f"a file or by a _target_, or omit runtime.engine"
            ) from error
    return pickle.dumps(job)
