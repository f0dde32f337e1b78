"""The verb doctor: what is installed, what works with it, and the machine."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from extractkit.commands.arguments import RunOptions
from extractkit.config import options
from extractkit.display import safe, write_json, write_rendered
from extractkit.errors import ConfigError
from extractkit.runs.directory import existing_parent, human_bytes

if TYPE_CHECKING:
    from extractkit.engine.installation import Disk, Installation, Package, Use

_OUTPUTS = "outputs"
_CHOSEN = ("model", "inputs", "sinks")
"""The groups whose choices may need an extra."""


def doctor(arguments: Sequence[str]) -> bool:
    """Print what is installed and what works. Return whether the core is complete.

    Raises:
        ConfigError: a mistake in the arguments.
    """
    from extractkit.engine.installation import inspect

    given = RunOptions("doctor").read(arguments)
    choices = [f"{group}={name}" for group in _CHOSEN for name in options(group)]
    folder = Path(given.folder or _OUTPUTS)
    try:
        if not existing_parent(folder).is_dir():
            raise ConfigError(f"{existing_parent(folder)} is a file. Give a folder for runs")
        found = inspect(choices, folder)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be looked at: {error.strerror}. Give another folder for runs"
        ) from error
    if given.json:
        write_json(found.to_json())
    else:
        write_rendered(overview(found))
    return found.works


def overview(found: "Installation") -> RenderableType:
    """Return tables for people: packages, choices that work, what to install, the machine."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    release = found.extractkit or "(a checkout that is not installed)"
    table.add_row("extractkit", f"{release}, Python {found.python}")
    table.add_row("packages", _packages(found.core))
    extras = {one.name: one for packages in found.extras.values() for one in packages}
    table.add_row("of extras", _packages([one for one in extras.values() if one.version]) or "none")
    for group in _CHOSEN:
        works = [use.name for use in found.choices if not use.lacks]
        prefix = f"{group}="
        names = (name.removeprefix(prefix) for name in works if name.startswith(prefix))
        table.add_row(prefix, ", ".join(names))
    features = [use.name for use in found.features if not use.lacks]
    table.add_row("also", ", ".join(features) or "nothing")
    table.add_row("", "")
    for name, text in _machine(found):
        table.add_row(name, Text(safe(text), overflow="fold"))
    parts: list[RenderableType] = [table, *_missing(found)]
    lost = [one.name for one in found.core if one.version is None]
    if lost:
        text = f"The core does not work without {', '.join(lost)}: python -m pip install extractkit"
        parts += ["", Text(text, style="red")]
    return Group(*parts)


def _packages(packages: Sequence["Package"]) -> Text:
    """Return packages with their releases, and what is needed where they do not serve."""
    return Text(", ".join(map(_package, packages)), overflow="fold")


def _package(one: "Package") -> str:
    if one.version is None:
        return f"{one.name} is not installed"
    return f"{one.name} {one.version}" + ("" if one.serves else f" (needed: {one.bounds})")


def _missing(found: "Installation") -> Iterator[RenderableType]:
    """Yield a line for each command that makes more work, with what it serves and what is lacking.

    Commands are on lines of their own, unbroken, so that they can be copied.
    """
    commands: dict[str, list[Use]] = {}
    for use in (*found.choices, *found.features):
        if use.install is not None:
            commands.setdefault(use.install, []).append(use)
    for command, uses in commands.items():
        served = ", ".join(use.name for use in uses)
        lacking = ", ".join(map(_package, uses[0].lacks))
        apart = ", in an environment of its own" if uses[0].apart else ""
        yield ""
        yield Text(f"{served}: {lacking}. To install it{apart}:", style="yellow")
        yield Text(f"  {command}", no_wrap=True, overflow="ignore")


def _machine(found: "Installation") -> Iterator[tuple[str, str]]:
    host = found.host
    yield "machine", f"{host['system']}"
    yield "processor", f"{host['processor']}, {host['processors']} usable"
    within, beside = found.threads["intra_op"], found.threads["inter_op"]
    by = f", by {' and '.join(found.set_threads)}" if found.set_threads else ""
    yield "threads", f"{within} within an operation, {beside} operations at once{by}"
    total = human_bytes(int(str(host["memory"])))
    free = "" if found.free_memory is None else f", {human_bytes(found.free_memory)} free"
    yield "memory", f"{total}{free}"
    yield "GPUs", _gpus(found)
    yield "outputs", _disk(found.outputs)
    for cache in found.caches:
        yield "cache", f"{cache.folder}: {human_bytes(cache.bytes)}, {cache.holds}"


def _gpus(found: "Installation") -> str:
    if not found.gpus:
        return "none that NVIDIA's driver lists"
    names = ", ".join(f"{one.name} ({one.address})" for one in found.gpus)
    if found.gpu_libraries is None:
        return (
            f"{names}. Unless the system has CUDA and cuDNN, TensorFlow uses none: "
            f"python -m pip install 'tensorflow[and-cuda]'"
        )
    return f"{names}, cuDNN {found.gpu_libraries}"


_RATES = {
    "memory": "in memory, lost when the machine stops",
    "solid state": "solid state",
    "rotating": "a rotating disk, or a virtual one, so writing may set the pace of jobs",
    "network": "over the network, so writing may set the pace of jobs",
    "unknown": "of unknown rate",
}


def _disk(disk: "Disk") -> str:
    kind = f"{disk.file_system or 'unknown file system'}, {_RATES[disk.rate]}"
    denied = "" if disk.writable else ". You may not write there: give another run_dir=DIR"
    return f"{disk.folder}: {human_bytes(disk.free)} free, {kind}{denied}"
