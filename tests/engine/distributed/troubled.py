"""Workers in trouble: a model that has some, in so many worker processes, at one of its samples."""

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from extractkit.core.digests import Digest
from extractkit.core.job import Job
from extractkit.core.values import Array
from extractkit.engine.distributed import Failed, Message, encoded, worker
from extractkit.errors import ConfigError, JobError, SampleError
from extractkit.runs.files import StoredFile
from extractkit.runs.journal import Entry
from extractkit.runs.shards import Storing
from extractkit.store.local import temporary_of
from extractkit.testing.reference import ReferenceModel
from tests.engine.examples import EVERYTHING, job

TEXTS = ("ab", "c", "", "defg", "hi", "x", "jk", "l", "mno", "pq", "r", "stu")
SHARD, SHARDS = "000000004-000000006", 6
"""The key of the shard in which "x" is, and how many there are beside the constants."""


@dataclass(frozen=True)
class Troubled(ReferenceModel):
    """Has trouble with the text "x", in other processes than the one that made it.

    Attributes:
        trouble: which; see `_TROUBLES`. None: it has none.
        place: a directory, in which each process that has had trouble leaves a file.
        times: how many processes have it.
        driver: the process that made it.
    """

    trouble: str | None = None
    place: str = ""
    times: int = 1
    driver: int = 0

    def forward(self, tokens: Array) -> dict[str, Array]:
        if (
            len(tokens) == 1
            and tokens[0] == ord("x") % 50
            and self.trouble not in ("start", "late")
        ):
            self._maybe()
        return super().forward(tokens)

    def describe(self) -> Mapping[str, object]:
        if self.trouble in ("start", "late"):
            self._maybe()
        return super().describe()

    def _maybe(self) -> None:
        if self.trouble is None or os.getpid() == self.driver:
            return
        for number in range(self.times):
            try:
                (Path(self.place) / str(number)).touch(exist_ok=False)
            except FileExistsError:
                continue
            _TROUBLES[self.trouble]()
            return


def wanted(
    place: Path | None = None, trouble: str | None = None, times: int = 1, **runtime: Any
) -> Job:
    """A job on such a model, whose shards hold two samples each."""
    model = Troubled(trouble=trouble, place=str(place), times=times, driver=os.getpid())
    given = {"inputs": TEXTS, "sinks": ("hdf5", "npz"), "shard_size": 2, **runtime}
    return job(EVERYTHING, model=model, **given)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _sleep() -> None:
    time.sleep(600)


def _crash() -> None:
    raise RuntimeError("out of order")


def _sample() -> None:
    raise SampleError("no good")


def _job() -> None:
    raise JobError("the disk is gone")


def _config() -> None:
    raise ConfigError("no such thing")


def _returns(change: Any) -> Any:
    """From now on this process returns something else than what it has stored."""

    def trouble() -> None:
        store = Storing.store

        def changed(self: Storing, *given: Any, **more: Any) -> Entry:
            return change(self, store(self, *given, **more))

        Storing.store = changed  # type: ignore[method-assign]

    return trouble


def _other_digest(storing: Storing, entry: Entry) -> Entry:
    files = {
        name: replace(file, digest=Digest("sha256:" + "0" * 64))
        for name, file in entry.files.items()
    }
    return replace(entry, files=files)


def _other_shard(storing: Storing, entry: Entry) -> Entry:
    return replace(entry, shard="000000000-000000002", start=0, stop=2)


def _other_files(storing: Storing, entry: Entry) -> Entry:
    files = {name: replace(file, name="shards/mine.npz") for name, file in entry.files.items()}
    return replace(entry, files=files)


def _other_tensors(storing: Storing, entry: Entry) -> Entry:
    return replace(entry, stats={})


def _other_samples(storing: Storing, entry: Entry) -> Entry:
    return replace(entry, missing={"0": "it is another's"})


def _temporary(storing: Storing, file: StoredFile) -> Path:
    assert storing.writer is not None
    return temporary_of(storing.directory / file.name, storing.writer)


def _truncated(storing: Storing, entry: Entry) -> Entry:
    for file in entry.files.values():
        path = _temporary(storing, file)
        path.write_bytes(path.read_bytes()[:-1])
    return entry


def _missing(storing: Storing, entry: Entry) -> Entry:
    for file in entry.files.values():
        _temporary(storing, file).unlink()
    return entry


def _no_entry() -> None:
    Entry.to_line = lambda self: "{}"  # type: ignore[method-assign]


def _no_message() -> None:
    worker.encoded = lambda message: b"\x80 what?"


def _unknown_error() -> None:
    def changed(message: Message) -> bytes:
        known = not isinstance(message, Failed)
        return encoded(message if known else replace(message, error="SystemExitError"))

    worker.encoded = changed
    raise JobError("of no known class")


def _plugins_error() -> None:
    raise type("TheirError", (ConfigError,), {})("of a plugin")


_TROUBLES = {
    "start": _die,
    "late": _sleep,
    "die": _die,
    "stop": _stop,
    "sleep": _sleep,
    "crash": _crash,
    "sample": _sample,
    "job": _job,
    "config": _config,
    "digest": _returns(_other_digest),
    "shard": _returns(_other_shard),
    "files": _returns(_other_files),
    "tensors": _returns(_other_tensors),
    "samples": _returns(_other_samples),
    "truncated": _returns(_truncated),
    "missing": _returns(_missing),
    "entry": _no_entry,
    "message": _no_message,
    "unknown": _unknown_error,
    "plugin": _plugins_error,
}
