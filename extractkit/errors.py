"""The exceptions that extractkit raises on purpose.

ExtractkitError
├── UserError               a user's mistake: exit code 2, no traceback
│   ├── ConfigError         a key, an option, an override
│   ├── SelectionError      a selector that is malformed or matches nothing
│   │   └── UnknownTensorError  a lookup of a tensor that does not exist (a KeyError as well)
│   ├── ModelError          a model that cannot be found, read or traced
│   ├── InputError          samples that are missing, unreadable or do not fit the model
│   ├── MissingExtraError   an optional dependency or a weights package is not installed
│   ├── RunDirectoryError   a run directory that is taken, missing or damaged
│   └── DiskSpaceError      the disk cannot hold what the plan predicts
└── JobError                the job itself failed: exit code 1
    ├── SampleError         a model failed because of what a sample holds
    │   └── BadSampleError  … which `runtime.bad_samples=skip` can skip
    └── FinalError          an error that resuming the run cannot fix

A message names the config key, the value given, what exists (the nearest three) and the command to
try. `nearest` picks the three.
"""

import difflib
from collections.abc import Iterable

MISTAKEN = 2
"""Exit code of a `UserError`."""


class ExtractkitError(Exception):
    """Base of all errors that are raised on purpose."""


class UserError(ExtractkitError):
    """A user's mistake. The message explains how to correct it."""


class ConfigError(UserError):
    """A configuration key, option or override that does not exist, or a value that is not valid."""


class SelectionError(UserError):
    """A selector that is malformed, or matches nothing that can be extracted."""


class UnknownTensorError(SelectionError, KeyError):
    """A lookup of a tensor, a statistic or a result that a catalog or a run does not have."""

    # KeyError would print the message in quotes.
    __str__ = Exception.__str__


class ModelError(UserError):
    """A model that cannot be found, read, built or traced."""


class InputError(UserError):
    """Samples that are missing, unreadable, or do not fit the model's inputs."""


class MissingExtraError(UserError):
    """An optional dependency that is not installed. The message has the install command."""


class RunDirectoryError(UserError):
    """A run directory that is missing, taken, unfinished or damaged."""


class DiskSpaceError(UserError):
    """The disk cannot hold what the plan predicts."""


class JobError(ExtractkitError):
    """A job that failed while it ran, without a mistake in its configuration."""


class SampleError(JobError):
    """A model that failed because of a sample's values. Other samples may succeed.

    `runtime.bad_samples=skip` skips such samples. Any other failure ends the job.
    """


class BadSampleError(SampleError):
    """A model that failed on samples which `runtime.bad_samples=skip` can skip."""


class FinalError(JobError):
    """A failure that would recur if the run were resumed. The message names the remedy."""


def nearest(given: str, options: Iterable[str], count: int = 3) -> list[str]:
    """Return the `count` options most similar to `given`, best first."""
    unique = list(dict.fromkeys(options))
    scored = sorted(
        unique,
        key=lambda option: (-difflib.SequenceMatcher(None, given, option).ratio(), option),
    )
    return scored[:count]


def counted(number: int, one: str, several: str = "") -> str:
    """Format a count with its noun for a message: `1 sample`, `1,000 samples`, `2 axes`."""
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def choices(given: str, options: Iterable[str], count: int = 3) -> str:
    """Format options for a message: `Nearest: 'a', 'b', 'c'`, or all of them if they are few.

    If `given` is empty, a list of up to twenty options is shown whole.
    """
    listed = list(dict.fromkeys(options))
    if not listed:
        return "There is none."
    if len(listed) <= (2 * count if given else 20):
        return "Available: " + ", ".join(repr(option) for option in sorted(listed)) + "."
    return "Nearest: " + ", ".join(repr(option) for option in nearest(given, listed, count)) + "."
