"""The verb init: a first job for a model's file, written as configuration with comments."""

import json
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from extractkit.advice import hydra_override
from extractkit.commands.arguments import RunOptions
from extractkit.config import SCHEMA, config_directory, model_file, options
from extractkit.display import printable, write
from extractkit.errors import ConfigError, InputError, JobError, UserError, choices
from extractkit.runs.directory import human_bytes
from extractkit.store.local import make_directory, write_durably

if TYPE_CHECKING:
    from extractkit.config import ModelFile
    from extractkit.core.catalog import Catalog, TensorRecord
    from extractkit.engine.preview import Preview

_INPUTS = ("random", "texts")
"""Inputs that need no file, in the order in which they are tried."""


def init(arguments: Sequence[str]) -> bool:
    """Write a first job for a model's file, and print the command that runs it as the last line.

    Raises:
        UserError: the model cannot be loaded, no first job fits it, or the file exists.
    """
    from extractkit.display.progress import waiting

    given = RunOptions("init").read(arguments)
    file = _file(given.model)
    folder = Path(given.output)
    name = _name(Path(given.model))
    target = folder / "experiment" / f"{name}.yaml"
    if target.exists():
        raise ConfigError(
            f"init: {target} exists. Remove it, or choose another folder: --output DIR"
        )
    with redirect_stdout(sys.stderr), waiting(sys.stderr, "loading the model"):
        text, found = _first_job(file, name, folder)
    try:
        for part in (*reversed(target.parent.parents), target.parent):
            if not part.is_dir():
                make_directory(part)
        if not (schema := folder / SCHEMA).exists():
            write_durably(schema, (config_directory() / SCHEMA).read_bytes())
        write_durably(target, text.encode())
    except JobError as error:
        raise ConfigError(f"init: {error}. Choose another folder: --output DIR") from error
    size = human_bytes(found.bytes)
    sys.stderr.write(
        printable(f"{file.what}\nwritten: {target}, a job that stores about {size}. Run it:\n")
    )
    write(f"{_command(name, folder)}\n")
    return True


def _file(path: str) -> "ModelFile":
    found = model_file(path)
    if found is None:
        beside = Path(path).parent
        names = [one.name for one in beside.iterdir()] if beside.is_dir() else []
        raise ConfigError(f"init: {path!r} does not exist. {choices(Path(path).name, names)}")
    return found


def _name(path: Path) -> str:
    """Return a name for the job that no experiment of extractkit has."""
    name = re.sub(r"\W+", "_", path.resolve().stem, flags=re.ASCII).strip("_") or "model"
    return f"{name}_job" if name in options("experiment") else name


def _command(name: str, folder: Path) -> str:
    return shlex.join(["extractkit", "--config-dir", str(folder), f"experiment={name}"])


def _first_job(file: "ModelFile", name: str, folder: Path) -> tuple[str, "Preview"]:
    """Return the text of the first job that can be planned, and its plan.

    Raises:
        UserError: the model cannot be loaded, or none can be planned.
    """
    from extractkit.config.compose import compose
    from extractkit.engine.loading import list_tensors
    from extractkit.engine.preview import preview

    chosen = [file.model, file.path]
    catalog = list_tensors(compose(chosen).job).catalog
    refused: list[UserError] = []
    for inputs in _INPUTS:
        for record in _interesting(catalog):
            path = hydra_override("selectors.first.path", _glob_of(record.address))
            words = [*chosen, f"inputs={inputs}", f"+{path}"]
            composed = compose(words)
            try:
                plan = preview(composed.job, composed.directory)
            except UserError as error:
                refused.append(error)
                if isinstance(error, InputError):
                    break  # other tensors need the same inputs
                continue
            model = composed.job.model.arguments["path"]
            lines = _lines(file, str(model), name, folder, inputs, record, catalog)
            return "\n".join(lines) + "\n", plan
    first = f" {refused[0]}" if refused else ""
    raise ConfigError(f"init: no tensor of {file.what} makes a first job.{first}") from None


def _interesting(catalog: "Catalog") -> Iterator["TensorRecord"]:
    """Yield a few tensors to begin with: what the last hidden layer returns, outputs, weights."""
    from extractkit.core.catalog import Kind

    extractable = [one for one in catalog.records if one.extractable]
    reached = [one for one in extractable if one.depends_on_inputs]
    layers = [one for one in reached if one.kind is Kind.LAYER_OUTPUT]
    if len(layers) > 1:
        yield layers[-2]  # the last one returns the model's output
    yield from [one for one in reached if one.kind is Kind.MODEL_OUTPUT][:1]
    yield from [one for one in extractable if one.kind is Kind.WEIGHT][:1]
    yield from reached[-1:]


def _glob_of(address: str) -> str:
    """Return the glob that matches one address."""
    return re.sub(r"([*?[])", r"[\1]", address)


def _quoted(text: str) -> str:
    """Return a text for YAML that OmegaConf reads back unchanged, `${` included."""
    return json.dumps(re.sub(r"(\\*)\$\{", r"\1\1\\${", text), ensure_ascii=False)


def _lines(
    file: "ModelFile",
    model: str,
    name: str,
    folder: Path,
    inputs: str,
    record: "TensorRecord",
    catalog: "Catalog",
) -> Iterator[str]:
    from extractkit.core.catalog import Kind

    command = _command(name, folder)
    yield "# @package _global_"  # which Hydra takes in the first line only
    yield f"# yaml-language-server: $schema=../{SCHEMA}"
    yield from _comment(f"A first job for a model: {file.what}.")
    yield "#"
    yield from _comment(f"  {command}")
    yield from _comment(f"  {command.replace('extractkit', 'extractkit plan', 1)}")
    yield "defaults:"
    yield f"  - override /model: {file.model.partition('=')[2]}"
    yield f"  - override /inputs: {inputs}"
    yield "  # Ready selectors, several at once: layers, outputs, weights, attention, pooled, …"
    yield "  - override /selectors: none"
    yield ""
    yield "model:"
    yield f"  path: {_quoted(model)}"
    yield ""
    taken = [one for one in catalog.records if one.kind is Kind.MODEL_INPUT]
    if taken:
        yield "# The model takes:"
    for one in taken:
        dims = " × ".join(map(str, one.spec.dims or ()))
        yield from _comment(f"  {one.address}: {one.spec.dtype} {dims}")
    if inputs == "random":
        yield "# Made-up numbers. For your own: arrays, images, hdf5, parquet, tfrecord above, and"
        yield "# `path: FILE` in place of these keys."
        yield "inputs:"
        yield "  samples: 32"
        yield "  length: 32 # of every axis whose length is free"
    else:
        yield "# Sample texts of extractkit. For your own, one a line:"
        yield "# inputs:"
        yield "#   path: FILE.txt"
    yield ""
    yield from _comment(f"{record.spec.dtype} {' × '.join(map(str, record.spec.dims or ()))}")
    yield "selectors:"
    yield "  first:"
    yield f"    path: {_quoted(_glob_of(record.address))}"
    yield "    # kind: layer_output   # in place of the path: the outputs of all layers"
    yield "    # cast: float16        # stores half of the bytes"


def _comment(text: str) -> Iterator[str]:
    """Yield a comment. A name may hold line breaks, which would end it."""
    yield f"# {printable(text.replace(chr(10), ' '))}"
