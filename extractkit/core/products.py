"""Matrix products whose bits do not depend on the number of threads."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock

from threadpoolctl import ThreadpoolController

_LOCK = Lock()


@cache
def _controller() -> ThreadpoolController:
    """Return the controller of the libraries that NumPy has loaded. Finding them takes a while."""
    return ThreadpoolController()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let BLAS and LAPACK use one thread.

    With several threads they divide sums, so that the last bits of a product would depend on the
    number of cores. The limit is that of the process, so one caller at a time sets it.
    """
    with _LOCK, _controller().limit(limits=1, user_api="blas"):
        yield
