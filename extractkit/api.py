"""The Python API: functions that do what the verbs of the command line do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from numbers import Integral
from pathlib import Path

import numpy as np

from extractkit.advice import command
from extractkit.config import new_run_directory, spell_out, with_run_dir
from extractkit.config.plain_data import (
    Composition,
    compose_values,
    from_values,
    in_memory,
    recorded_job,
)
from extractkit.core.catalog import Catalog
from extractkit.core.component import Component
from extractkit.core.digests import Digest
from extractkit.core.trust import Trust
from extractkit.engine import Listener, Silent
from extractkit.engine.execute import execute, is_whole
from extractkit.engine.execute import resume as resume_run
from extractkit.engine.loading import list_tensors
from extractkit.engine.preview import Preview, preview
from extractkit.engine.recompute import not_recomputed
from extractkit.engine.recompute import recompute as recompute_shards
from extractkit.errors import ConfigError, RunDirectoryError
from extractkit.inputs import Inputs
from extractkit.inputs.in_memory import Labelled, kind_of
from extractkit.models import Executor
from extractkit.models.process import impose
from extractkit.runs import JOURNAL, manifest
from extractkit.runs.checking import Check, Verification
from extractkit.runs.checking.signature import signature_of
from extractkit.runs.checking.verification import IntactRun, digests_by
from extractkit.runs.checking.verification import verify as verify_run
from extractkit.runs.directory import check_unused, path_of
from extractkit.runs.journal import read as read_journal
from extractkit.runs.parts import join as join_parts
from extractkit.runs.parts import part_directory
from extractkit.runs.reader import Run, open_run, sink_of
from extractkit.runs.recorder import hydra_files
from extractkit.runs.same_job import check_versions

Group = str | Sequence[str] | Mapping[str, object] | None
"""A plain value for a group of the configuration."""


def extract(
    overrides: Sequence[str] = (),
    *,
    model: object = None,
    inputs: object = None,
    selectors: Group = None,
    runtime: Group = None,
    sinks: Group = None,
    run_dir: str | Path | None = None,
    trust: Sequence[str] = (),
    listener: Listener | None = None,
) -> Run:
    """Run a job in this process and open its run.

    Args:
        overrides: as on the command line: `["model=bert", "selectors=attention"]`, or
            `["model=net.keras", …]`.
        model: a live model in place of the `model` group: a `keras.Model`; a `tf.function` or
            `tf.Module` that declares its inputs (`input_signature`); or an adapter with
            extractkit's `Model` protocol.
        inputs: live samples in place of the `inputs` group: a list of texts; an array (samples, …)
            or a mapping of the model's inputs to arrays; a list with an array, or a mapping of the
            model's inputs to values, for each sample, of any lengths; one of these with labels
            (`Labelled`); or a source with the `Inputs` protocol.
        selectors: plain values in place of overrides of the `selectors` group: the name of a ready
            selector, a list of names, or a mapping of new names to their settings as in YAML:
            `{"mine": {"path": "encoder/*", "reduce": {"token": "mean"}}}`.
        runtime: settings by their names: `{"batch_size": 8}`.
        sinks: the name of a sink, a list of names, or a mapping of names to their settings. Unlike
            in an override, code that a plain value names (`_target_`) needs `trust`.
        run_dir: the run directory; None: that of the overrides, or a new one under `outputs/`.
        trust: modules whose callables files of the configuration and plain values may name.
        listener: receives progress events. If None, progress is not reported.

    The job's seed is set for the whole process, and from then on TensorFlow refuses operations that
    are not deterministic. `runtime.deterministic=false` leaves this setting unchanged.

    Raises:
        UserError: a mistake in the arguments. Nothing is left on disk.
        JobError: the job failed; committed shards stay readable.
    """
    composed = _composed(overrides, model, inputs, selectors, runtime, sinks, trust, run_dir)
    directory = composed.directory if run_dir is None else path_of(run_dir, "run_dir").absolute()
    made = execute(
        composed.job,
        directory,
        hydra_files=composed.hydra_files,
        listener=listener or Silent(),
    )
    written = composed.job.sinks.values()
    return open_run(made, trust=[name for sink in written for name in sink.trust_needed()])


def catalog(
    overrides: Sequence[str] = (),
    *,
    model: object = None,
    inputs: object = None,
    selectors: Group = None,
    runtime: Group = None,
    sinks: Group = None,
    trust: Sequence[str] = (),
) -> Catalog:
    """List the tensors of a model, as `extractkit tensors` does, without opening inputs.

    Args:
        overrides, model, inputs, selectors, runtime, sinks, trust: as for `extract`.

    Returns:
        Every tensor of the model or, with selectors, the matching ones.

    Raises:
        UserError: a mistake in the arguments, or a selector that matches nothing.
    """
    composed = _composed(overrides, model, inputs, selectors, runtime, sinks, trust)
    found = list_tensors(composed.job)
    if not found.matches:
        return found.catalog
    matched = {record.address for records in found.matches.values() for record in records}
    every = found.catalog.records
    return Catalog(
        [record for record in every if record.address in matched], found.catalog.model
    ).listed_by(found.catalog.listing)


def plan(
    overrides: Sequence[str] = (),
    *,
    model: object = None,
    inputs: object = None,
    selectors: Group = None,
    runtime: Group = None,
    sinks: Group = None,
    run_dir: str | Path | None = None,
    trust: Sequence[str] = (),
    exact: bool = False,
) -> Preview:
    """Return what `extract` would do with the same arguments, without running the job.

    Args:
        overrides, model, inputs, selectors, runtime, sinks, run_dir, trust: as for `extract`.
        exact: read every sample, so that sizes are exact.

    Raises:
        UserError: a mistake in the arguments.
    """
    composed = _composed(overrides, model, inputs, selectors, runtime, sinks, trust, run_dir)
    directory = composed.directory if run_dir is None else path_of(run_dir, "run_dir").absolute()
    check_unused(part_directory(directory, composed.job.runtime.part))
    return preview(composed.job, directory, exact=exact)


def _composed(
    overrides: Sequence[str],
    model: object,
    inputs: object,
    selectors: Group,
    runtime: Group,
    sinks: Group,
    trust: Sequence[str],
    run_dir: str | Path | None = None,
) -> Composition:
    if run_dir is not None and any(one.startswith("run_dir=") for one in overrides):
        raise ConfigError("the run directory is given twice: run_dir=… and an override. Give one")
    given = with_run_dir(spell_out(overrides), swept=False)
    groups = {"selectors": selectors, "runtime": runtime, "sinks": sinks}
    live = _live(model, inputs)
    if "model" in live and not given:
        return compose_values(groups, live, trust)
    from extractkit.config.compose import compose  # Hydra takes a second to import

    return compose(given, live, trust, from_values(given, groups))


def _where(verb: str, overrides: Sequence[str]) -> dict[str, object]:
    """Return the settings of where a run is computed this time; see `where_it_runs`."""
    if not overrides:
        return {}
    from extractkit.config.overrides import where_it_runs

    return where_it_runs(verb, overrides)


def resume(
    run: str | Path,
    *,
    overrides: Sequence[str] = (),
    trust: Sequence[str] = (),
    model: object = None,
    inputs: object = None,
    listener: Listener | None = None,
) -> Run:
    """Resume an interrupted or damaged run, bitwise identical to an uninterrupted one.

    Args:
        run: the run directory.
        overrides: settings of where it runs this time: `runtime.engine`, `workers`,
            `shard_timeout`, `ray_address`, `worker_cpus`, `worker_gpus`; or `runtime.self_check`.
            The manifest keeps the recorded ones.
        trust: modules whose callables the run's configuration may name.
        model, inputs: the live objects that were given to `extract`.
        listener: receives progress events. If None, progress is not reported.

    Raises:
        ConfigError: an override of another key.
        RunDirectoryError: there is no run, another process holds it, or its model, inputs or
            libraries differ from the record.
        JobError: the job failed again.
    """
    Trust(tuple(trust))  # an invalid name is reported even if it is not needed
    where = _where("resume", overrides)
    directory = path_of(run, "run").absolute()
    recorded = manifest.read(directory)
    if not is_whole(directory, recorded):
        check_versions(directory, recorded)
        impose(recorded.environment)
        job = recorded_job(directory, recorded, trust, _live(model, inputs), where)
        resume_run(job, directory, listener=listener or Silent())
    elif listener is not None:
        listener.note(f"{directory} is finished, and nothing of it is damaged")
    return open_run(directory, trust=trust)


def join(run: str | Path, *, trust: Sequence[str] = (), listener: Listener | None = None) -> Run:
    """Join the parts of a job, each made with `runtime.part=i/n`, to one run.

    The run is bitwise identical to that of a single process. No model is loaded.

    Args:
        run: the run directory, which holds the parts.
        trust: modules whose callables the parts' configuration may name.
        listener: receives messages. If None, they are not reported.

    Raises:
        RunDirectoryError: parts are missing, unfinished, damaged or of different jobs; the message
            lists all.
        JobError: the disk refuses.
    """
    directory = path_of(run, "run").absolute()
    reader = partial(sink_of, trust=Trust(tuple(trust)))
    join_parts(directory, reader=reader, note=(listener or Silent()).note)
    return open_run(directory, trust=trust)


def rerun(
    run: str | Path,
    run_dir: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    trust: Sequence[str] = (),
    model: object = None,
    inputs: object = None,
    listener: Listener | None = None,
) -> Run:
    """Repeat a run from its manifest alone, into a new directory.

    Libraries and machine may differ from those of the run; weights, inputs and tensors must not.
    The listener receives a note on whether the values are bitwise identical.

    Args:
        run: the run directory.
        run_dir: the new run directory; None: a new one under `outputs/`.
        overrides, trust, model, inputs, listener: as for `resume`.

    Raises:
        RunDirectoryError: there is no run, or its weights or inputs differ from those found.
        JobError: the job failed.
    """
    where = _where("rerun", overrides)
    source = path_of(run, "run")
    recorded = manifest.read(source)
    listener = listener or Silent()
    original = _digests(source, listener.note)
    impose(recorded.environment)
    job = recorded_job(source, recorded, trust, _live(model, inputs), where)
    directory = new_run_directory() if run_dir is None else path_of(run_dir, "run_dir").absolute()
    made = execute(
        replace(job, runtime=replace(job.runtime, reuse_from=None)),
        directory,
        hydra_files=hydra_files(source, recorded, listener.note),
        listener=listener,
        repeats=source,
    )
    repeated = open_run(made, trust=trust)
    sink = sink_of(repeated.manifest, next(iter(repeated.manifest.sinks)), Trust(tuple(trust)))
    entries = repeated.journal.by_shard()
    own = repeated.manifest.digests
    if others := {one.algorithm for one in original.values()} - {own}:
        listener.note(
            f"the values are read once more, to compare them: {source} has digests by "
            f"{' and '.join(sorted(one.label for one in others))}, {made} by {own.label}"
        )
    found = digests_by(made, repeated.manifest, entries, sink, original)
    listener.note(_likeness(source, original, made, found))
    return repeated


def _digests(run: Path, note: Callable[[str], None]) -> dict[str, Digest]:
    """Return the digests of a run's shards that are in its journal."""
    try:
        return read_journal(run / JOURNAL, salvage=True).digests()
    except RunDirectoryError as error:
        note(str(error))
        return {}


def _likeness(
    run: Path, original: Mapping[str, Digest], made: Path, digests: Mapping[str, Digest]
) -> str:
    """Compare the shards of a run with those of the run that repeats it, for a note."""
    if not original:
        return f"{run} lists no shard, so its values cannot be compared with those of {made}"
    unequal = [key for key, digest in original.items() if digests.get(key) != digest]
    if unequal:
        return (
            f"{len(unequal)} of {len(original)} shards do not have the values of {run} to the bit: "
            f"{command('diff', run, made)}"
        )
    if len(original) < len(digests):
        return f"the values of its {len(original)} shards are those of {run}, to the bit"
    return f"the values are those of {run}, to the bit"


def verify(
    run: str | Path,
    *,
    recompute: int = 0,
    seed: int | None = None,
    trust: Sequence[str] = (),
    model: object = None,
    inputs: object = None,
    key: str | Path | None = None,
    signature: str | Path | None = None,
) -> Verification:
    """Check a run against its own records and, if requested, against its model.

    Args:
        run: the run directory.
        recompute: number of shards, drawn at random, to compute again.
        seed: seed of the draw, which is reported; None: choose one.
        trust, model, inputs: as for `resume`; needed to compute. If an object in memory is not
            given, nothing is computed again, which the result reports.
        key: a file with a public key, to check the signature that `sign` made; None: do not.
        signature: the file with the signature; None: beside the run.

    Raises:
        ConfigError: `recompute` or `seed` is not a whole number of 0 or more, or the signature is
            not by the key.
        MissingExtraError: a key is given, and model-signing is not installed.
        RunDirectoryError: no run.
    """
    directory = path_of(run, "run")
    _check_whole("recompute", recompute)
    if seed is not None:
        _check_whole("seed", seed)
    reader = partial(sink_of, trust=Trust(tuple(trust)))

    def again(sound: IntactRun) -> tuple[Check, ...]:
        live = _live(model, inputs)
        if sound.manifest.training is not None:
            return not_recomputed("the weights of its steps existed only during the training")
        if lost := in_memory(sound.manifest, live):
            arguments = ", ".join(f"{group}=…" for group in lost)
            return not_recomputed(
                f"{' and '.join(lost)} existed only in memory. In Python: "
                f"extractkit.verify(…, recompute={recompute}, {arguments})"
            )
        impose(sound.manifest.environment)
        job = recorded_job(directory, sound.manifest, trust, live, {"engine": "local"})
        return recompute_shards(job, sound, recompute, seed)

    return verify_run(
        directory,
        reader=reader,
        recompute=again if recompute else None,
        signed=signature_of(key, signature),
    )


def _check_whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise ConfigError(f"{name}={value!r} is not a whole number of 0 or more")


def _live(model: object, inputs: object) -> dict[str, Component]:
    live: dict[str, Component] = {}
    if model is not None:
        live["model"] = _live_model(model, inputs)
    if inputs is not None:
        live["inputs"] = live_inputs(inputs)
    return live


def _live_model(model: object, inputs: object) -> Component:
    if isinstance(model, Executor):
        return Component("model", f"{__name__}.given", {"live": model})
    arguments = {"model": model, **example_among(inputs)}
    return Component("model", "extractkit.models.in_memory.in_memory_model", arguments)


def example_among(inputs: object) -> dict[str, object]:
    """Return arrays among live samples as the argument `example` of a model, or no argument."""
    arrays = inputs.inputs if isinstance(inputs, Labelled) else inputs
    return {"example": arrays} if isinstance(arrays, np.ndarray | Mapping) else {}


def live_inputs(inputs: object) -> Component:
    """Return the source of live samples, as `extract` takes them."""
    if isinstance(inputs, Inputs):
        return Component("inputs", f"{__name__}.given", {"live": inputs})
    kind = kind_of(inputs)
    (argument,) = fields(kind)
    return Component("inputs", f"{kind.__module__}.{kind.__name__}", {argument.name: inputs})


def given(live: object) -> object:
    """Return a live object as it is, in place of a component that has to be built."""
    return live
