"""Whatever becomes of a worker, its driver is reported: no thread that listens ends in silence."""

import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from extractkit.core.job import Runtime
from extractkit.core.shards import Shard
from extractkit.engine.distributed import Ended, Event, Task, driver, ray_actors
from extractkit.engine.distributed.driver import Driver, Orders
from extractkit.engine.distributed.worker import Processes


def task(job: Any = b"") -> Task:
    return Task(job, "run", ".", (), {}, None, "0-1")


def ended(events: SimpleQueue[Event]) -> Ended:
    event = events.get(timeout=20)
    assert isinstance(event, Ended)
    return event


def test_a_process_that_cannot_be_given_its_task_has_ended() -> None:
    crew = Processes()
    try:
        crew.start(1, task(lambda: None))
        how = ended(crew.events).how
    finally:
        crew.close()
    assert how.startswith("cannot be heard: ")
    assert "pickle" in how


class Parent:
    """It starts a process where it is unpickled: in a worker."""

    def __init__(self, note: str) -> None:
        self.note = note

    def __reduce__(self) -> tuple[object, ...]:
        code = "import time; time.sleep(600)"
        return _started, (self.note, [sys.executable, "-c", code])


def _started(note: str, command: list[str]) -> None:
    Path(note).write_text(str(subprocess.Popen(command).pid), encoding="utf-8")
    time.sleep(600)


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return state.rpartition(")")[2].split()[0] != "Z"


def test_processes_that_a_worker_has_started_end_with_it(tmp_path: Path) -> None:
    note = tmp_path / "process"
    crew = Processes()
    try:
        crew.start(1, task(Parent(str(note))))
        while not (note.exists() and note.read_text(encoding="utf-8")):
            time.sleep(0.05)
        started = int(note.read_text(encoding="utf-8"))
        assert _runs(started)
    finally:
        crew.close()
    deadline = time.monotonic() + 20
    while _runs(started) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(started)


def test_an_actor_that_nothing_can_be_had_of_has_ended() -> None:
    def get(reference: object) -> None:
        raise ValueError("no reference\nat all")

    remote = SimpleNamespace(remote=lambda *given: None)
    ray = SimpleNamespace(get=get, exceptions=SimpleNamespace(RayError=OSError))
    events: SimpleQueue[Event] = SimpleQueue()
    ray_actors.RemoteWorker(ray, SimpleNamespace(begin=remote), 7, task(), events)
    assert ended(events) == Ended(7, "cannot be heard: ValueError: no reference")


class Full:
    """A crew whose workers get no place, and then end."""

    awaits = "1 CPU of the Ray cluster"

    def __init__(self) -> None:
        self.events: SimpleQueue[Event] = SimpleQueue()
        self.started: deque[int] = deque()

    def start(self, number: int, task: Task) -> "Full":
        self.started.append(number)
        return self

    def give(self, key: str) -> None: ...

    def kill(self) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("workers", "reported"), [(1, "worker 1 waits for "), (3, "3 workers wait for ")]
)
def test_workers_that_wait_for_a_place_say_so_once(
    workers: int, reported: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "WAITING_SECONDS", 0.2)
    crew, notes = Full(), []

    def note(message: str) -> None:
        notes.append(message)
        for number in crew.started:
            crew.events.put(Ended(number, "gave up"))

    monkeypatch.setattr(driver, "MOST_FAILURES", workers)
    given: Any = (lambda writer: task(), None, None, note)
    shards = [Shard(start, start + 1) for start in range(4)]
    with pytest.raises(driver.JobError, match="no worker could be started"):
        Driver(crew, Orders(workers, 600.0, None, *given)).run(shards)
    assert notes[0] == f"{reported}{crew.awaits}"
    assert not [note for note in notes[1:] if " wait" in note]


@pytest.mark.parametrize(
    ("settings", "awaits"),
    [
        ({}, "1 CPU of the Ray cluster"),
        ({"worker_cpus": 0.5, "worker_gpus": 2}, "0.5 CPU and 2 GPU of the Ray cluster"),
    ],
)
def test_what_an_actor_waits_for(settings: dict[str, object], awaits: str) -> None:
    kind = SimpleNamespace(options=lambda **given: None)
    ray = SimpleNamespace(remote=lambda actor: kind)
    assert ray_actors.Actors(ray, Runtime.parse({"engine": "ray", **settings})).awaits == awaits
