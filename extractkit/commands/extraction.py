"""Run one job from the command line, and explain how to complete it if it stops early."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from extractkit.advice import command
from extractkit.commands.verbs import TRUST
from extractkit.errors import (
    BadSampleError,
    FinalError,
    RunDirectoryError,
    SampleError,
    UserError,
)
from extractkit.runs.manifest import MANIFEST

if TYPE_CHECKING:
    from extractkit.config.convert import Composition
    from extractkit.core.job import Job

_SKIPPING = "runtime.bad_samples=skip"


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
    from extractkit.runs.command_line import repeated, unused_beside

    recorded = manifests.read(directory)
    # A part is two folders below the directory that the job names.
    whole = directory if recorded.part is None else directory.parents[1]
    changed = [_SKIPPING, *trust]
    if recorded.part is not None:
        changed.append(f"runtime.part={recorded.part}")
    return repeated(directory, recorded, unused_beside(whole), changed)


def _trust_needed(job: "Job") -> list[str]:
    from extractkit.core.trust import RAY_ADDRESS

    components = (job.model, job.inputs, *job.sinks.values())
    named = [name for one in components for name in one.trust_needed()]
    if job.runtime.ray_address is not None:
        named.append(RAY_ADDRESS)
    return list(dict.fromkeys(named))
