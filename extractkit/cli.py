"""The command line: verbs, and what they print. Results go to standard output, all else to stderr.

Whatever takes long to import is imported where it is used: `--help` and `show` answer at once.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from extractkit.config.directory import GROUPS, options
from extractkit.display import help as help_text
from extractkit.errors import ConfigError, ExtractkitError, UserError, choices

if TYPE_CHECKING:
    from rich.console import RenderableType

    from extractkit.config.compose import Composition

DONE, FAILED, MISTAKEN, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: done; the job failed; a mistake in what the user wrote; interrupted."""

_JSON, _EXACT = "--json", "--exact"
# Our own options, and the verbs that know them.
_OPTIONS = {_JSON: ("tensors", "plan", "show"), _EXACT: ("plan",)}
_HELP = ("--help", "-h")
_SWEEP = ("--multirun", "-m")
# Options of Hydra's that are followed by a value.
_VALUED = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn",
           "--config-dir", "-cd", "--experimental-rerun")  # fmt: skip
_INFO = ("--info", "-i")  # may be followed by one

_Answer = tuple[object, "RenderableType"]
"""What a dry verb has to say of a job: as JSON, and for a person."""


def execute(arguments: Sequence[str]) -> int:
    """Do what the arguments say; returns the exit code.

    Raises:
        UserError: a mistake in the arguments. Those of single jobs are reported as they happen.
    """
    named = bool(arguments) and arguments[0] in help_text.VERBS
    verb = arguments[0] if named else "run"
    rest = list(arguments[named:])
    if any(argument in _HELP for argument in rest):
        groups = {group: options(group) for group in GROUPS}
        write(help_text.of_verb(verb) if named else help_text.overview(groups))
        return DONE
    if rest == ["--version"]:
        write(f"extractkit {_version()}\n")
        return DONE
    given = _own_options(verb, rest)
    rest = [argument for argument in rest if argument not in given]
    if verb == "show":
        _show(rest, as_json=_JSON in given)
        return DONE
    rest = _overrides_first(rest)
    _complete_after_verb()
    if verb == "run":
        return _launch(rest, _extract, report, dry=False)
    answer = _tensors if verb == "tensors" else partial(_plan, exact=_EXACT in given)
    return _look(rest, answer, as_json=_JSON in given)


def report(error: BaseException) -> int:
    """Say on standard error what went wrong; returns the exit code for it."""
    if isinstance(error, KeyboardInterrupt):
        sys.stderr.write("extractkit: interrupted\n")
        return INTERRUPTED
    if isinstance(error, ExtractkitError):
        sys.stderr.write(f"extractkit: {error}\n")
    else:
        traceback.print_exception(error)
    return MISTAKEN if isinstance(error, UserError) else FAILED


def write(text: str) -> None:
    """Write a result. Where nobody reads any more (`| head`), it and what follows is dropped."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()


def drop_output() -> None:
    """Let standard output lead nowhere, so that nothing written to it can fail."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())
    os.close(sink)


def _version() -> str:
    try:
        return version("extractkit")
    except PackageNotFoundError:
        return "(not installed)"


def _own_options(verb: str, arguments: Sequence[str]) -> set[str]:
    given = {argument for argument in arguments if argument in _OPTIONS}
    for option in given:
        if verb not in _OPTIONS[option]:
            verbs = " and ".join(_OPTIONS[option])
            raise ConfigError(f"{option} belongs to {verbs}, not to {verb}")
    return given


def _overrides_first(arguments: Sequence[str]) -> list[str]:
    """The same arguments with the overrides in front: Hydra wants them in one place.

    Raises:
        ConfigError: a word that is no override, perhaps a misspelt verb.
    """
    overrides: list[str] = []
    flags: list[str] = []
    before = ""
    for argument in arguments:
        is_value = before in _VALUED or (before in _INFO and "=" not in argument)
        if argument.startswith("-") or is_value:
            flags.append(argument)
        elif "=" in argument or argument.startswith("~"):
            overrides.append(argument)
        else:
            raise ConfigError(
                f"{argument!r} is neither a verb (which comes first) nor an override. "
                f"{choices(argument, help_text.VERBS)} An override is key=value, as in model=bert"
            )
        before = argument
    return overrides + flags


def _extract(composed: "Composition") -> None:
    """Run one job; the last line on standard output is its directory."""
    from extractkit.display.progress import listening
    from extractkit.engine.execute import execute as extract
    from extractkit.engine.heap import return_large_buffers

    return_large_buffers()
    with redirect_stdout(sys.stderr), listening(sys.stderr) as listener:
        extract(
            composed.job, composed.directory, hydra_files=composed.hydra_files, listener=listener
        )
    write(f"{composed.directory}\n")


def _look(
    arguments: Sequence[str], answer: Callable[["Composition"], _Answer], *, as_json: bool
) -> int:
    """Print what there is to say of each job; as JSON, all of a sweep's jobs in one array."""
    documents: list[object] = []

    def look(composed: "Composition") -> None:
        # A model's own code may print; that is no part of the result.
        with redirect_stdout(sys.stderr):
            document, renderable = answer(composed)
        documents.append(document)
        if not as_json:
            _print(renderable)

    def fail(error: Exception) -> int:
        documents.append({"error": str(error)})  # jobs are told apart by their order
        return report(error)

    code = _launch(arguments, look, fail, dry=True)
    if as_json and (len(documents) > 1 or any(argument in _SWEEP for argument in arguments)):
        _print_json(documents)
    elif as_json and documents and code == DONE:
        _print_json(documents[0])
    return code


def _tensors(composed: "Composition") -> _Answer:
    from extractkit.display.tree import listing
    from extractkit.engine.opening import list_tensors

    found = list_tensors(composed.job)
    matched = {record.address for records in found.matches.values() for record in records}
    shown = [
        record.to_json()
        for record in found.catalog.records
        if not found.matches or record.address in matched
    ]
    return shown, listing(found.catalog, found.matches)


def _plan(composed: "Composition", *, exact: bool) -> _Answer:
    from extractkit.display.plan import overview
    from extractkit.engine.preview import preview
    from extractkit.runs.directory import check_unused

    check_unused(composed.directory)
    found = preview(composed.job, composed.directory, exact=exact)
    return found.to_json(), overview(found)


def _show(arguments: Sequence[str], *, as_json: bool) -> None:
    from extractkit.display.run import overview
    from extractkit.runs import manifest
    from extractkit.runs.schema import plain

    if len(arguments) != 1 or arguments[0].startswith("-"):
        given = " ".join(arguments) or "nothing"
        raise ConfigError(f"show takes one run directory, not {given}: extractkit show RUN")
    directory = Path(arguments[0])
    found = manifest.read(directory)
    if as_json:
        _print_json(plain(found))
    else:
        _print(overview(directory, found))


def _complete_after_verb() -> None:
    """Show Hydra's shell completion a line that it understands, without our verb."""
    program, *words = os.environ.get("COMP_LINE", "").split(" ")
    if len(words) > 1 and words[0] in help_text.VERBS:
        os.environ["COMP_LINE"] = " ".join([program, *words[1:]])


def _launch(
    arguments: Sequence[str],
    function: "Callable[[Composition], None]",
    fail: Callable[[Exception], int],
    *,
    dry: bool,
) -> int:
    """Do something for every job of the arguments; returns the worst of the exit codes."""
    from extractkit.config.app import launch

    # As with `python -m`; a user's own `_target_` may lie in the working directory.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    return max(launch(arguments, function, fail, dry=dry), default=DONE)


def _print(renderable: "RenderableType") -> None:
    from extractkit.display.console import render

    write(render(renderable, sys.stdout))


def _print_json(document: object) -> None:
    write(f"{json.dumps(document, indent=1)}\n")
