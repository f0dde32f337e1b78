"""What the driver asks of workers, of whatever kind they are."""

from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol

from extractkit.engine.distributed.messages import Task


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
