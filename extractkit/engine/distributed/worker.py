"""A worker: adopts the driver's settings, loads the model and stores shard after shard.

It never writes the journal or a file under its final name.

A worker on this machine is a process with a new interpreter. TensorFlow does not survive a fork,
and Python's own `multiprocessing` would run the user's script again in each. It ends when its pipe
closes, so none outlives its driver, however that ended.
"""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import cast

from extractkit import errors
from extractkit.core.job import Job
from extractkit.engine.distributed import (
    Begun,
    Crashed,
    Ended,
    Event,
    Failed,
    Message,
    Ready,
    Sent,
    Stored,
    Task,
    encoded,
)
from extractkit.engine.identity import described
from extractkit.engine.prepare import prepare
from extractkit.engine.samples import recorded_survey
from extractkit.engine.threads import Inbox
from extractkit.errors import ConfigError, ExtractkitError, JobError, RunDirectoryError
from extractkit.models.process import impose, return_large_buffers, take_machine_variables
from extractkit.runs import SAMPLES
from extractkit.runs import manifest as manifests
from extractkit.runs.environment import extractkit_release, host
from extractkit.runs.manifest import Manifest
from extractkit.runs.same_job import differences
from extractkit.runs.samples import Samples
from extractkit.runs.shards import Storing
from extractkit.sinks import Sink

PROGRAM = (
    f"import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    f"from {__name__} import serve; serve(int(sys.argv[1]))"
)
"""What each worker's interpreter runs, with the descriptor of its pipe and the search path."""

_LAST_WORDS = 4000
"""The bytes of a worker's last output that are kept."""

_SECONDS_TO_END = 10.0
_ORPHANED = 3


def work(task: Task, inbox: Inbox[str], send: Callable[[bytes], None]) -> None:
    """Compute shards until the inbox is closed or an error occurs, which is sent too.

    Args:
        inbox: the keys of shards.
        send: sends messages to the driver.
    """

    def post(message: Message) -> None:
        send(encoded(message))

    try:
        _work(task, inbox, post)
    except ExtractkitError as error:
        post(Failed(_known(error), str(error)))
    except Exception:  # noqa: BLE001 - reported to the driver, which gives up this worker
        post(Crashed(traceback.format_exc()[-_LAST_WORDS:]))


def _known(error: ExtractkitError) -> str:
    """Return the first class of an error that the driver knows. Plugins may subclass ours."""
    names = (kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    return next(names)


def _work(task: Task, inbox: Inbox[str], post: Callable[[Message], None]) -> None:
    directory = Path(task.directory)
    recorded = _recorded(directory, task)
    _check_release(task.release)
    take_machine_variables(task.variables)
    impose(recorded.environment)
    return_large_buffers()
    job = _job(task.job)
    sinks = {name: cast(Sink, sink.build()) for name, sink in job.sinks.items()}
    prepared = prepare(job, recorded.settings)
    _check_same(recorded, described(recorded, prepared))
    by_key = {shard.key: shard for shard in recorded.shards}
    storing = Storing(directory, sinks, recorded.digests, task.writer)
    rows = _rows(directory, recorded)
    found = recorded_survey(prepared.opened.model.signature, rows, recorded.samples)
    # One stream for the worker's lifetime, so that it reads ahead beyond a shard's end.
    stream = prepared.stream(found)
    with closing(stream.shards((by_key[key] for key in inbox), wake=inbox.close)) as computed:
        post(Ready(host(), os.getpid()))
        for one in computed:
            entry = storing.store(one)
            del one  # free its memory before the next is taken
            post(Stored(entry.to_line()))


def _check_release(driver: str | None) -> None:
    """Check that driver and worker have the same release.

    Raises:
        RunDirectoryError: the releases differ.
    """
    if (own := extractkit_release()) != driver:
        raise RunDirectoryError(
            f"a worker on {host()['name']!r} has extractkit {own}, and the driver has {driver}. "
            f"Install the driver's on all machines: pip install extractkit=={driver}"
        )


def _recorded(directory: Path, task: Task) -> Manifest:
    """Read the run's manifest as seen from this machine.

    Raises:
        RunDirectoryError: the run cannot be reached.
    """
    name = host()["name"]
    try:
        os.chdir(task.working_directory)
    except OSError as error:
        raise RunDirectoryError(
            f"a worker on {name!r} has no working directory {task.working_directory}: "
            f"{error.strerror}. Workers need the file system of the driver"
        ) from error
    known = set(sys.path)
    sys.path += [path for path in task.search_path if path not in known]
    try:
        return manifests.read(directory)
    except RunDirectoryError as error:
        raise RunDirectoryError(
            f"a worker on {name!r} cannot work on the run: {error}. The run directory has to be on "
            f"a file system that all workers share: run_dir=…"
        ) from error


def _check_same(recorded: Manifest, now: Manifest) -> None:
    """Check that this worker would compute the values of the run.

    Raises:
        RunDirectoryError: something differs from the driver; the message lists everything.
    """
    if found := differences(recorded, now):
        raise RunDirectoryError(
            f"a worker on {host()['name']!r} would not compute the values of this run, as it does "
            f"not find what the driver has found. {'; '.join(found)}. Give all workers the same "
            f"files, libraries and settings"
        )


def _job(pickled: bytes) -> Job:
    """Unpickle the job.

    Raises:
        ConfigError: an object in memory cannot be recreated here.
    """
    try:
        job = pickle.loads(pickled)
    except Exception as error:
        raise ConfigError(
            f"a worker cannot recreate what was given in memory: {type(error).__name__}: "
            f"{error}. Put its class or function into a module that can be imported, or name it "
            f"in the configuration (model.factory._target_=…)"
        ) from error
    return cast(Job, job)


def _rows(directory: Path, recorded: Manifest) -> Samples:
    file = next((file for file in recorded.files if file.name == SAMPLES), None)
    return Samples(directory / SAMPLES, file, schema=recorded.samples_schema)


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
                    [sys.executable, "-c", PROGRAM, str(theirs.fileno()), json.dumps(sys.path)],
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
        """Kill the process and those that it has started, which are all of its session."""
        # Until its process is waited for, nothing else can have its number.
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

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
            self.kill()
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
        self.kill()
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
