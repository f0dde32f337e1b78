"""What becomes of a process that does something risky: it answers, refuses, raises, dies, hangs."""

import os
import select
import signal
from collections.abc import Callable
from enum import StrEnum

from extractkit.errors import ExtractkitError


class Outcome(StrEnum):
    """How it ended; the first two are what a user may see."""

    ANSWERED = "answered"
    REFUSED = "refused"
    TRACEBACK = "traceback"
    DIED = "died"
    HUNG = "hung"

    @property
    def allowed(self) -> bool:
        """Whether a user may see it."""
        return self in (Outcome.ANSWERED, Outcome.REFUSED)


def outcome(action: Callable[[], object], seconds: float = 60.0) -> tuple[Outcome, str]:
    """Run the action in a forked child; the outcome and the last words, or what it returned."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        words, code = "", 0
        try:
            answer = action()
            words = answer if isinstance(answer, str) else ""
        except ExtractkitError as error:
            words, code = str(error), 2
        except BaseException as error:  # noqa: BLE001 - that nothing else escapes is the question
            words, code = f"{type(error).__name__}: {error}", 3
        os.write(writing, words.encode(errors="replace")[:4000])
        os._exit(code)
    os.close(writing)
    status = _ended(child, seconds)
    with os.fdopen(reading, "rb") as pipe:
        words = pipe.read().decode(errors="replace")
    if status is None:
        return Outcome.HUNG, words
    if os.WIFSIGNALED(status):
        return Outcome.DIED, signal.Signals(os.WTERMSIG(status)).name
    by_code = {0: Outcome.ANSWERED, 2: Outcome.REFUSED, 3: Outcome.TRACEBACK}
    return by_code.get(os.WEXITSTATUS(status), Outcome.DIED), words


def _ended(child: int, seconds: float) -> int | None:
    """The child's status; None where it had to be killed."""
    descriptor = os.pidfd_open(child)
    try:
        ended, _, _ = select.select([descriptor], [], [], seconds)
    finally:
        os.close(descriptor)
    if not ended:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return status if ended else None
