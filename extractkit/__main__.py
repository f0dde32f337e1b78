"""`python -m extractkit` and the console script: the only place that ends the process.

Exit codes: 0 done; 1 a job or a check failed; 2 a mistake in what the user wrote; 130 interrupted.
"""

import signal
import sys
from io import TextIOWrapper


def main() -> None:
    """Run the program with the process's arguments, and exit."""
    # What a batch system sends before it kills: a run then ends as if it were interrupted by hand.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A terminal that knows no "├" gets an escape in its place, not an exception.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _ended()
    except KeyboardInterrupt:
        # So early, or so late, that nothing else has said so.
        sys.stderr.write("extractkit: interrupted\n")
        code = 130
    sys.exit(code)


def _ended() -> int:
    """What became of it, as an exit code."""
    # Imported here, so that an interruption while modules are imported ends like any other.
    from extractkit import cli
    from extractkit.commands.output import drop_output

    try:
        code = cli.execute(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()
        code = cli.DONE
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever it is, it is reported
        code = cli.report(error)
    return code


if __name__ == "__main__":
    main()
