"""The formats of `extractkit export`, and the export of a run to one of them."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from extractkit.advice import command
from extractkit.errors import ConfigError, RunDirectoryError, choices
from extractkit.exports import Exporter, Note
from extractkit.exports.model_explorer import ModelExplorer
from extractkit.exports.tensorboard import TensorBoard
from extractkit.runs.comparing import diff
from extractkit.runs.directory import check_place, path_of, run_path
from extractkit.runs.manifest import Status
from extractkit.runs.reader import open_run
from extractkit.store.local import make_directory, publish, temporary_of

EXPORTERS: Mapping[str, Exporter] = {one.name: one for one in (TensorBoard(), ModelExplorer())}
"""The formats by name."""


def _ignored(remark: str) -> None:
    """Receive a remark that nothing shows."""


def export(
    run: str | Path,
    to: str,
    output: str | Path | None = None,
    *,
    reference: str | Path | None = None,
    mapping: Mapping[str, str] | None = None,
    trust: Sequence[str] = (),
    note: Note = _ignored,
) -> Path:
    """Write a finished run as the files of another tool.

    Args:
        run: the run directory.
        to: the format, such as `tensorboard`.
        output: the directory to make; None: the run directory's name with the format as its ending,
            beside it.
        reference: another run, to show how far this one is from it, as a quantised model is from
            the original. Not every format shows that.
        mapping: addresses of the reference to addresses of the run, as `diff` takes them.
        trust: modules whose callables the configurations of runs may name.
        note: receives remarks, such as how much of the run is not exported.

    Returns:
        The directory.

    Raises:
        ConfigError: there is no such format, or a directory cannot be made there.
        MissingExtraError: a package that writes the format is not installed.
        RunDirectoryError: there is no run, it is unfinished or damaged, or it holds nothing that
            the format can show.
        JobError: a file could not be written. Nothing is left behind.
    """
    if to not in EXPORTERS:
        crate = f" For an RO-Crate: {command('crate', run)}" if "crate" in to.lower() else ""
        raise ConfigError(f"to={to!r} is not a format of export. {choices(to, EXPORTERS)}{crate}")
    exporter = EXPORTERS[to]
    if reference is not None and not exporter.compares:
        takes = [one.name for one in EXPORTERS.values() if one.compares]
        raise ConfigError(
            f"reference={str(reference)!r}: {to} does not show how far a run is from another. "
            f"{choices('', takes)}"
        )
    if mapping is not None and reference is None:
        raise ConfigError("mapping is between the reference and the run: give reference=… too")
    directory = run_path(run)
    beside = directory.with_name(f"{directory.name}.{to}")
    path = beside if output is None else path_of(output, "output")
    opened = open_run(directory, trust=trust)
    if opened.status is not Status.FINISHED:
        raise RunDirectoryError(
            f"{directory} is not finished, and only finished runs are exported. Finish it: "
            f"{command('resume', directory)}"
        )
    check_place(path, directory, "output", folder=True)
    if path.exists() or path.is_symlink():
        raise ConfigError(f"output={str(path)!r} exists. Choose another name, or remove it first")
    exporter.check(opened)
    found = None
    if reference is not None:
        found = diff(reference, opened, mapping=mapping, trust=trust)
    made = temporary_of(path, str(os.getpid()))
    make_directory(made)
    try:
        exporter.write(opened, made, note, found)
        publish(made, path)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return path
