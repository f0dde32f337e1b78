"""Workers that are processes on this machine.

They are interpreters of their own, not forks, which TensorFlow does not survive; and not Python's
own `multiprocessing`, which would run the user's script again in each. A worker ends when its pipe
does, so none goes on working after its driver, however that ended.
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

from extractkit.engine.distributed.crew import Begun, Ended, Event, Said
from extractkit.engine.distributed.inbox import Inbox
from extractkit.engine.distributed.messages import Task
from extractkit.engine.distributed.worker import work
from extractkit.errors import JobError

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
        """Kill them: what they have stored and nobody has accepted is of no use."""
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
                    # Ctrl-C in the terminal is for the driver, who ends its workers.
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise JobError(f"a worker process cannot be started: {error.strerror}") from error
        self._pipe = Connection(ours.detach())
        self._printed = b""
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()
        # Not from here: a large task waits for a reader.
        self._listening = threading.Thread(target=self._listen, args=(task,), daemon=True)
        self._listening.start()

    def give(self, key: str) -> None:
        with suppress(OSError):  # it has ended, which is an event of its own
            self._pipe.send_bytes(key.encode())

    def kill(self) -> None:
        self._process.kill()

    def join(self) -> None:
        self._listening.join(_SECONDS_TO_END)

    def _read(self) -> None:
        """Keep what the process printed last: a full pipe would stop it."""
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            while printed := os.read(pipe.fileno(), _LAST_WORDS):
                self._printed = (self._printed + printed)[-_LAST_WORDS:]

    def _listen(self, task: Task) -> None:
        how, words = "went unheard", ""
        try:  # whatever happens, the driver waits for the last event
            how, words = self._heard(task)
        except Exception as error:  # noqa: BLE001 - see above
            how = f"cannot be heard: {type(error).__name__}: {error}"
        finally:
            self._process.kill()
            self._process.wait()
            self._events.put(Ended(self._number, how, words))

    def _heard(self, task: Task) -> tuple[str, str]:
        """Pass on what it says until it has ended; how it did, and what it printed last."""
        with self._pipe, suppress(OSError, EOFError):
            self._pipe.send_bytes(pickle.dumps(task))
            self._events.put(Begun(self._number))
            while True:
                self._events.put(Said(self._number, self._pipe.recv_bytes()))
        # It has closed its end, or sends what is no message.
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
    """Be a worker at the other end of a pipe; the process ends with this."""
    pipe = Connection(descriptor)
    task: Task = pickle.loads(pipe.recv_bytes())
    inbox: Inbox[str] = Inbox()

    def listen() -> None:
        with suppress(OSError, EOFError):
            while True:
                inbox.put(pipe.recv_bytes().decode())
        # Without a driver nobody takes what is computed here, nor may it be stored.
        os._exit(_ORPHANED)

    threading.Thread(target=listen, daemon=True).start()
    work(task, inbox, pipe.send_bytes)
    sys.stdout.flush()
    os._exit(0)  # threads may still be at work on what nobody wants
