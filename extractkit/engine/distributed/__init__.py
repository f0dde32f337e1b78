"""One job on many workers: each holds the model and stores shards; only the driver commits them.

This module has the messages between driver and worker, and the protocol of a worker. A message
is JSON with a closed set of fields, so a faulty worker is refused and nothing that it sends is
executed. `driver.py` assigns shards, `worker.py` computes them, `processes.py` and
`ray_actors.py` start workers.
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
    """What a worker is told first.

    Attributes:
        job: the job, pickled: what it holds in memory may need modules of the user's.
        directory: of the run, on a file system that driver and workers share.
        working_directory: from where relative paths of the job are told.
        search_path: where the driver finds modules.
        variables: of the driver's process, which it would not impose on others (`process.py`).
        release: of extractkit, as the driver is: what they say to each other is one release's own.
        writer: under which name the worker stores files; no other worker has it.
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
    """The model is loaded, and is the very one of the run; says the machine that it is on."""

    host: Mapping[str, object]
    process: int


@dataclass(frozen=True)
class Stored:
    """A shard's files are forced out; says the line that the journal would hold."""

    entry: str


@dataclass(frozen=True)
class Failed:
    """The job has failed as it would in any process: the class of the error, and what it says."""

    error: str
    message: str


@dataclass(frozen=True)
class Crashed:
    """The worker has met what nobody foresaw, and ends; says the traceback."""

    traceback: str


Message = Ready | Stored | Failed | Crashed

_KINDS: Mapping[str, type[Message]] = {
    kind.__name__.lower(): kind for kind in (Ready, Stored, Failed, Crashed)
}
_KIND = "kind"


class GarbledError(Exception):
    """A worker has sent what is no message."""


def encoded(message: Message) -> bytes:
    """A message on its way."""
    fields = {_KIND: type(message).__name__.lower(), **plain(message)}
    return canonical(fields).encode(errors="surrogatepass")


def decoded(data: bytes) -> Message:
    """A message as it arrived.

    Raises:
        GarbledError: it is none.
    """
    try:
        fields = json.loads(data)
        kind = _KINDS[fields.pop(_KIND)]
        return decode(kind, fields, "a worker's message")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise GarbledError(f"it is no message: {data[:80]!r}") from error
    except RunDirectoryError as error:
        raise GarbledError(str(error)) from error


@dataclass(frozen=True)
class Begun:
    """A worker has what it needs of the machine, and begins to load the model."""

    worker: int


@dataclass(frozen=True)
class Said:
    """A worker has sent something, which should be a message."""

    worker: int
    data: bytes


@dataclass(frozen=True)
class Ended:
    """A worker is no more; how it ended, and what else there is to know of it."""

    worker: int
    how: str
    last_words: str = ""


Event = Begun | Said | Ended


class Worker(Protocol):
    """One worker, as its driver has it."""

    def give(self, key: str) -> None:
        """Hand out a shard; returns at once. One that has ended takes no notice."""
        ...

    def kill(self) -> None:
        """End it, whatever it is doing; returns at once."""
        ...


class Crew(Protocol):
    """Workers of one kind.

    Attributes:
        events: what happens to them; the last of each is `Ended`.
        awaits: what a worker needs before it can begin.
    """

    events: SimpleQueue[Event]
    awaits: str

    def start(self, number: int, task: Task) -> Worker:
        """Have another worker, which begins as soon as it can."""
        ...

    def close(self) -> None:
        """End all of them; nothing of them is left when this returns."""
        ...
