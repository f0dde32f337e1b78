"""Workers as processes on this machine.

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
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue

from extractkit.engine.distributed import Begun, Ended, Event, Sent, Task
from extractkit.engine.distributed.worker import work
from extractkit.engine.threads import Inbox
from extractkit.errors import JobError

PROGRAM = (
    f"import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    f"from {__name__} import serve; serve(int(sys.argv[1]))"
)
"""What each worker's interpreter runs, with the descriptor of its pipe and the search path."""

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
