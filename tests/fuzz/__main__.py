"""What others may have written, damaged: `python -m tests.fuzz --cases 200 [SUBJECT …]`.

Subjects are the program's `configs`, its `runs`, and each format of model files. Prints how the
cases of each ended, and every case that a user must not see; ends with 1 where there was one. A
case is reported by its number, and is the same every time.
"""

import argparse
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.fuzz import configs, runs
from tests.fuzz.program import Case

_OF_THE_PROGRAM = {"configs": configs.cases, "runs": runs.cases}


def main() -> int:
    """Run the cases that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help="configs, runs, tflite, …")
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    faults = 0
    for name in given.subjects or (*_OF_THE_PROGRAM, *_formats()):
        with tempfile.TemporaryDirectory() as scratch:
            case = _cases(name, Path(scratch).resolve())
            endings: Counter[str] = Counter()
            for seed in range(given.first, given.first + given.cases):
                ending, fault = case(seed)
                endings[ending] += 1
                if fault is not None:
                    faults += 1
                    print(f"  {name} {seed}: {fault}", flush=True)
            counts = ", ".join(f"{count} {ending}" for ending, count in sorted(endings.items()))
            print(f"{name}: {counts}", flush=True)
    return 1 if faults else 0


def _cases(name: str, scratch: Path) -> Case:
    if name in _OF_THE_PROGRAM:
        os.environ["PATH"] = ""  # no git: every call would wait for two processes
        return _OF_THE_PROGRAM[name](scratch)
    from tests.fuzz import files

    return files.cases(name, scratch)


def _formats() -> tuple[str, ...]:
    # Imported late: a process that forks for configs and runs is better without TensorFlow.
    from tests.fuzz.examples import EXAMPLES

    return tuple(EXAMPLES)


if __name__ == "__main__":
    sys.exit(main())
