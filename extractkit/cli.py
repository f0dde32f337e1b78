"""The command line: verbs, and what they print. Results go to standard output, all else to stderr.

Whatever takes long to import is imported where it is used: `--help` and `show` answer at once.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from importlib.metadata import version
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
           "--config-dir", "-cd")  # fmt: skip

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
        write(f"extractkit {version('extractkit')}\n")
        return DONE
    given = _own_options(verb, rest)
    rest = [argument for argument in rest if argument not in given]
    if verb == "show":
        _show(rest, as_json=_JSON in given)
        return DONE
    overrides = _overrides_first(rest)
    _check_words(overrides)
    if verb == "run":
        return _run(overrides)
    answer = _tensors if verb == "tensors" else _exact_plan if _EXACT in given else _plan
    return _look(overrides, answer, as_json=_JSON in given)


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


def _own_options(verb: str, arguments: Sequence[str]) -> set[str]:
    given = {argument for argument in arguments if argument in _OPTIONS}
    for option in given:
        if verb not in _OPTIONS[option]:
            raise ConfigError(f"{option} belongs to {' and '.join(_OPTIONS[option])}, not to {verb}")
    return given


def _overrides_first(arguments: Sequence[str]) -> list[str]:
    """The same arguments with the overrides in front: Hydra wants them in one place."""
    overrides: list[str] = []
    flags: list[str] = []
    before = ""
    for argument in arguments:
        is_value = before in _VALUED or (before in ("--info", "-i") and "=" not in argument)
        (flags if argument.startswith("-") or is_value else overrides).append(argument)
        before = argument
    return overrides + flags


def _check_words(arguments: Sequence[str]) -> None:
    """Refuse a first word that was meant as a verb."""
    word = arguments[0] if arguments else ""
    if word.isidentifier() and len(arguments) == len({*arguments} - {*help_text.VERBS} | {word}):
        raise ConfigError(
            f"{word!r} is neither a verb nor an override. {choices(word, help_text.VERBS)} An "
            f"override is key=value, as in model=bert"
        )


def _run(arguments: Sequence[str]) -> int:
    return _launch(arguments, _extract, dry=False)


def _extract(composed: "Composition") -> None:
    """Run one job; the last line on standard output is its directory."""
    from extractkit.display.progress import listening
    from extractkit.engine.execute import execute as extract

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
        if as_json:
            documents.append(document)
        else:
            _print(renderable)

    code = _launch(arguments, look, dry=True)
    if as_json and any(argument in _SWEEP for argument in arguments):
        _print_json(documents)
    elif as_json and documents:
        _print_json(documents[0])
    return code


def _tensors(composed: "Composition") -> _Answer:
    from extractkit.display.tree import listing
    from extractkit.engine.opening import list_tensors

    found = list_tensors(composed.job)
    shown = _union(found.matches.values()) if found.matches else None
    records = [
        record.to_json()
        for record in found.catalog.records
        if shown is None or record.address in shown
    ]
    return records, listing(found.catalog, found.matches)


def _plan(composed: "Composition", exact: bool = False) -> _Answer:
    from extractkit.display.plan import overview
    from extractkit.engine.preview import preview
    from extractkit.runs.directory import check_unused

    check_unused(composed.directory)
    found = preview(composed.job, composed.directory, exact=exact)
    return found.to_json(), overview(found)


def _exact_plan(composed: "Composition") -> _Answer:
    return _plan(composed, exact=True)


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


def _launch(arguments: Sequence[str], function: "Callable[[Composition], None]", dry: bool) -> int:
    from extractkit.config.app import launch

    # As with `python -m`; a user's own `_target_` may lie in the working directory.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    failures = launch(arguments, function, report, dry=dry)
    return max((_exit_code(failure) for failure in failures), default=DONE)
