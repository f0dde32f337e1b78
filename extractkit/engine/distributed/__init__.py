"""One job on many workers: each loads the model and stores shards, and the driver commits them.

This module defines the messages between driver and worker, and the worker protocol. A message is
JSON with a closed set of fields, so a faulty worker is refused and nothing that it sends is
executed. `driver.py` assigns shards. `worker.py` computes them, in a process of its own or in an
actor of `ray_actors.py`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Protocol

from extractkit.errors import RunDirectoryError
from extractkit.runs.schema import canonical, decode, plain


@dataclass(frozen=True)
class Task:
    """The first message to a worker.

    Attributes:
        job: the job, pickled. Objects in memory may need the user's modules.
        directory: the run directory, on a file system shared by driver and workers.
        working_directory: the directory that relative paths of the job refer to.
        search_path: the driver's module search path.
        variables: the driver's environment variables that depend on the machine (`process.py`).
        release: the driver's release of extractkit. Messages may change between releases.
        writer: the unique name under which the worker stores files.
    """

    job: bytes = field(repr=False)
    directory: str
    working_directory: str
    search_path: tuple[str, ...]
    variables: Mapping[str, str]
    release: str | None
    writer: str


@dataclass(frozen=True)
class Ready:
    """The worker has loaded the model and checked it against the run. Names its machine."""

    host: Mapping[str, object]
    process: int


@dataclass(frozen=True)
class Stored:
    """A shard's files are durable. Holds the shard's line for the journal."""

    entry: str


@dataclass(frozen=True)
class Failed:
    """The job failed as it would in any process. Holds class and message of the error."""

    error: str
    message: str


@dataclass(frozen=True)
class Crashed:
    """The worker failed unexpectedly and ends. Holds the traceback."""

    traceback: str


Message = Ready | Stored | Failed | Crashed

_KINDS: Mapping[str, type[Message]] = {
    kind.__name__.lower(): kind for kind in (Ready, Stored, Failed, Crashed)
}
_KIND = "kind"


class GarbledError(Exception):
    """A worker has sent something that is not a valid message."""


def encoded(message: Message) -> bytes:
    """Serialise a message."""
    fields = {_KIND: type(message).__name__.lower(), **plain(message)}
    return canonical(fields).encode(errors="surrogatepass")


def decoded(data: bytes) -> Message:
    """Parse a message.

    Raises:
        GarbledError: it is not a valid message.
    """
    try:
        fields = json.loads(data)
        kind = _KINDS[fields.pop(_KIND)]
        return decode(kind, fields, "a worker's message")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise GarbledError(f"it is not a message: {data[:80]!r}") from error
    except RunDirectoryError as error:
        raise GarbledError(str(error)) from error


@dataclass(frozen=True)
class Begun:
    """A worker has started on a machine, and begins to load the model."""

    worker: int


@dataclass(frozen=True)
class Sent:
    """A worker has sent data, which should be a message."""

    worker: int
    data: bytes


@dataclass(frozen=True)
class Ended:
    """A worker has ended. Holds the reason, and its last output."""

    worker: int
    how: str
    last_words: str = ""


Event = Begun | Sent | Ended


class Worker(Protocol):
    """One worker, as seen by its driver."""

    def give(self, key: str) -> None:
        """Assign a shard, without blocking. A worker that has ended ignores it."""
        ...

    def kill(self) -> None:
        """Terminate the worker at once, without blocking."""
        ...


class Crew(Protocol):
    """Workers of one kind.

    Attributes:
        events: events of the workers. The last of each worker is `Ended`.
        awaits: what a worker needs before it can begin, for messages.
    """

    events: SimpleQueue[Event]
    awaits: str

    def start(self, number: int, task: Task) -> Worker:
        """Start another worker, which begins as soon as it can."""
        ...

    def close(self) -> None:
        """Terminate all workers. None is left when this returns."""
        ...
