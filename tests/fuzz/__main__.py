"""Every loader against damaged files: `python -m tests.fuzz --cases 200 [FORMAT …]`.

Prints how the cases of each format ended, and every case that a user must not see; ends with 1
where there was one. A case is told by its number, and is the same every time.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.fuzz.damage import damaged
from tests.fuzz.examples import EXAMPLES, load_and_list
from tests.fuzz.outcomes import Outcome, outcome


def main() -> int:
    """Run the cases that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help=", ".join(EXAMPLES))
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    faults = 0
    with tempfile.TemporaryDirectory() as scratch:
        for name in given.formats or EXAMPLES:
            folder = Path(scratch) / name
            folder.mkdir()
            example = EXAMPLES[name](folder)
            ended: Counter[Outcome] = Counter()
            for seed in range(given.first, given.first + given.cases):
                target = Path(scratch) / "cases" / str(seed) / example.name
                what = damaged(example, target, seed)
                how, words = outcome(lambda name=name, target=target: load_and_list(name, target))
                ended[how] += 1
                if not how.allowed:
                    faults += 1
                    print(f"  {name} {seed}: {how}: {what}: {words[:300]}", flush=True)
            counts = ", ".join(f"{count} {how}" for how, count in sorted(ended.items()))
            print(f"{name}: {counts}", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
