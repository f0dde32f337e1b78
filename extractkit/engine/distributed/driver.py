"""The driver: starts the workers of a job, assigns shards, and replaces workers that fail.

Each worker holds one shard more than it is computing, so that it never waits. The shards of a lost
worker go to others one at a time, with no other shard assigned before or after, so that a shard
that makes workers fail can be identified.
"""

import logging
import os
import pickle
import secrets
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty

from extractkit import errors
from extractkit.core.job import Job
from extractkit.core.shards import Shard
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
    Sent,
    Stored,
    Task,
    Worker,
    decoded,
)
from extractkit.engine.distributed.ray_actors import connected
from extractkit.engine.distributed.worker import Processes
from extractkit.errors import ConfigError, ExtractkitError, JobError, RunDirectoryError
from extractkit.models.process import machine_variables
from extractkit.runs import journal
from extractkit.runs.environment import extractkit_release
from extractkit.runs.journal import Entry
from extractkit.runs.manifest import Manifest
from extractkit.runs.recorder import Recorder
from extractkit.runs.shards import check_names, check_state, check_stored


def accepted(line: str, shard: Shard, directory: Path, manifest: Manifest, writer: str) -> Entry:
    """Return the journal entry of a worker's shard after checking it and its files.

    Args:
        line: the line that the worker sent.
        shard: the shard that it was assigned.
        writer: the name under which it stores files.

    Raises:
        GarbledError: the line is not a journal entry, describes another shard, other files or
            other tensors; or a file is missing or differs from the entry.
    """
    try:
        entry = journal.entry_of(line.encode(errors="surrogatepass"), "its entry")
        if entry is None:
            raise GarbledError("the checksum of its entry does not match")
        if entry.covers != shard or not entry.consistent:
            raise GarbledError(f"it was given {shard.key}, and stored {entry.shard!r}")
        check_state(manifest, entry)
        check_names(directory, entry, manifest.sinks)
        check_stored(directory, entry, writer)
    except RunDirectoryError as error:
        raise GarbledError(str(error)) from error
    if entry.stats.keys() != set(manifest.examined_in(shard)):
        raise GarbledError("it stored other tensors than those planned")
    samples = {str(index) for index in range(shard.start, shard.stop)}
    if not entry.missing.keys() <= samples:
        raise GarbledError("it records samples that are not in its shard")
    return entry


_log = logging.getLogger(__name__)

DEPTH = 2
"""Shards that a worker holds: the one being computed, and the next."""

MOST_FAILURES = 3
"""Most workers that may fail on one shard, or in a row before they are ready."""

WAITING_SECONDS = 60.0
"""How long a worker may wait for room on a machine before the user is notified."""


@dataclass(eq=False)
class _Member:
    """A worker and what it holds.

    Attributes:
        writer: the name under which it stores files.
        asked: when it was requested.
        since: when it began its current task: loading the model, or its first shard; None while it
            waits for room on a machine, or for work.
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
    """The settings and callbacks of a driver.

    Attributes:
        workers: number of workers.
        start_timeout: most seconds for a worker to load libraries and the model.
        timeout: most seconds for a shard; None: no limit.
        task: makes a worker's task from the name under which it stores files.
        commit: commits a stored shard, given its journal line, the shard and the name under which
            it was stored; raises GarbledError if anything is wrong.
        add_worker: receives the machine of each worker that is ready.
        note: receives messages for the user.
    """

    workers: int
    start_timeout: float
    timeout: float | None
    task: Callable[[str], Task]
    commit: Callable[[str, Shard, str], None]
    add_worker: Callable[[Mapping[str, object]], None]
    note: Callable[[str], None]


class Driver:
    """Lets a crew compute shards."""

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
        self._waiting_noted = False

    def run(self, shards: Sequence[Shard]) -> None:
        """Compute and commit every shard, in any order.

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
            self._note_waiting()

    def _next_event(self) -> Event | None:
        deadlines = [one for m in self._members.values() if (one := self._deadline(m)) is not None]
        if not self._waiting_noted:
            deadlines += [m.asked + WAITING_SECONDS for m in self._waiting()]
        seconds = min(deadlines) - time.monotonic() if deadlines else None
        try:
            return self._crew.events.get(timeout=None if seconds is None else max(0.0, seconds))
        except Empty:
            return None

    # ---- members

    def _recruit(self) -> None:
        """Start workers up to the requested number, as far as there is work for them."""
        if self._failed_starts >= MOST_FAILURES:
            if not self._members:
                raise JobError(
                    f"no worker could be started, {self._failed_starts} have failed. The last one: "
                    f"{self._last_failure}"
                )
            return  # the remaining workers continue
        left = len(self._pending) + sum(bool(m.held) for m in self._members.values())
        while len(self._members) < min(self._orders.workers, left):
            self._started += 1
            writer = f"{secrets.token_hex(4)}-{self._started}"
            worker = self._crew.start(self._started, self._orders.task(writer))
            self._members[self._started] = _Member(self._started, writer, worker)

    def _hand_out(self) -> None:
        """Assign one shard to each worker before any gets a second one."""
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
            return  # already given up
        if isinstance(event, Begun):
            member.since = time.monotonic()
        elif isinstance(event, Sent):
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
                raise GarbledError("it has no shard, but reports that it stored one")
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
        self._lose(member, f"crashed: {lines[-1] if lines else 'without a reason'}")

    def _ended(self, member: _Member, event: Ended) -> None:
        if event.last_words:
            _log.error("the last output of worker %d:\n%s", member.number, event.last_words)
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
        """Return the workers that have not begun."""
        return [m for m in self._members.values() if not m.ready and m.since is None]

    def _note_waiting(self) -> None:
        """Notify the user once, of all waiting workers, when one has waited for long."""
        latest = time.monotonic() - WAITING_SECONDS
        waiting = self._waiting()
        if not self._waiting_noted and any(member.asked <= latest for member in waiting):
            self._waiting_noted = True
            some = f"{len(waiting)} workers wait"
            who = some if len(waiting) > 1 else f"worker {waiting[0].number} waits"
            self._note(f"{who} for {self._crew.awaits}")

    def _deadline(self, member: _Member) -> float | None:
        seconds = self._timeout(member)
        return None if member.since is None or seconds is None else member.since + seconds

    def _timeout(self, member: _Member) -> float | None:
        return self._orders.timeout if member.ready else self._orders.start_timeout

    def _lose(self, member: _Member, why: str) -> None:
        """Give up a worker, and return its shards to the queue."""
        member.worker.kill()
        del self._members[member.number]
        message = f"worker {member.number} {why}"
        self._pending.extendleft(reversed(member.held))
        self._suspects.update(member.held)
        if not member.ready:
            self._failed_starts += 1
            self._last_failure = message
            self._note(f"{message}, before it was ready")
        elif member.held:
            shard = member.held[0]
            self._failures[shard] += 1
            if self._failures[shard] == MOST_FAILURES:
                raise JobError(
                    f"shard {shard.key} has failed on {MOST_FAILURES} workers. The last time, "
                    f"{message}. What was committed before is intact"
                )
            self._note(f"{message}; shard {shard.key} is computed again")
        else:
            self._note(message)

    def _note(self, message: str) -> None:
        _log.info("%s", message)
        self._orders.note(message)


def _error(message: Failed) -> ExtractkitError:
    """Return a worker's exception as one of this process."""
    kind = getattr(errors, message.error, None)
    if not isinstance(kind, type) or not issubclass(kind, ExtractkitError):
        raise GarbledError(f"it failed with {message.error!r}, which is not an extractkit error")
    return kind(message.message)


_USUAL_WORKERS = 2

START_SECONDS = 600.0
"""Least time limit for every worker to load libraries and the model."""

START_TIMES = 20
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
            max(START_SECONDS, START_TIMES * loaded),
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
