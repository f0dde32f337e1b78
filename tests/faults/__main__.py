"""Faults brought upon runs: `python -m tests.faults [NAME[=COUNT] …] [--seed S]`.

Prints a table of figures for each campaign, and every fault found; ends with 1 where there was one.
This process imports no TensorFlow and starts no thread, so it can fork a child in an instant.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.faults import bits, full_disk, kills, parts, power, workers
from tests.faults.figures import Figures

Campaign = Callable[[Path, int | None, int], Figures]

CAMPAIGNS: Mapping[str, Campaign] = {
    "kills": kills.every_instant,
    "checkpoint-kills": kills.every_instant_over_checkpoints,
    "carry-kills": kills.every_instant_carrying,
    "random-kills": kills.random_instants,
    "parts": parts.every_instant,
    "workers": workers.killed_processes,
    "ray-workers": workers.killed_actors,
    "power": power.every_call,
    "bits": bits.flipped,
    "full-disk": full_disk.filling_up,
    "refusals": full_disk.refusing,
    "file-sizes": full_disk.limited,
    "tmpfs": full_disk.really_full,
}

_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where runs are made: what was forced out is known from the calls, and need not reach a disk."""


def main() -> int:
    """Run the campaigns that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "campaigns",
        nargs="*",
        metavar="NAME[=COUNT]",
        help=f"{', '.join(CAMPAIGNS)}; COUNT of faults, without it all or a usual number",
    )
    parser.add_argument("--seed", type=int, default=0, help="another one chooses other faults")
    parser.add_argument("--json", action="store_true", help="print the figures for programs")
    given = parser.parse_args()
    os.environ["PATH"] = ""  # no git: each job would wait for two processes
    faults = 0
    for campaign in given.campaigns or CAMPAIGNS:
        name, _, number = campaign.partition("=")
        count = int(number) if number else None
        with tempfile.TemporaryDirectory(dir=_MEMORY) as scratch:
            figures = CAMPAIGNS[name](Path(scratch).resolve(), count, given.seed)
        faults += len(figures.faults)
        for fault in figures.faults:
            print(f"  {name}: {fault}", file=sys.stderr)
        if given.json:
            print(json.dumps({"campaign": name, **figures.counts}), flush=True)
        else:
            print(f"{name}\n{figures.table()}", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
