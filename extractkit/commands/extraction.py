"""Run one job from the command line, and explain how to complete it if it stops early."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from extractkit.advice import command, override
from extractkit.commands.verbs import TRUST
from extractkit.errors import (
    BadSampleError,
    FinalError,
    RunDirectoryError,
    SampleError,
    UserError,
)
from extractkit.runs.layout import RUN_KEY
from extractkit.runs.manifest import MANIFEST

if TYPE_CHECKING:
    from extractkit.config.convert import Composition
    from extractkit.core.job import Job

_BAD_SAMPLES = "runtime.bad_samples"


def extract(composed: "Composition") -> Path:
    """Run one job and return its run directory."""
    from extractkit.display.progress import listening
    from extractkit.engine.execute import execute
    from extractkit.engine.process import return_large_buffers
    from extractkit.runs.parts import place

    return_large_buffers()
    made_in = place(composed.directory, composed.job.runtime.part)
    with (
        redirect_stdout(sys.stderr),
        resumable(made_in, _trust_needed(composed.job)),
        listening(sys.stderr) as listener,
    ):
        return execute(
            composed.job, composed.directory, hydra_files=composed.hydra_files, listener=listener
        )


@contextmanager
def resumable(
    directory: Path, trusted: Sequence[str], overrides: Sequence[str] = ()
) -> Iterator[None]:
    """If the job stops early within the context, print how to complete the run, if possible.

    A sample on which the model fails would stop it again, and a run keeps its settings, so another
    run is needed.

    Args:
        trusted: the modules for `--trust`, since a run is trusted no more than a file.
        overrides: settings of where it runs.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, UserError | FinalError) and (directory / MANIFEST).exists():
            trust = [word for one in trusted for word in (TRUST.flag, one)]
            with suppress(
                OSError, RunDirectoryError
            ):  # a terminal that has closed, a damaged manifest
                if isinstance(error, BadSampleError):
                    sys.stderr.write(
                        f"resume would fail in the same way. To leave such samples out, in "
                        f"another directory: {_without_bad_samples(directory, trust)}\n"
                    )
                elif not isinstance(error, SampleError):
                    again = command("resume", directory, *overrides, *trust)
                    sys.stderr.write(f"Resume the run: {again}\n")
        raise


def _without_bad_samples(directory: Path, trust: Sequence[str]) -> str:
    """Return the command that runs the job again without the samples on which its model fails.

    Raises:
        RunDirectoryError: the manifest cannot be read.
    """
    from extractkit.runs import manifest as manifests

    recorded = manifests.read(directory)
    # A part is two folders below the directory that the job names.
    whole = directory if recorded.part is None else directory.parents[1]
    numbered = (whole.with_name(f"{whole.name}-{number}") for number in count(2))
    other = next(one for one in numbered if not one.exists())
    given = [one for one in recorded.job_given if _key(one) != _BAD_SAMPLES]
    words = [*given, f"{_BAD_SAMPLES}=skip", *trust]
    line = f"extractkit {shlex.join(words)} {override(RUN_KEY, other)}"
    started_in = recorded.volatile.working_directory
    if started_in is None or Path(started_in) == Path.cwd():
        return line
    return f"cd {shlex.quote(started_in)} && {line}"


def _key(given: str) -> str:
    return given.lstrip("+~").partition("=")[0]


def _trust_needed(job: "Job") -> list[str]:
    from extractkit.core.trust import RAY_ADDRESS

    components = (job.model, job.inputs, *job.sinks.values())
    named = [name for one in components for name in one.trust_needed()]
    if job.runtime.ray_address is not None:
        named.append(RAY_ADDRESS)
    return list(dict.fromkeys(named))
