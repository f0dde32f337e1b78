"""The command line: verbs, options and exit codes. `commands` holds what each verb does.

Modules that take long to import are imported late, so that `--help` and `show` respond at once.
"""

import errno
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from extractkit import errors
from extractkit.advice import command
from extractkit.commands import handover, jobs, runs
from extractkit.commands.arguments import (
    check_keys,
    check_verb,
    is_sweep,
    overrides_first,
    spell_out,
    split_verb,
    taken,
)
from extractkit.commands.completion import completion
from extractkit.commands.doctor import doctor
from extractkit.commands.init import init
from extractkit.commands.verbs import EXACT, FAIL_FAST, JSON, TRUST, VERBS, of_verb, overview
from extractkit.config import GROUPS, options, with_run_dir
from extractkit.display import printable, write
from extractkit.errors import ConfigError, ExtractkitError, UserError

DONE, FAILED, MISTAKEN, INTERRUPTED = 0, 1, errors.MISTAKEN, 130
"""Exit codes: done; the job or a check failed; a mistake in what the user wrote; interrupted."""

# Flags of verbs on jobs, which Hydra does not know.
_FLAGS = {option.flag for option in (JSON, EXACT, FAIL_FAST)}
_HELP = ("--help", "-h")
_ON_FILES = {
    "show": runs.show,
    "report": runs.report,
    "export": handover.export,
    "join": runs.join,
    "rerun": runs.rerun,
    "verify": runs.verify,
    "sign": handover.sign,
    "crate": handover.crate,
    "diff": runs.diff,
    "similarity": runs.similarity,
    "init": init,
    "completion": completion,
    "doctor": doctor,
}


def execute(arguments: Sequence[str]) -> int:
    """Run the command that the arguments describe and return the exit code.

    Raises:
        UserError: a mistake in the arguments. Those of single jobs are reported as they happen.
    """
    check_verb(arguments)
    named, rest = split_verb(arguments)
    verb = named or "run"
    if any(argument in _HELP for argument in rest):
        groups = {group: options(group) for group in GROUPS}
        write(of_verb(verb) if named else overview(groups))
        return DONE
    if rest == ["--version"]:
        write(f"extractkit {_version()}\n")
        return DONE
    if verb in _ON_FILES:
        return DONE if _ON_FILES[verb](rest) else FAILED
    if verb == "resume":
        return max(runs.resume(rest, report), default=DONE)
    check_keys(arguments, rest)
    spelt, found = spell_out(rest)
    trusted, rest = taken(spelt, TRUST.flag)
    flags = _flags(verb, rest)
    rest = overrides_first([argument for argument in rest if argument not in flags])
    rest = with_run_dir(rest, swept=is_sweep(rest))
    if found:
        whole = command(verb, *spelt)
        sys.stderr.write(printable(f"extractkit: {found[0]}. In full: {whole}\n"))
    if verb == "run":
        failures = jobs.run(rest, report, trusted, fail_fast=FAIL_FAST.flag in flags)
    elif verb == "tensors":
        failures = jobs.tensors(rest, report, trusted, as_json=JSON.flag in flags)
    else:
        exact = EXACT.flag in flags
        failures = jobs.plan(rest, report, trusted, as_json=JSON.flag in flags, exact=exact)
    return max(failures, default=DONE)


def report(error: BaseException) -> int:
    """Print an error on standard error and return its exit code."""
    if _interrupted(error):
        sys.stderr.write("extractkit: interrupted\n")
        return INTERRUPTED
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        # No file that exists has such a name, so it is one that the user gave.
        name = max(Path(str(error.filename)).parts, key=len)[:60]
        error = ConfigError(f"'{name}…' cannot be looked up: {error.strerror}")
    if isinstance(error, ExtractkitError):
        sys.stderr.write(printable(f"extractkit: {error}\n"))
    else:
        sys.stderr.write(printable("".join(traceback.format_exception(error))))
    return MISTAKEN if isinstance(error, UserError) else FAILED


def _interrupted(error: BaseException | None) -> bool:
    """Return whether an interruption caused the error. One during an import may be wrapped."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # a library may raise an error from itself
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.add(id(error))
        error = error.__cause__
    return False


def _version() -> str:
    try:
        return version("extractkit")
    except PackageNotFoundError:
        return "(not installed)"


def _flags(verb: str, arguments: Sequence[str]) -> set[str]:
    given = {argument for argument in arguments if argument in _FLAGS}
    for option in given:
        users = [
            name
            for name, one in VERBS.items()
            if not one.operands and option in {known.flag for known in one.options}
        ]
        if verb not in users:
            raise ConfigError(f"{option} belongs to {' and '.join(users)}, not to {verb}")
    return given
