"""The library without the command line: one call from overrides, or live objects, to a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from extractkit.config.compose import compose
from extractkit.engine.execute import execute
from extractkit.engine.listener import Listener, Silent
from extractkit.job import Component
from extractkit.runs.reader import Run, open_run


def extract(
    overrides: Sequence[str] = (),
    *,
    model: object = None,
    inputs: object = None,
    run_dir: str | Path | None = None,
    listener: Listener | None = None,
) -> Run:
    """Run a job in this process and open what it left.

    Args:
        overrides: as on the command line: `["model=bert", "selectors=attention"]`.
        model: a live model in place of the `model` group: a `keras.Model`, or an adapter with
            extractkit's `Model` protocol.
        inputs: live samples in place of the `inputs` group: a list of texts; an array (samples, …)
            or a mapping of the model's inputs to arrays; or a source with the `Inputs` protocol.
        run_dir: the run directory; None: `hydra.run.dir` as composed, a new one under `outputs/`.
        listener: is told how the job goes; None: nobody is.

    The job's seed is set for the whole process, and TensorFlow refuses operations that are not
    deterministic from then on; `runtime.deterministic=false` leaves that as it is.

    Raises:
        UserError: a mistake in what was given; nothing is left on disk.
        JobError: the job failed; committed shards stay readable.
    """
    live: dict[str, Component] = {}
    if model is not None:
        live["model"] = _live_model(model, inputs)
    if inputs is not None:
        live["inputs"] = _live_inputs(inputs)
    composed = compose(overrides, live)
    directory = composed.directory if run_dir is None else Path(run_dir).absolute()
    execute(
        composed.job,
        directory,
        hydra_files=composed.hydra_files,
        listener=listener or Silent(),
    )
    return open_run(directory)


def _live_model(model: object, inputs: object) -> Component:
    if all(hasattr(model, name) for name in ("catalog", "signature", "program")):
        return Component("model", f"{__name__}.given", {"live": model})
    arguments: dict[str, object] = {"model": model}
    if isinstance(inputs, np.ndarray | Mapping):
        arguments["example"] = inputs
    return Component("model", "extractkit.models.live.live_model", arguments)


def _live_inputs(inputs: object) -> Component:
    if hasattr(inputs, "bind"):
        return Component("inputs", f"{__name__}.given", {"live": inputs})
    texts = isinstance(inputs, Sequence) and all(isinstance(text, str) for text in inputs)
    name, argument = ("LiveTexts", "texts") if texts else ("LiveArrays", "arrays")
    return Component("inputs", f"extractkit.inputs.live.{name}", {argument: inputs})


def given(live: object) -> object:
    """What is live already needs no building."""
    return live
