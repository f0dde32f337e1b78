"""Every exception that extractkit raises on purpose.

ExtractkitError
├── UserError               a mistake in what the user wrote or gave: exit code 2, no traceback
│   ├── ConfigError         a key, an option, an override
│   ├── SelectionError      a selector that is malformed or matches nothing
│   │   └── UnknownTensorError  a lookup of a tensor that is not there (a KeyError as well)
│   ├── ModelError          a model that cannot be found, read or traced
│   ├── InputError          samples that are missing, unreadable or do not fit the model
│   ├── MissingExtraError   an optional dependency or a weights package is not installed
│   ├── RunDirectoryError   a run directory that is taken, missing or damaged
│   └── DiskSpaceError      the disk cannot hold what the plan predicts
└── JobError                the job itself failed: exit code 1
    ├── SampleError         a model failed because of what a sample holds
    │   └── BadSampleError  one that the message names, or the first ones: they can be left out
    └── FinalError          going on with the run cannot mend it

A message names the config key, what was given, what exists (the nearest three) and the command to
try; `nearest` picks those three.
"""

import difflib
from collections.abc import Iterable

MISTAKEN = 2
"""Exit code of a `UserError`."""


class ExtractkitError(Exception):
    """Base of all errors raised on purpose."""


class UserError(ExtractkitError):
    """A mistake in what the user wrote or gave; the message says how to mend it."""


class ConfigError(UserError):
    """A configuration key, option or override that does not exist or does not fit."""


class SelectionError(UserError):
    """A selector that is malformed, or matches nothing that can be extracted."""


class UnknownTensorError(SelectionError, KeyError):
    """A catalog or a run was asked for a tensor that it does not have."""

    # KeyError would print the message with quotes around it.
    __str__ = Exception.__str__


class ModelError(UserError):
    """A model that cannot be found, read, built or traced."""


class InputError(UserError):
    """Samples that are missing, unreadable, or do not fit the model's inputs."""


class MissingExtraError(UserError):
    """An optional dependency is not installed; the message holds the install command."""


class RunDirectoryError(UserError):
    """A run directory that is missing, taken, unfinished or damaged."""


class DiskSpaceError(UserError):
    """The disk cannot hold what the plan predicts."""


class JobError(ExtractkitError):
    """The job failed while it ran, through no mistake in its configuration."""


class SampleError(JobError):
    """A model failed as the values of a sample can cause it: others may do.

    `runtime.bad_samples=skip` passes such samples over. Whatever else fails ends the job.
    """


class BadSampleError(SampleError):
    """A model failed on samples that `runtime.bad_samples=skip` leaves out; it would again."""


class FinalError(JobError):
    """The job failed, and going on with its run would end the same; the message says what helps."""


def nearest(given: str, options: Iterable[str], count: int = 3) -> list[str]:
    """The `count` options most like `given`, best first; fewer only where fewer exist."""
    unique = list(dict.fromkeys(options))
    scored = sorted(
        unique,
        key=lambda option: (-difflib.SequenceMatcher(None, given, option).ratio(), option),
    )
    return scored[:count]


def choices(given: str, options: Iterable[str], count: int = 3) -> str:
    """`Nearest: 'a', 'b', 'c'`, or all of them where there are no more than a handful.

    Where nothing was given, nothing is near: a list of up to twenty is told as a whole.
    """
    listed = list(dict.fromkeys(options))
    if not listed:
        return "There is none."
    if len(listed) <= (2 * count if given else 20):
        return "Available: " + ", ".join(repr(option) for option in sorted(listed)) + "."
    return "Nearest: " + ", ".join(repr(option) for option in nearest(given, listed, count)) + "."
