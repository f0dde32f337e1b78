"""The job of a run, from its manifest alone; and a job told from elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from extractkit.component import Component
from extractkit.config.compose import Composition
from extractkit.config.convert import job_of
from extractkit.errors import RunDirectoryError
from extractkit.job import Job, moved
from extractkit.runs.manifest import Manifest
from extractkit.runs.origins import relocated
from extractkit.trust import Trust


def in_memory(manifest: Manifest, live: Mapping[str, Component]) -> list[str]:
    """What of "model" and "inputs" was given to a run as live objects, and is not given now."""
    groups = ("model", "inputs")
    return [one for one in groups if one not in manifest.job_resolved and one not in live]


def recorded_job(
    manifest: Manifest,
    trusted: Sequence[str] = (),
    live: Mapping[str, Component] | None = None,
    where: Mapping[str, object] | None = None,
) -> Job:
    """The job that a run was made by. A run may come from anywhere: its word is a file's.

    Args:
        trusted: modules named by `--trust`.
        live: components in place of the groups of their names ("model", "inputs"): what was in
            memory then has to be given again.
        where: settings of `runtime` (`job.WHERE_IT_RUNS`) in place of the recorded ones; the user's
            own word. What is recorded of the job stays as it is.

    Raises:
        ConfigError: the configuration names a callable that is not trusted, or does not fit.
        RunDirectoryError: the model or the inputs were in memory, and are not given.
    """
    if lost := in_memory(manifest, live or {}):
        arguments = ", ".join(f"{group}=…" for group in lost)
        raise RunDirectoryError(
            f"{' and '.join(lost)} of the run stood in memory, and no manifest can hold them. Give "
            f"them again in Python: extractkit.resume, rerun and verify take {arguments}"
        )
    entries: Mapping[str, object] = manifest.job_resolved
    if manifest.volatile.working_directory is not None:
        entries = relocated(entries, Path(manifest.volatile.working_directory))
    if not where:
        return job_of(entries, manifest.job_given, manifest.model_name, live, Trust(tuple(trusted)))
    runtime = entries.get("runtime")
    settled = moved(runtime if isinstance(runtime, Mapping) else {}, where)
    typed = frozenset(f"runtime.{key}={value}" for key, value in where.items())
    trust = Trust(tuple(trusted), settings=typed)
    now = {**entries, "runtime": settled}
    job = job_of(now, manifest.job_given, manifest.model_name, live, trust)
    return replace(job, resolved=entries)


def told_from(directory: str | None, composed: Composition, trust: Trust) -> Composition:
    """A job that was composed in another working directory than it was first given in.

    Args:
        directory: that one; None: nobody knows.
        trust: what the user vouches for.

    Raises:
        ConfigError: as `convert.job_of`.
    """
    if directory is None or Path(directory) == Path.cwd():
        return composed
    job = composed.job
    entries = relocated(job.resolved, Path(directory))
    return replace(composed, job=job_of(entries, job.given, job.model_name, trust=trust))
