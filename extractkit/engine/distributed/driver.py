"""The driver: assigns shards, accepts what workers stored, and replaces workers that fail.

Each worker holds a shard more than it is at work on, so that it is never without. Whatever a worker
held that is no more goes to another, each shard alone, with nothing before and nothing after it: so
that, if one of them is what workers fail at, it is the one that is blamed.
"""

import logging
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty

from extractkit import errors
from extractkit.core.plan import Shard
from extractkit.engine.distributed import (
    Begun,
    Crashed,
    Crew,
    Ended,
    Event,
    Failed,
    GarbledError,
    Message,
    Ready,
    Said,
    Stored,
    Task,
    Worker,
    decoded,
)
from extractkit.errors import ExtractkitError, JobError, RunDirectoryError
from extractkit.runs import journal
from extractkit.runs.intact import check_names
from extractkit.runs.journal import Entry
from extractkit.runs.manifest import Manifest
from extractkit.runs.storing import check_stored


def accepted(line: str, shard: Shard, directory: Path, manifest: Manifest, writer: str) -> Entry:
    """The entry of a shard, once everything about it is as it has to be.

    Args:
        line: as the worker sent it.
        shard: what it had to compute.
        writer: under which name it stores files.

    Raises:
        GarbledError: the line is none of a journal, tells of another shard, of other files or of
            other tensors; or a file is not there, or not as it says.
    """
    try:
        entry = journal.entry_of(line.encode(errors="surrogatepass"), "its entry")
        if entry is None:
            raise GarbledError("the checksum of its entry does not hold")
        if entry.covers != shard or entry.shard != shard.key:
            raise GarbledError(f"it was given {shard.key}, and stored {entry.shard!r}")
        check_names(directory, entry, manifest.sinks)
        check_stored(directory, entry, writer)
    except RunDirectoryError as error:
        raise GarbledError(str(error)) from error
    planned = {t.key for t in manifest.tensors if t.stored.constant == shard.constant}
    if entry.stats.keys() != planned:
        raise GarbledError("it tells of other tensors than those planned")
    samples = {str(index) for index in range(shard.start, shard.stop)}
    if not entry.missing.keys() <= samples:
        raise GarbledError("it tells of samples that are not of its shard")
    return entry


_log = logging.getLogger(__name__)

DEPTH = 2
"""Shards that a worker holds: one at work, and one that it finds when that is done."""

MOST_FAILURES = 3
"""So many workers may fail at one shard, or in a row before they are ready."""

WAITING_SECONDS = 60.0
"""How long a worker may wait for a place on a machine before that is told."""


@dataclass(eq=False)
class _Member:
    """A worker and what it holds.

    Attributes:
        writer: under which name it stores files.
        asked: when it was asked for.
        since: when it began what it is at: to load the model, or the first shard that it holds;
            None while it waits for a place on a machine, or for work.
    """

    number: int
    writer: str
    worker: Worker
    ready: bool = False
    held: deque[Shard] = field(default_factory=deque)
    asked: float = field(default_factory=time.monotonic)
    since: float | None = None


@dataclass(frozen=True, eq=False)
class Orders:
    """What a driver is to do.

    Attributes:
        workers: how many there are to be.
        start_timeout: seconds that a worker may take to load libraries and the model.
        timeout: seconds that a worker may take over a shard; None: as long as it takes.
        task: makes a worker's task, from the name under which it stores files.
        commit: takes what a worker says to have stored (a journal's line), for which shard, and
            the name under which it stored; raises GarbledError where something of it is wrong.
        add_worker: receives the machine of each worker that is ready.
        note: told what the user should know.
    """

    workers: int
    start_timeout: float
    timeout: float | None
    task: Callable[[str], Task]
    commit: Callable[[str, Shard, str], None]
    add_worker: Callable[[Mapping[str, object]], None]
    note: Callable[[str], None]


class Driver:
    """Has a crew compute shards."""

    def __init__(self, crew: Crew, orders: Orders) -> None:
        self._crew = crew
        self._orders = orders
        self._members: dict[int, _Member] = {}
        self._pending: deque[Shard] = deque()
        self._suspects: set[Shard] = set()
        self._failures: Counter[Shard] = Counter()
        self._started = 0
        self._failed_starts = 0
        self._last_failure = ""
        self._told_waiting = False

    def run(self, shards: Sequence[Shard]) -> None:
        """Have every shard computed and committed, in whatever order.

        Raises:
            JobError: too many workers failed, at one shard or before they were ready.
            ExtractkitError: the job itself failed, as it would have in this process.
        """
        self._pending.extend(shards)
        while self._pending or any(member.held for member in self._members.values()):
            self._recruit()
            self._hand_out()
            if (event := self._next_event()) is not None:
                self._take(event)
            self._give_up_late()
            self._tell_waiting()

    def _next_event(self) -> Event | None:
        deadlines = [one for m in self._members.values() if (one := self._deadline(m)) is not None]
        if not self._told_waiting:
            deadlines += [m.asked + WAITING_SECONDS for m in self._waiting()]
        seconds = min(deadlines) - time.monotonic() if deadlines else None
        try:
            return self._crew.events.get(timeout=None if seconds is None else max(0.0, seconds))
        except Empty:
            return None

    # ---- members

    def _recruit(self) -> None:
        """Have as many workers as were asked for, as far as there is something for them to do."""
        if self._failed_starts >= MOST_FAILURES:
            if not self._members:
                raise JobError(
                    f"no worker could be started, {self._failed_starts} have failed. The last one: "
                    f"{self._last_failure}"
                )
            return  # those that there are go on alone
        left = len(self._pending) + sum(bool(m.held) for m in self._members.values())
        while len(self._members) < min(self._orders.workers, left):
            self._started += 1
            writer = f"{secrets.token_hex(4)}-{self._started}"
            worker = self._crew.start(self._started, self._orders.task(writer))
            self._members[self._started] = _Member(self._started, writer, worker)

    def _hand_out(self) -> None:
        """Everybody gets one shard before anybody gets a second one."""
        ready = [member for member in self._members.values() if member.ready]
        for depth in range(1, DEPTH + 1):
            for member in ready:
                if len(member.held) < depth and (shard := self._shard_for(member)) is not None:
                    self._pending.remove(shard)
                    if not member.held:
                        member.since = time.monotonic()
                    member.held.append(shard)
                    member.worker.give(shard.key)

    def _shard_for(self, member: _Member) -> Shard | None:
        if not self._suspects.isdisjoint(member.held):
            return None
        fits = (s for s in self._pending if not (member.held and s in self._suspects))
        return next(fits, None)

    # ---- events

    def _take(self, event: Event) -> None:
        member = self._members.get(event.worker)
        if member is None:
            return  # it has been given up
        if isinstance(event, Begun):
            member.since = time.monotonic()
        elif isinstance(event, Said):
            try:
                self._hear(member, decoded(event.data))
            except GarbledError as error:
                self._lose(member, f"returned garbage: {error}")
        else:
            self._ended(member, event)

    def _hear(self, member: _Member, message: Message) -> None:
        if isinstance(message, Ready):
            self._failed_starts = 0
            member.ready, member.since = True, None
            self._orders.add_worker(message.host)
            _log.info(
                "worker %d is ready: process %d on %s",
                *(member.number, message.process, message.host.get("name")),
            )
        elif isinstance(message, Stored):
            if not member.held:
                raise GarbledError("it was given nothing, and says that it has stored something")
            self._orders.commit(message.entry, member.held[0], member.writer)
            member.held.popleft()
            member.since = time.monotonic() if member.held else None
        elif isinstance(message, Failed):
            raise _error(message)
        else:
            self._crashed(member, message)

    def _crashed(self, member: _Member, message: Crashed) -> None:
        _log.error("worker %d crashed:\n%s", member.number, message.traceback)
        lines = message.traceback.strip().splitlines()
        self._lose(member, f"crashed: {lines[-1] if lines else 'it does not say why'}")

    def _ended(self, member: _Member, event: Ended) -> None:
        if event.last_words:
            _log.error("worker %d left these words:\n%s", member.number, event.last_words)
        self._lose(member, event.how)

    def _give_up_late(self) -> None:
        now = time.monotonic()
        for member in list(self._members.values()):
            deadline = self._deadline(member)
            if deadline is not None and deadline <= now:
                seconds = self._timeout(member)
                at = "to start (to load libraries and the model)"
                if member.ready:
                    at = "over its shard (runtime.shard_timeout)"
                self._lose(member, f"took more than {seconds:g} s {at}")

    def _waiting(self) -> list[_Member]:
        """Those that have not begun."""
        return [m for m in self._members.values() if not m.ready and m.since is None]

    def _tell_waiting(self) -> None:
        """Say once what workers wait for, where it takes long."""
        latest = time.monotonic() - WAITING_SECONDS
        late = [member.number for member in self._waiting() if member.asked <= latest]
        if late and not self._told_waiting:
            self._told_waiting = True
            who = f"worker {late[0]} waits" if len(late) == 1 else f"{len(late)} workers wait"
            self._note(f"{who} for {self._crew.awaits}")

    def _deadline(self, member: _Member) -> float | None:
        seconds = self._timeout(member)
        return None if member.since is None or seconds is None else member.since + seconds

    def _timeout(self, member: _Member) -> float | None:
        return self._orders.timeout if member.ready else self._orders.start_timeout

    def _lose(self, member: _Member, why: str) -> None:
        """Do without a worker; what it held goes to others."""
        member.worker.kill()
        del self._members[member.number]
        told = f"worker {member.number} {why}"
        self._pending.extendleft(reversed(member.held))
        self._suspects.update(member.held)
        if not member.ready:
            self._failed_starts += 1
            self._last_failure = told
            self._note(f"{told}, before it was ready")
        elif member.held:
            shard = member.held[0]
            self._failures[shard] += 1
            if self._failures[shard] == MOST_FAILURES:
                raise JobError(
                    f"shard {shard.key} has failed on {MOST_FAILURES} workers. The last time, "
                    f"{told}. What was committed before is intact"
                )
            self._note(f"{told}; shard {shard.key} is computed again")
        else:
            self._note(told)

    def _note(self, message: str) -> None:
        _log.info("%s", message)
        self._orders.note(message)


def _error(message: Failed) -> ExtractkitError:
    """What a worker raised, as if it had been raised here."""
    kind = getattr(errors, message.error, None)
    if not isinstance(kind, type) or not issubclass(kind, ExtractkitError):
        raise GarbledError(f"it failed with {message.error!r}, which is no error of a job")
    return kind(message.message)
