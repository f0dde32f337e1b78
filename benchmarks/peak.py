"""`python -m benchmarks.peak COMMAND …`: run a command and print its peak resident bytes.

A process of its own, for a child starts out with its parent's peak, and this one is small.
"""

import resource
import subprocess
import sys
from collections.abc import Sequence


def peak_of(arguments: Sequence[str]) -> int:
    """Return the peak resident bytes of extractkit with these arguments."""
    command = (sys.executable, "-m", "extractkit", *arguments)
    measured = subprocess.run(
        [sys.executable, "-m", "benchmarks.peak", *command], stdout=subprocess.PIPE, check=True
    )
    return int(measured.stdout)


if __name__ == "__main__":
    done = subprocess.run(
        sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    )
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
    sys.exit(done.returncode)
