"""`python -m extractkit` and the console script: the only module that ends the process.

Exit codes: 0 done; 1 a job or a check failed; 2 a mistake in what the user wrote; 130 interrupted.
"""

import atexit
import gc
import os
import signal
import sys
import time
from contextlib import suppress
from io import TextIOWrapper

_INTERRUPTED = 130
_SECONDS_TO_TIDY = 5.0


def main() -> None:
    """Run the program with the process's arguments, and exit."""
    interruption = _Interruption()
    _open_streams()
    # A terminal without "├" gets an escape instead of an exception.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _ended()
        interruption.too_late()
    except KeyboardInterrupt:
        # Too early or too late for any other report.
        code = _INTERRUPTED
        with suppress(OSError):
            sys.stderr.write("extractkit: interrupted\n")
    except OSError:
        # Standard error is closed together with its terminal.
        code = _INTERRUPTED if interruption.happened else 1
    finally:
        interruption.too_late()
    # Python collects garbage before it takes down its modules, and once more while it does. The
    # second time finds it all. The first takes half a second once TensorFlow is imported.
    gc.disable()
    sys.exit(code)


def _open_streams() -> None:
    """Replace standard streams that were closed from the start (`>&-`) by the null device.

    Otherwise, the next file to be opened would take its place, and get what is written to it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 - lasts to the end


class _Interruption:
    """Signals that stop a job so that it can be resumed: Ctrl-C, SIGTERM, a closing terminal.

    The first signal interrupts. Impatient users send several, so further signals do not disturb an
    orderly end. After some seconds, one more ends the process at once, which does not damage a run.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._process = os.getpid()
        self._since: float | None = None
        self.happened = False
        self._caught = [
            # Signals that are ignored from the start stay ignored, as `nohup` requires.
            number
            for number in self._SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN
        ]
        for number in self._caught:
            signal.signal(number, self._signalled)
        # Python restores the system's signal handling before it has shut down.
        atexit.register(self._ignore)

    def too_late(self) -> None:
        """Ignore further signals, because the process is ending."""
        if self._since is None:
            self._since = time.monotonic()

    def _signalled(self, number: int, frame: object) -> None:
        forked = os.getpid() != self._process
        if self._since is None or forked:
            self._since = time.monotonic()
            self.happened = True
            raise KeyboardInterrupt
        if time.monotonic() - self._since > _SECONDS_TO_TIDY:
            os._exit(_INTERRUPTED)

    def _ignore(self) -> None:
        for number in self._caught:
            signal.signal(number, signal.SIG_IGN)


def _ended() -> int:
    """Return the exit code."""
    if sys.argv[1:2] == ["completion"] and sys.argv[3:4] == ["--"]:
        # A shell waits at each press of Tab, so nothing that only other verbs need is imported.
        from extractkit.commands.completion import SHELLS, answer

        if sys.argv[2] in SHELLS:
            sys.stdout.write(answer(sys.argv[2], sys.argv[4:]))
            return 0
    # Imported here, so that an interruption while modules are imported ends like any other.
    from extractkit import cli
    from extractkit.display import drop_output

    try:
        code = cli.execute(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()
        code = cli.DONE
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - every error is reported
        code = cli.report(error)
    return code


if __name__ == "__main__":
    main()
