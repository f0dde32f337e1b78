"""Methods of other packages' classes, and functions of their modules, replaced for a while.

A class or module is shared by every thread: two that take its method and put it back in turn may
leave it replaced for good. So one lock is held from taking to putting back, and other threads get
the original all the while.
"""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_lock = threading.RLock()


@contextmanager
def patched(
    owner: type | ModuleType,
    name: str,
    replacing: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> Iterator[None]:
    """Replace a method within the block, for calls of this thread.

    Args:
        owner: the class, or the module.
        name: of the method, its own or inherited, or of the function.
        replacing: makes the new method from the one that is there, which is only known for sure
            once no other thread can change it.
    """
    with _lock:
        is_own = name in vars(owner)
        original = getattr(owner, name)
        replacement = replacing(original)
        thread = threading.get_ident()

        # Keras asks methods for their signature; marks that packages put on functions stay off.
        @functools.wraps(original, updated=())
        def called(*args: Any, **kwargs: Any) -> Any:
            method = replacement if threading.get_ident() == thread else original
            return method(*args, **kwargs)

        setattr(owner, name, called)
        try:
            yield
        finally:
            if is_own:
                setattr(owner, name, original)
            else:
                delattr(owner, name)
