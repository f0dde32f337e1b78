"""A worker: adopts the driver's settings, loads the model and stores shard after shard.

It never writes the journal or a file under its final name.
"""

import os
import pickle
import sys
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import cast

from extractkit import errors
from extractkit.core.job import Job
from extractkit.engine.distributed import Crashed, Failed, Message, Ready, Stored, Task, encoded
from extractkit.engine.identity import described
from extractkit.engine.prepare import prepare
from extractkit.engine.samples import recorded_survey
from extractkit.engine.threads import Inbox
from extractkit.errors import ConfigError, ExtractkitError, RunDirectoryError
from extractkit.models.process import impose, return_large_buffers, take_machine_variables
from extractkit.runs import SAMPLES
from extractkit.runs import manifest as manifests
from extractkit.runs.environment import extractkit_release, host
from extractkit.runs.manifest import Manifest
from extractkit.runs.same_job import differences
from extractkit.runs.samples import Samples
from extractkit.runs.shards import Storing
from extractkit.sinks import Sink

_LAST_WORDS = 4000


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
    storing = Storing(directory, sinks, task.writer)
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
