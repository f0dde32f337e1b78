"""A job's shards on the workers that its configuration asks for."""

import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from extractkit.engine.distributed.acceptance import accepted
from extractkit.engine.distributed.crew import Crew
from extractkit.engine.distributed.driver import Driver, Orders
from extractkit.engine.distributed.messages import Task
from extractkit.engine.distributed.processes import Processes
from extractkit.engine.distributed.ray_actors import connected
from extractkit.engine.process import machine_variables
from extractkit.errors import ConfigError
from extractkit.job import Job
from extractkit.plan import Shard
from extractkit.runs.environment import extractkit_release
from extractkit.runs.journal import Entry
from extractkit.runs.recorder import Recorder

_USUAL_WORKERS = 2

START_SECONDS = 600.0
"""So long every worker may take to load libraries and the model."""

_START_TIMES = 20
"""And so many times as long as this process took: all workers read the same disk at once."""


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
        """Have shards computed by the workers, and commit them as they come.

        Args:
            recorder: of the run, whose plan is frozen.
            loaded: seconds in which this process has loaded what a worker has to load.
            committed: told of each shard.
            note: told of workers that failed.

        Raises:
            JobError: the job failed, or too many workers did.
            UserError: a worker does not find what this process has found.
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
            max(START_SECONDS, _START_TIMES * loaded),
            runtime.shard_timeout,
            task,
            commit,
            recorder.met,
            note,
        )
        Driver(self.crew, orders).run(shards)


@contextmanager
def hired(job: Job, note: Callable[[str], None]) -> Iterator[Hired | None]:
    """The workers that a job asks for; None where it runs in this process alone.

    Whatever of them is at work when the context ends is ended.

    Args:
        note: told what the user should know.

    Raises:
        ConfigError: something of the job is in memory and cannot be sent to workers; or there is
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
                f"{component.at} stands in memory and cannot be sent to workers "
                f"(runtime.engine={job.runtime.engine}): {error}. Name it in the configuration, as "
                f"a file or by a _target_, or leave out runtime.engine"
            ) from error
    return pickle.dumps(job)
